// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the kernels that sum covariances share: the product, its tiles, and how they are written.
//
//   map [rows, D·R] = weights [rows, Nk] · covariance [Nk, D·R],   rows = query heads x Nq
//
// is one product of matrices for every KV head. A part of it is a tile of kTileRows x kTileColumns;
// parts that read the same columns of the covariances, which are the larger operand, have
// neighbouring numbers.

#include "cuda/device/kv_rows.cuh"
#include "cuda/device/shared_rows.cuh"
#include "cuda/first_order/first_order.hpp"
#include "cuda/grid.hpp"

namespace psa::cuda {

inline constexpr int kTileRows = 128;
inline constexpr int kTileColumns = 256;

struct SumParams {
  const std::byte* weights;     // [heads, rows, weight_row]
  const std::byte* covariance;  // [heads, inner, columns]
  std::byte* map;               // [heads, rows, columns]
  int heads, rows, columns, inner, weight_row;
  int row_tiles, column_tiles;
  // Which weights are 0 without a look at them.
  const std::int32_t* kv_lengths;  // [B] or null
  int first_head, heads_kv, num_q_blocks, block_q, block_kv;
  index_t len_q, len_kv;
  bool is_causal;

  [[nodiscard]] index_t parts() const { return index_t{heads} * row_tiles * column_tiles; }
};

[[nodiscard]] inline SumParams sum_params(const core::Geometry& g, const core::Inputs& inputs,
                                          const FirstOrder& work) {
  SumParams p{};
  p.weights = work.weights;
  p.covariance = work.covariance;
  p.map = work.map;
  p.heads = work.heads.count;
  p.rows = static_cast<int>(grid_of(g.heads_per_kv() * g.num_q_blocks));
  p.columns = static_cast<int>(g.shape.head_dim) * work.row;
  p.inner = static_cast<int>(g.num_kv_blocks);
  p.weight_row = work.weight_row;
  p.row_tiles = static_cast<int>(semantics::ceil_div(p.rows, kTileRows));
  p.column_tiles = static_cast<int>(semantics::ceil_div(p.columns, kTileColumns));
  p.kv_lengths = inputs.kv_lengths;
  p.first_head = work.heads.first;
  p.heads_kv = static_cast<int>(g.shape.heads_kv);
  p.num_q_blocks = static_cast<int>(g.num_q_blocks);
  p.block_q = g.config.block_q;
  p.block_kv = g.config.block_kv;
  p.len_q = g.shape.len_q;
  p.len_kv = g.shape.len_kv;
  p.is_causal = g.config.causal;
  return p;
}

struct Part {
  int head, row, column;
};

__device__ inline Part part_of(const SumParams& p, int index) {
  const int row_tile = index % p.row_tiles;
  index /= p.row_tiles;
  return {index / p.column_tiles, row_tile * kTileRows, index % p.column_tiles * kTileColumns};
}

/// KV blocks from this one on have no weight in the rows of a part: causal queries do not see them.
__device__ inline int weighted_blocks(const SumParams& p, const Part& part) {
  if (!p.is_causal) return p.inner;
  const int last_row = min(part.row + kTileRows, p.rows) - 1;
  const bool is_one_head = part.row / p.num_q_blocks == last_row / p.num_q_blocks;
  const int q_block = is_one_head ? last_row % p.num_q_blocks : p.num_q_blocks - 1;
  return static_cast<int>(semantics::visible_blocks(
      true, semantics::block_range(q_block, p.block_q, p.len_q), p.block_kv, p.len_q,
      key_length(p.kv_lengths, (p.first_head + part.head) / p.heads_kv, p.len_kv)));
}

/// Writes kRows x kColumns elements of `tile`, in shared memory (shared_rows.cuh), to the map, at
/// `row` and `column` of the part's head. By `threads` threads, of which this is `thread`.
template <typename Element, int kRows, int kColumns>
__device__ void write_tile(const SumParams& p, int head, int row, int column, const std::byte* tile,
                           int thread, int threads) {
  constexpr int kPieces = kColumns / 8;
  auto* map = reinterpret_cast<Element*>(p.map);
  for (int i = thread; i < kRows * kPieces; i += threads) {
    const int to_row = row + i / kPieces;
    const int to_column = column + i % kPieces * 8;
    if (to_row >= p.rows || to_column >= p.columns) continue;
    *reinterpret_cast<uint4*>(map + (static_cast<index_t>(head) * p.rows + to_row) * p.columns +
                              to_column) =
        load_shared(piece_address<2 * kColumns>(tile, i / kPieces, i % kPieces));
  }
}

}  // namespace psa::cuda
