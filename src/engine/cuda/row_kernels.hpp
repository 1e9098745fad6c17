// SPDX-License-Identifier: Apache-2.0
#pragma once

// What lies between the matrix products, on the device: element-wise work on rows (the channels of
// one token), as in engine/blocks/rows.hpp. All functions queue their work in `stream`. Sums are
// float, in an order that depends on the row's length alone. bf16 is stored as std::uint16_t.

#include <cstdint>

#include "engine/blocks/patches.hpp"
#include "psa/types.hpp"

namespace psa::engine {

/// Rows are read in vectors of 16 bytes and kept in registers.
inline constexpr index_t kRowVector = 8;
inline constexpr index_t kMaxRowDim = 8192;

struct AddNorm {
  index_t rows = 0;
  index_t dim = 0;  ///< a multiple of kRowVector, up to kMaxRowDim
  float eps = 0;
  float* x = nullptr;                ///< [rows, dim], the residual stream
  const std::uint16_t* y = nullptr;  ///< [rows, dim] bf16; null: nothing is added to x
  const float* gate = nullptr;       ///< [dim]; null: 1
  const float* scale = nullptr;      ///< [dim]; null: x is not normalised
  const float* shift = nullptr;      ///< [dim], if scale is given
  void* out = nullptr;               ///< [rows, dim]
  DType out_dtype = DType::kBF16;    ///< or kF32
};
/// x += gate * y, then out = (x - mean(x)) / sqrt(var(x) + eps) * scale + shift.
void add_norm(const AddNorm& call, Stream stream);

struct NormRotate {
  index_t rows = 0;
  index_t parts = 1;       ///< tensors that lie side by side in a row: q and k
  index_t dim = 0;         ///< of one of them; as in AddNorm
  index_t row_stride = 0;  ///< values from row to row; a multiple of kRowVector
  float eps = 0;
  std::uint16_t* x = nullptr;       ///< [rows, parts, dim] bf16, in place
  const float* weight = nullptr;    ///< [parts, dim]
  const float* rotation = nullptr;  ///< [rows, head_dim / 2, 2]: cosine, sine; null: none
  index_t head_dim = 0;             ///< even, at least 6, if rotation is given
};
/// x = x / sqrt(mean(x^2) + eps) * weight, then each pair (x[2i], x[2i+1]) of a head is turned by
/// the angle i of its row.
void norm_rotate(const NormRotate& call, Stream stream);

/// out[r, i] = table[r, i] + condition[r mod condition_rows, i], plus 1 where r mod 3 is 1: rows
/// are shift, scale and gate in turn, or shift and scale, and norms multiply by 1 + scale.
struct Modulation {
  index_t rows = 0;
  index_t dim = 0;
  const float* table = nullptr;      ///< [rows, dim]
  const float* condition = nullptr;  ///< [condition_rows, dim]
  index_t condition_rows = 1;
  float* out = nullptr;  ///< [rows, dim]
};
void modulate(const Modulation& call, Stream stream);

/// out = x / (1 + exp(-x)), both [count]; `out` may be `x`.
void silu(const float* x, index_t count, float* out, Stream stream);

/// out [count] bf16, rounded to nearest even.
void to_bf16(const float* x, index_t count, std::uint16_t* out, Stream stream);

/// gather_patch() of all tokens: latent -> patches [tokens, channels * patch volume].
void gather_patches(const PatchLayout& layout, index_t channels, const float* latent,
                    float* patches, Stream stream);

/// scatter_patch() of all tokens.
void scatter_patches(const PatchLayout& layout, index_t channels, const float* patches,
                     float* latent, Stream stream);

}  // namespace psa::engine
