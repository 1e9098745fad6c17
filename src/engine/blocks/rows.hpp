// SPDX-License-Identifier: Apache-2.0
#pragma once

// Element-wise work on one row (the channels of one token). Each function exists for AVX-512, AVX2
// and plain x86-64; the processor's best is bound when the program starts. Sums are float, in an
// order that depends on the instruction set but not on threads.

#include <cstdint>

#include "psa/types.hpp"

namespace psa::engine {

/// out = (x - mean(x)) / sqrt(var(x) + eps) * scale + shift, all [dim]. `out` may be `x`.
void layer_norm(const float* x, index_t dim, float eps, const float* scale, const float* shift,
                float* out);

/// x = x / sqrt(mean(x^2) + eps) * weight, all [dim].
void rms_norm(float* x, index_t dim, float eps, const float* weight);

/// Turns each pair (x[2i], x[2i+1]) of each head by the angle whose cosine and sine are
/// `cosine[i]` and `sine[i]`. x [heads, 2 * pairs]; cosine, sine [pairs].
void rotate_pairs(float* x, index_t heads, index_t pairs, const float* cosine, const float* sine);

/// x += y * gate, all [count].
void add_gated(float* x, const float* y, const float* gate, index_t count);

/// x += y, both [count].
void add(float* x, const float* y, index_t count);

/// Rounds to nearest even. out [count].
void round_to_bf16(const float* x, index_t count, std::uint16_t* out);

}  // namespace psa::engine
