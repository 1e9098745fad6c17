// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "psa/types.hpp"

// Tile kernels of the CPU backend: everything that touches attention data in a hot loop.
//
// One "query pack" (1..128 query rows of one head) meets one "tile" (1..128 rows of keys and values
// of that head's KV head, from any mix of pyramid levels). Lanes are queries: a vector register
// holds consecutive queries at one channel or key, so soft-max needs no horizontal reduction, and
// keys and values are read as scalars that are broadcast. All matrices that have queries are stored
// transposed and cut into groups of 64 queries (the last group may have 16, 32 or 48):
//
//   query pack  Q   [group][channel][query]   f32, or bf16 pairs [group][channel / 2][query][2]
//   scores      S^T [group][key][query]       f32; overwritten in place by the probabilities P
//   output      O^T [group][channel][query]   f32, not normalised
//   key tile    K   [key][channel]            f32, or bf16 (even row length)
//   value tile  V   [key][channel]            f32, or bf16 pairs [key / 2][channel][2]
//
// Nobody outside tile-inl.hpp relies on these layouts, except that S^T may be used as [key][query]
// through `score_at`. The order of work per query pack:
//
//   pack_queries; reset_output;
//   per tile: load_keys + load_values (one or more pieces, `at` rising); attend;
//   store_output.
//
// Soft-max is in base 2: logit_log2 = dot * scale_log2 + bias_log2[key]; scale_log2 =
// softmax_scale * log2(e), bias_log2 = ln(weight) * log2(e). Queries are packed as they are and the
// dot product is scaled, so bf16 is not rounded a second time. Logits at or below -2^100 count as
// hidden.
//
// Rules for all kernels: no allocation, no state, thread-safe, deterministic. Buffers come from the
// caller, 64-byte aligned, with the sizes of the functions below. A NaN or Inf reaches only the
// queries that see it. Finite logits never give NaN. Preconditions are not checked here.
namespace psa::cpu {

/// Type of the operands of the two matrix products. Sums, soft-max and outputs are always float.
enum class Compute : std::uint8_t { kF32, kBF16 };

inline constexpr int kMaxQueries = 128;   ///< rows of a query pack
inline constexpr int kMaxTileKeys = 128;  ///< rows of a key or value tile
inline constexpr int kGroupQueries = 64;  ///< queries that are contiguous in S^T and O^T
inline constexpr int kLaneQueries = 16;   ///< query packs are padded to a multiple of this
inline constexpr std::size_t kTileAlignment = 64;

/// Rows of the pack in memory; the rows past `rows` are zero queries.
[[nodiscard]] constexpr int padded_queries(int rows) {
  return (rows + kLaneQueries - 1) / kLaneQueries * kLaneQueries;
}

/// Channels of a row in memory: bf16 rows are padded to pairs with a zero.
[[nodiscard]] constexpr int padded_channels(Compute compute, int head_dim) {
  return compute == Compute::kBF16 ? (head_dim + 1) / 2 * 2 : head_dim;
}

[[nodiscard]] constexpr std::size_t element_bytes(Compute compute) {
  return compute == Compute::kBF16 ? 2 : 4;
}

[[nodiscard]] constexpr std::size_t query_pack_bytes(Compute compute, int rows, int head_dim) {
  return static_cast<std::size_t>(padded_queries(rows)) *
         static_cast<std::size_t>(padded_channels(compute, head_dim)) * element_bytes(compute);
}

/// Of a key tile and of a value tile alike, for kMaxTileKeys rows.
[[nodiscard]] constexpr std::size_t tile_bytes(Compute compute, int head_dim) {
  return static_cast<std::size_t>(kMaxTileKeys) *
         static_cast<std::size_t>(padded_channels(compute, head_dim)) * element_bytes(compute);
}

[[nodiscard]] constexpr std::size_t score_floats(int rows) {
  return static_cast<std::size_t>(padded_queries(rows)) * kMaxTileKeys;
}

[[nodiscard]] constexpr std::size_t output_floats(int rows, int head_dim) {
  return static_cast<std::size_t>(padded_queries(rows)) * static_cast<std::size_t>(head_dim);
}

/// Where S^T[key][query] lies in `scores` of a pack of `rows` rows (before `softmax` replaces it).
[[nodiscard]] constexpr std::size_t score_at(int rows, int key, int query) {
  const int begin = query / kGroupQueries * kGroupQueries;
  const int width = std::min(kGroupQueries, padded_queries(rows) - begin);
  return static_cast<std::size_t>(begin) * kMaxTileKeys +
         static_cast<std::size_t>(key) * static_cast<std::size_t>(width) +
         static_cast<std::size_t>(query - begin);
}

/// Rows of one head of q, k or v (or of a pyramid level). Row r of a piece lies at row number
/// `index ? index[first + r] : first + r`, `stride` elements apart; channels are contiguous.
struct InputRows {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  index_t stride = 0;
  index_t first = 0;
  const std::int32_t* index = nullptr;
};

/// Rows of one head of out, numbered like InputRows; lse (may be null) uses the same row numbers.
struct OutputRows {
  void* data = nullptr;
  DType dtype = DType::kF32;
  index_t stride = 0;
  index_t first = 0;
  const std::int32_t* index = nullptr;
  float* lse = nullptr;
};

/// Real query rows (1..kMaxQueries) and channels (1..256).
struct PackShape {
  int rows = 0;
  int head_dim = 0;
};

/// Where a piece of rows goes: tile rows [at, at + count), at + count <= kMaxTileKeys. Pieces are
/// appended in rising order without gaps; a piece at 0 starts the tile anew.
struct TileSlot {
  void* tile = nullptr;
  int head_dim = 0;
  int at = 0;
  int count = 0;
};

/// How a dot product becomes a logit: dot * scale_log2 + bias_log2[key], or -inf if hidden.
struct LogitRule {
  float scale_log2 = 1.0F;
  const float* bias_log2 = nullptr;  ///< [keys], finite; null: all 0
  const std::int32_t* first_query =
      nullptr;  ///< [keys]; key is visible to queries >= this; null: all
};

/// Online soft-max of each query, [padded_queries] each: maximum of the visible logits so far (-inf
/// while there was none) and sum of exp2(logit - maximum).
struct SoftmaxState {
  float* max_log2 = nullptr;
  float* sum = nullptr;
  float* rescale = nullptr;  ///< scratch: from `softmax` to `accumulate`
};

/// One query pack against one tile. Each kernel reads only the members that it names.
struct TileStep {
  PackShape shape;
  int keys = 0;  ///< rows of the tile in use, 1..kMaxTileKeys
  LogitRule rule;
  const void* queries = nullptr;  ///< query pack
  const void* key_tile = nullptr;
  const void* value_tile = nullptr;
  bool values_finite = true;  ///< all of load_values' results for this tile
  float* scores = nullptr;    ///< score_floats
  float* output = nullptr;    ///< output_floats
  SoftmaxState state;
};

/// Maxima and sums over blocks of consecutive keys of a tile, for the importance estimators.
/// Results are [ceil(keys / block_keys)][padded_queries]; the last block may be short.
struct KeyBlocks {
  int block_keys = 1;
  const float* reference = nullptr;  ///< block_sum_exp: log2 reference, one row for each block ...
  index_t reference_stride = 0;  ///< ... this far apart (0: one row of [padded_queries] for all)
  float* result = nullptr;
};

/// The kernels of one ISA and one compute type.
struct TileKernels {
  const char* isa;   ///< "scalar", "avx2", "avx512", "avx512_bf16"
  Compute compute;   ///< what the buffer sizes above are asked with
  bool native_bf16;  ///< compute == Compute::kBF16

  /// Packs shape.rows rows of q; the padding rows become zero.
  void (*pack_queries)(const PackShape& shape, const InputRows& rows, void* queries);

  /// Appends rows of k (or of a pyramid level of k) to a key tile.
  void (*load_keys)(const InputRows& rows, const TileSlot& slot);
  /// Appends rows of v to a value tile. Returns whether all loaded numbers are finite.
  bool (*load_values)(const InputRows& rows, const TileSlot& slot);

  /// scores = K Q^T, or += when `accumulate` (head_dim cut in pieces). Reads shape, keys, queries,
  /// key_tile, scores. shape.head_dim is not limited to 256 here.
  void (*scores)(const TileStep& step, bool accumulate);

  /// Scores become probabilities relative to the updated state. Reads shape, keys, rule, scores,
  /// state; `rescale` receives what O^T must be multiplied with.
  void (*softmax)(const TileStep& step);

  /// O^T = O^T * rescale + V^T P. Reads shape, keys, rule.first_query, value_tile, values_finite,
  /// scores (as left by `softmax`), output, state.rescale. A hidden key contributes nothing, not
  /// even where its value is NaN.
  void (*accumulate)(const TileStep& step);

  /// scores, softmax, accumulate group by group: the same result in less time.
  void (*attend)(const TileStep& step);

  /// out = O / sum and lse = ln(2) * (max_log2 + log2(sum)) of shape.rows rows; a query that saw
  /// nothing (sum 0) gives 0 and -inf.
  void (*store_output)(const PackShape& shape, const float* output, const SoftmaxState& state,
                       const OutputRows& rows);

  /// result[block][query] = max of the logits of the block, -inf if all hidden. Reads shape, keys,
  /// rule, scores.
  void (*block_max)(const TileStep& step, const KeyBlocks& blocks);

  /// result[block][query] = sum of exp2(logit - reference), 0 where nothing is visible (so a
  /// reference of -inf from block_max is allowed).
  void (*block_sum_exp)(const TileStep& step, const KeyBlocks& blocks);
};

/// Before the first tile of a query pack.
inline void reset_output(const PackShape& shape, float* output, const SoftmaxState& state) {
  std::fill_n(output, output_floats(shape.rows, shape.head_dim), 0.0F);
  const int queries = padded_queries(shape.rows);
  std::fill_n(state.max_log2, queries, -std::numeric_limits<float>::infinity());
  std::fill_n(state.sum, queries, 0.0F);
  std::fill_n(state.rescale, queries, 1.0F);
}

/// Every table that this CPU can run, in the order of their instruction sets; a bf16 table follows
/// the f32 table of the same.
[[nodiscard]] std::span<const TileKernels* const> all_supported();

}  // namespace psa::cpu
