// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace psa::engine {

/// The counter-based generator Philox4x32-10 (Salmon et al., SC 2011): four random words of a
/// counter and a key.
[[nodiscard]] std::array<std::uint32_t, 4> philox4x32_10(std::array<std::uint32_t, 4> counter,
                                                         std::array<std::uint32_t, 2> key);

/// Fills `out` with independent normal numbers (mean 0, variance 1) of `seed`. Element i depends on
/// the seed and on i only, so a longer output begins with a shorter one.
///
/// Elements 2k and 2k+1 come from philox4x32_10({k, k >> 32, 0, 0}, {seed, seed >> 32}) = w by
/// Box-Muller in double: with a = w1:w0 >> 11 and b = w3:w2 >> 11 (53 bits each),
/// r = sqrt(-2 log((a + 1) / 2^53)) and t = 2 pi b / 2^53 they are r cos t and r sin t, rounded to
/// float. Logarithm, sine and cosine are computed here by +, -, *, / and sqrt alone, which IEEE 754
/// fixes, and not by the C library, whose last bit differs between versions: a seed gives the same
/// bits on every machine.
void fill_normal(std::uint64_t seed, std::span<float> out);

}  // namespace psa::engine
