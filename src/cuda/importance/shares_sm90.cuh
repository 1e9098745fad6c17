// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the kernels have in common whose warps have a task each (stream_sm90.cuh, means_sm90.cuh;
// sm_90a): consumers reduce logits to pieces and sum up rows, others make the importance of query
// blocks of that. A piece is a KV block. Columns that have a key follow each other, for blocks are
// powers of two, and a row sees the first ones.

#include <cstdint>

#include "cuda/importance/params.cuh"
#include "cuda/importance/pieces.cuh"
#include "cuda/importance/probes.cuh"

namespace psa::cuda::estimation {

inline constexpr int kWarpgroupThreads = 128;
inline constexpr int kWarpgroupRows = 64;

/// A RingIndex of as many slots as fit, which goes on from item to item.
struct RingPlace {
  int slot = 0;
  std::uint32_t parity = 0;  // of the round

  __device__ void advance(int stages) {
    if (++slot < stages) return;
    slot = 0;
    parity ^= 1U;
  }
};

/// What worker `worker` of `workers` takes in a round. Back and forth: with a causal rule items get
/// shorter, and who got the longest of one round gets the shortest of the next. estimate_kernel has
/// this line too: where it shared it, ptxas gave it other registers, and pooled_lse took 4 to 8 %
/// longer.
__device__ inline index_t item_index(index_t round, unsigned worker, unsigned workers) {
  return round * workers + (round % 2 == 0 ? worker : workers - 1 - worker);
}

// ---- products -----------------------------------------------------------------------------------

/// Where a lane's products of 64 rows and kColumns columns lie in its registers, as wgmma leaves
/// them. 8 rows are an eighth, 64 columns a strip.
template <int kColumns>
class WarpgroupProducts {
 public:
  static constexpr int kStrips = kColumns / kWarpColumns;
  static constexpr int kEighths = 2;  // that a lane has rows of

  /// Of the warpgroup's, in its warp `warp`.
  [[nodiscard]] __device__ static int lane_row(int warp, int eighth) {
    return warp * 16 + eighth * 8 + lane_id() / 4;
  }
  /// For product i of a strip.
  [[nodiscard]] __device__ static int lane_column(int strip, int i) {
    return strip * kWarpColumns + 8 * (i / 2) + 2 * (lane_id() % 4) + i % 2;
  }
  [[nodiscard]] __device__ float& at(int strip, int eighth, int i) {
    return c_[strip * 2 * kLaneColumns + i / 2 * 4 + eighth * 2 + i % 2];
  }

 protected:
  float c_[kColumns / 2];
};

// ---- what rows see -------------------------------------------------------------------

/// Of the rows of a warpgroup, how many columns each sees.
struct SeenRange {
  int fewest;
  int most;
};

/// One warp.
__device__ inline SeenRange seen_range(const int* seen) {
  constexpr unsigned kAll = 0xFFFFFFFFU;
  static_assert(kWarpgroupRows == 64);
  const int a = seen[lane_id()];
  const int b = seen[lane_id() + 32];
  return {__reduce_min_sync(kAll, min(a, b)), __reduce_max_sync(kAll, max(a, b))};
}

// ---- pieces --------------------------------------------------------------------------

/// Largest logit of a row so far, in log2 units, and the lane's part of the sum of
/// exp2(logit - largest).
struct RowSum {
  float largest = -INFINITY;
  float sum = 0.0F;

  __device__ void add(float other_largest, float other_sum) {
    const float both = fmaxf(largest, other_largest);
    const float reference = reference_of(both);
    sum =
        sum * exp2_approx(largest - reference) + other_sum * exp2_approx(other_largest - reference);
    largest = both;
  }
  /// Of all lanes of a row, which are neighbours.
  __device__ void combine_lanes() {
    sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 1);
    sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 2);
  }
  /// log2 of the row's sum; kLeftOut if it sees nothing.
  [[nodiscard]] __device__ float reference() const {
    return largest == -INFINITY ? kLeftOut : largest + log2f(sum);
  }
};

/// Pieces of kCount rows of a lane, from `eighth` on, of which those of 64 times `strips` columns
/// are written; adds all to `totals` [kCount]. What take_log_sums() does, less biases and with one
/// reference for all columns.
template <int kLog2Piece, int kCount, typename Products>
__device__ __forceinline__ void reduce_rows(const float (&scale_log2)[kCount], Products& products,
                                            int eighth, int strips, float* const (&pieces)[kCount],
                                            RowSum* totals) {
  float largest[kCount];
  float reference[kCount];
  float sum[kCount];
#pragma unroll
  for (int r = 0; r < kCount; ++r) {
    float parts[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};  // none waits for another
#pragma unroll
    for (int strip = 0; strip < Products::kStrips; ++strip) {
#pragma unroll
      for (int i = 0; i < kLaneColumns; ++i) {
        parts[i % 4] = fmaxf(parts[i % 4], products.at(strip, eighth + r, i));
      }
    }
    largest[r] = fmaxf(fmaxf(parts[0], parts[1]), fmaxf(parts[2], parts[3]));
  }
#pragma unroll
  for (int r = 0; r < kCount; ++r) {
    largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xFFFFFFFFU, largest[r], 1));
    largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xFFFFFFFFU, largest[r], 2)) * scale_log2[r];
    reference[r] = reference_of(largest[r]);
    sum[r] = 0.0F;
  }
#pragma unroll
  for (int strip = 0; strip < Products::kStrips; ++strip) {
    float v[kCount][kLaneColumns];
#pragma unroll
    for (int r = 0; r < kCount; ++r) {
#pragma unroll
      for (int i = 0; i < kLaneColumns; ++i) {
        v[r][i] =
            exp2_approx(fmaf(products.at(strip, eighth + r, i), scale_log2[r], -reference[r]));
      }
    }
#pragma unroll
    for (int r = 0; r < kCount; ++r) fold_columns<kLog2Piece>(v[r], Sum{});
#pragma unroll
    for (int r = 0; r < kCount; ++r) {
#pragma unroll
      for (int i = 0; i < kLanePieces<kLog2Piece>; ++i) {
        if (has_pieces<kLog2Piece>()) sum[r] += v[r][i];
        v[r][i] = reference[r] + log2_approx(v[r][i]);
        if (isnan(v[r][i]) && largest[r] > -INFINITY) v[r][i] = INFINITY;
      }
      if (strip < strips) {
        store_pieces<kLog2Piece>(v[r], pieces[r] + (strip * kWarpColumns >> kLog2Piece));
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kCount; ++r) totals[r].add(largest[r], sum[r]);
}

// ---- shares ----------------------------------------------------------------------------------

/// Rows all of whose pieces are there.
struct FinishedRows {
  const float* slab;        // [rows of the CTA, slab_width]
  const float* references;  // [rows of the CTA]
};

/// Importance of four KV blocks from `block` on for the query block whose first row is `first_row`:
/// the mean over its rows of their shares. A piece is a block, which store_blocks() does not count
/// on; its loads of one block at a time make the finishers late (.432 ms instead of .427).
__device__ inline void mean_shares(const Params& p, const FinishedRows& from, int first_row,
                                   int block, float (&mean)[4]) {
  constexpr int kRowsAtOnce = 8;
  const int rows = p.rows_per_block;
  const float* pieces = from.slab + static_cast<index_t>(first_row) * p.slab_width + block;
  int counted = 0;
#pragma unroll
  for (float& x : mean) x = 0.0F;
  for (int begin = 0; begin < rows; begin += kRowsAtOnce) {
    float4 v[kRowsAtOnce];  // behind the last row it again: loads wait for no branch
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const index_t row = min(begin + r, rows - 1);
      v[r] = __ldcg(reinterpret_cast<const float4*>(pieces + row * p.slab_width));
    }
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const float reference = from.references[first_row + min(begin + r, rows - 1)];
      if (begin + r >= rows || reference == kLeftOut) continue;
      ++counted;
      mean[0] += exp2_approx(v[r].x - reference);
      mean[1] += exp2_approx(v[r].y - reference);
      mean[2] += exp2_approx(v[r].z - reference);
      mean[3] += exp2_approx(v[r].w - reference);
    }
  }
#pragma unroll
  for (float& x : mean) x /= static_cast<float>(max(counted, 1));
}

/// Writes the importance of the query blocks of a CTA's item. Warp `warp` of `warps`, which take
/// turns with 128 KV blocks of a query block.
__device__ inline void finish_blocks(const Params& p, const FinishedRows& from, const Item& item,
                                     int warp, int warps) {
  const index_t chunk_blocks = p.q_block_end - p.q_block_begin;
  int turn = 0;
  for (int i = 0; i < item.blocks; ++i) {
    for (int first = 0; first < p.num_kv_blocks; first += kWarpBlocks) {
      const bool is_own = turn == warp;
      turn = turn + 1 == warps ? 0 : turn + 1;
      if (!is_own) continue;
      const int q_block = item.first_block + i;
      const int visible = visible_blocks(p, item, block_queries(p, q_block));
      const int block = first + lane_id() * kLaneBlocks;
      float mean[kLaneBlocks] = {};
      if (block < visible) mean_shares(p, from, i * p.rows_per_block, block, mean);
      float* importance =
          p.importance + (item.head * chunk_blocks + q_block - p.q_block_begin) * p.num_kv_blocks;
#pragma unroll
      for (int n = 0; n < kLaneBlocks; ++n) {
        if (block + n >= p.num_kv_blocks) break;
        importance[block + n] = block + n < visible ? mean[n] : 0.0F;
      }
    }
  }
}

}  // namespace psa::cuda::estimation
