// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "cpu/tile.hpp"
#include "psa/types.hpp"

// Row kernels of the CPU backend: the vector code of every stage but attention. Lanes are channels
// of a row, except where a comment says otherwise. Like the tile kernels they allocate nothing and
// give the same bits for the same input.
namespace psa::cpu {

inline constexpr int kPoolRows = 16;  ///< consecutive rows that `pool` reads at a time

/// Means of up to kPoolRows consecutive rows at pool factors 2, 4, 8 and 16.
struct PoolTask {
  InputRows rows;
  int count = 0;  ///< real rows, 1..kPoolRows; means are taken over these only
  int head_dim = 0;
  DType to = DType::kF32;  ///< the type of `rows`, or kF32
  void* means[4] = {};     ///< contiguous rows of factor 2, 4, 8, 16; null: not wanted
  /// [head_dim], the sum of all rows over kMaxBlockRows is added; null: not wanted. Like the means
  /// it cannot overflow.
  float* part = nullptr;
};
inline constexpr int kMaxBlockRows = 128;
inline constexpr float kPartOfMean = static_cast<float>(kPoolRows) / kMaxBlockRows;

/// Soft-max masses of blocks of keys; lanes are queries. Matrices are [blocks][lanes].
struct MassTask {
  int blocks = 0;
  int lanes = 0;                  ///< a multiple of kLaneQueries
  const float* max = nullptr;     ///< largest logit of each block (log2), -inf: nothing visible
  const float* weight = nullptr;  ///< [blocks], factor of each block's sum; null: all 1
  float* sum = nullptr;    ///< in: sum of exp2(logit - max) of each block; out: share of the query
  float* total = nullptr;  ///< [lanes], out: the query's sum relative to its largest logit, 0: none
};

/// Nearest of some centroids to each of some tokens; lanes are tokens.
struct NearestTask {
  PackShape shape;                ///< of the query pack that holds the tokens
  const float* scores = nullptr;  ///< token times centroid, S^T of tile.hpp with keys = centroids
  const float* norm = nullptr;    ///< [count], squared length of each centroid
  std::int32_t first = 0;         ///< label of the first centroid
  int count = 0;                  ///< centroids, 1..kMaxTileKeys
  float* distance = nullptr;      ///< [padded tokens], smallest distance so far
  std::int32_t* label = nullptr;  ///< [padded tokens], its label
};

/// Adds share x term to an output; lanes are queries.
struct TermTask {
  PackShape shape;
  const float* terms = nullptr;  ///< [head_dim] rows of S^T, score_floats(rows) per kMaxTileKeys
  const float* share = nullptr;  ///< [padded queries]
  float* output = nullptr;       ///< O^T of tile.hpp
};

/// Rows of floats and their factors; unused places repeat a row with factor 0.
struct ScaledRows {
  static constexpr int kCount = 4;
  const float* row[kCount] = {};
  float factor[kCount] = {};
};

struct RowKernels {
  const char* isa;  ///< as in TileKernels

  void (*pool)(const PoolTask& task);
  /// to = sum / weight, rounded once.
  void (*store_mean)(const float* sum, float weight, int head_dim, DType dtype, void* to);
  /// `count` rows as floats, contiguous.
  void (*load_floats)(const InputRows& rows, int count, int head_dim, float* to);
  float (*dot)(const float* a, const float* b, int head_dim);
  /// sum += row.
  void (*add)(const float* row, int head_dim, float* sum);
  /// sum += factor * row, of any number of floats.
  void (*add_scaled)(const float* row, float factor, int count, float* sum);
  /// The same with kCount rows at once, which spares most loads and stores of the sum.
  void (*add_scaled_rows)(const ScaledRows& rows, int count, float* sum);
  void (*masses)(const MassTask& task);
  /// sum = max - (largest max of the query); total = 1, or 0 for a query that sees nothing.
  void (*peak_ratios)(const MassTask& task);
  /// S-20: a NaN distance counts as +inf, ties keep the lower label.
  void (*nearest)(const NearestTask& task);
  /// S-23: products that are not finite count as 0.
  void (*add_terms)(const TermTask& task);
};

/// The table that goes with the tile kernels of that name, one of all_supported().
[[nodiscard]] const RowKernels* row_kernels(const char* isa);

}  // namespace psa::cpu
