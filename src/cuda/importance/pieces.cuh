// SPDX-License-Identifier: Apache-2.0
#pragma once

// From logits to importance, by way of pieces: the columns of a tile that belong to one KV block
// (half of one if it has 128). A warp reduces the logits of its rows to one number per row and
// piece, in log2 units, and writes them to the CTA's slab in global memory, which L2 holds:
//
//   kMax     the largest logit (S-9)
//   kLogSum  log2 of the sum of exp2(logit) (S-10 to S-12)
//
// Once a row has all pieces they are put in relation to the row's own maximum or sum, and then
// reduced over the rows of a query block. One number per piece is enough for that, so the products
// are computed once; two passes over them would need no slab, but twice the tensor work.
//
// NaN: a row whose logits are all NaN or -inf is left out. One that has numbers, too, is not: its
// NaN makes all its shares NaN (maxima ignore it). kLogSum must tell the two from the pieces alone:
// a sum that is NaN is written as +inf if the 64 columns that are reduced together hold a number,
// else as NaN. Both spoil the row's sum; only the first says that it counts.

#include <cstdint>

#include "cuda/importance/params.cuh"
#include "cuda/importance/probes.cuh"

namespace psa::cuda::estimation {

enum class Reduction : std::uint8_t { kMax, kLogSum };

inline constexpr int kWarpColumns = 64;                ///< of a row that a warp reduces at a time
inline constexpr int kLaneColumns = kWarpColumns / 4;  ///< of each row that a lane has a part of

/// Reference of a row that is left out.
inline constexpr float kLeftOut = INFINITY;

__device__ inline int lane_id() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp_id() { return static_cast<int>(threadIdx.x) / 32; }

/// 2 units in the last place; results below 2^-126 become 0.
__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// 2 units in the last place, 2^-22 next to 1; 0 gives -inf.
__device__ inline float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// What exponents are taken relative to. Where nothing was seen, -inf minus -inf must not arise.
__device__ inline float reference_of(float largest) {
  return largest == -INFINITY ? 0.0F : largest;
}

struct Larger {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};
struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};

// ---- one row of a warp tile ---------------------------------------------------------------------

/// Combines kCount values per lane with those of lane ^ kMask. Each lane keeps half of the results;
/// a single one is given to both.
template <int kCount, int kMask, typename Op>
__device__ __forceinline__ void fold_lanes(float (&v)[kLaneColumns], const Op& op) {
  if constexpr (kCount == 1) {
    v[0] = op(v[0], __shfl_xor_sync(0xFFFFFFFFU, v[0], kMask));
  } else {
    const bool keeps_upper = (lane_id() & kMask) != 0;
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      const float keep = keeps_upper ? v[i + kCount / 2] : v[i];
      const float give = keeps_upper ? v[i] : v[i + kCount / 2];
      v[i] = op(keep, __shfl_xor_sync(0xFFFFFFFFU, give, kMask));
    }
  }
}

/// Combines a lane's first kCount values in pairs, kTimes over.
template <int kCount, int kTimes, typename Op>
__device__ __forceinline__ void fold_values(float (&v)[kLaneColumns], const Op& op) {
  if constexpr (kTimes > 0) {
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) v[i] = op(v[2 * i], v[2 * i + 1]);
    fold_values<kCount / 2, kTimes - 1>(v, op);
  }
}

/// Reduces a row's columns, of which the lane has 8n + 2·(lane % 4) and the next as v[2n] and
/// v[2n + 1], to pieces of 2^kLog2Piece columns. Lane and value tell the piece: lane_piece(),
/// next_piece().
template <int kLog2Piece, typename Op>
__device__ __forceinline__ void fold_columns(float (&v)[kLaneColumns], const Op& op) {
  constexpr int kWithinLane = kLog2Piece == 0 ? 0 : kLog2Piece <= 3 ? 1 : kLog2Piece - 2;
  fold_values<kLaneColumns, kWithinLane>(v, op);
  constexpr int kCount = kLaneColumns >> kWithinLane;
  if constexpr (kLog2Piece == 2) fold_lanes<kCount, 1>(v, op);
  if constexpr (kLog2Piece >= 3) {
    fold_lanes<kCount, 2>(v, op);
    fold_lanes<(kCount > 1 ? kCount / 2 : 1), 1>(v, op);
  }
}

/// Values that a lane has left of a row.
template <int kLog2Piece>
inline constexpr int kLanePieces = kLog2Piece <= 2   ? kLaneColumns >> kLog2Piece
                                   : kLog2Piece == 3 ? 2
                                                     : 1;

/// Piece that a lane's first value belongs to, of the 64 >> kLog2Piece of a row.
template <int kLog2Piece>
__device__ inline int lane_piece() {
  const int lane = lane_id() % 4;
  if constexpr (kLog2Piece == 0) return 2 * lane;
  if constexpr (kLog2Piece == 1) return lane;
  if constexpr (kLog2Piece == 2) return lane % 2 * 8 + lane / 2;
  return lane * (kWarpColumns >> kLog2Piece) / 4;
}

/// Pieces from there to that of value `i`.
template <int kLog2Piece>
__device__ constexpr int next_piece(int i) {
  if constexpr (kLog2Piece == 0) return i / 2 * 8 + i % 2;
  if constexpr (kLog2Piece == 1) return i * 4;
  if constexpr (kLog2Piece == 2) return i * 2;
  return i;
}

/// Whether this lane writes its values: the lanes of a large piece all have it.
template <int kLog2Piece>
__device__ inline bool has_pieces() {
  return kLog2Piece <= 4 || lane_id() % (kLog2Piece == 5 ? 2 : 4) == 0;
}

/// Writes the pieces of a row; `to` is the first one of its 64 columns.
template <int kLog2Piece>
__device__ __forceinline__ void store_pieces(const float (&v)[kLaneColumns], float* to) {
  if (!has_pieces<kLog2Piece>()) return;
  float* own = to + lane_piece<kLog2Piece>();
  if constexpr (kLog2Piece == 3) {  // the default
    __stcg(reinterpret_cast<float2*>(own), make_float2(v[0], v[1]));
  } else {
#pragma unroll
    for (int i = 0; i < kLanePieces<kLog2Piece>; ++i) __stcg(own + next_piece<kLog2Piece>(i), v[i]);
  }
}

/// v: dot products; becomes the row's largest logits.
template <int kLog2Piece>
__device__ __forceinline__ void take_maxima(float scale_log2, float (&v)[kLaneColumns]) {
  fold_columns<kLog2Piece>(v, Larger{});
#pragma unroll
  for (int i = 0; i < kLanePieces<kLog2Piece>; ++i) v[i] *= scale_log2;
}

/// v: dot products; becomes log2 of the row's sums.
template <int kLog2Piece>
__device__ __forceinline__ void take_log_sums(float scale_log2, const float (&bias)[kLaneColumns],
                                              float (&v)[kLaneColumns]) {
  float largest = -INFINITY;
#pragma unroll
  for (int i = 0; i < kLaneColumns; ++i) {
    v[i] = fmaf(v[i], scale_log2, bias[i]);
    largest = fmaxf(largest, v[i]);
  }
  largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, 1));
  largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, 2));
  const float reference = reference_of(largest);
  if constexpr (kLog2Piece > 0) {  // the sum over one column is that column
#pragma unroll
    for (int i = 0; i < kLaneColumns; ++i) v[i] = exp2_approx(v[i] - reference);
    fold_columns<kLog2Piece>(v, Sum{});
#pragma unroll
    for (int i = 0; i < kLanePieces<kLog2Piece>; ++i) v[i] = reference + log2_approx(v[i]);
  }
#pragma unroll
  for (int i = 0; i < kLanePieces<kLog2Piece>; ++i) {
    if (isnan(v[i]) && largest > -INFINITY) v[i] = INFINITY;
  }
}

// ---- the rows of an item ------------------------------------------------------------------------

inline constexpr int kWarpRowsAtOnce = 4;  ///< whose pieces a warp reads side by side
inline constexpr int kLaneLoads = 8;       ///< of each of them: 32 loads under way

/// Largest piece of a row and, for kLogSum, the sum of exp2(piece - largest).
struct RowState {
  float largest = -INFINITY;
  float sum = 0.0F;
};

template <Reduction kReduction>
__device__ inline void add_pieces(const float (&v)[kLaneLoads], RowState& state) {
  float largest = state.largest;
#pragma unroll
  for (const float x : v) largest = fmaxf(largest, x);
  if constexpr (kReduction == Reduction::kLogSum) {
    const float reference = reference_of(largest);
    state.sum *= exp2_approx(state.largest - reference);
#pragma unroll
    for (const float x : v) state.sum += exp2_approx(x - reference);
  }
  state.largest = largest;
}

/// What the pieces of a row are related to, from what each lane has seen of it: its largest logit,
/// or log2 of its sum.
template <Reduction kReduction>
__device__ inline float combine_lanes(const RowState& lane) {
  float largest = lane.largest;
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, mask));
  }
  if (largest == -INFINITY) return kLeftOut;
  if constexpr (kReduction == Reduction::kMax) return largest;
  float sum = lane.sum * exp2_approx(lane.largest - largest);
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xFFFFFFFFU, sum, mask);
  return largest + log2f(sum);
}

/// References of kWarpRowsAtOnce rows, from their first `count` pieces. One warp.
template <Reduction kReduction>
__device__ inline void find_references(const Params& p, const float* rows, int count,
                                       float (&references)[kWarpRowsAtOnce]) {
  RowState state[kWarpRowsAtOnce];
  for (int first = lane_id(); first < count; first += 32 * kLaneLoads) {
    float v[kWarpRowsAtOnce][kLaneLoads];
#pragma unroll
    for (int r = 0; r < kWarpRowsAtOnce; ++r) {
      const float* row = rows + static_cast<index_t>(r) * p.slab_width;
#pragma unroll
      for (int i = 0; i < kLaneLoads; ++i) {
        const int piece = first + 32 * i;
        v[r][i] = piece < count ? __ldcg(row + piece) : -INFINITY;
      }
    }
#pragma unroll
    for (int r = 0; r < kWarpRowsAtOnce; ++r) add_pieces<kReduction>(v[r], state[r]);
  }
#pragma unroll
  for (int r = 0; r < kWarpRowsAtOnce; ++r) references[r] = combine_lanes<kReduction>(state[r]);
}

inline constexpr int kLaneBlocks = 4;                 ///< KV blocks that a lane reduces at a time
inline constexpr int kWarpBlocks = 32 * kLaneBlocks;  ///< the same for a warp

/// Rows of a query block and the pieces of some KV blocks in them.
struct BlockPieces {
  const float* rows;        // [count, slab_width]
  const float* references;  // [count]
  int count;
  int offset[kLaneBlocks];  // of this lane's blocks in a row
};

/// Adds one piece of each of a lane's blocks to `reduced`: for kMax the largest ratio in log2
/// units, else the sum of shares. 32 loads under way at a time. How many rows are not left out.
template <Reduction kReduction>
__device__ inline int reduce_rows(const Params& p, const BlockPieces& pieces, int piece,
                                  float (&reduced)[kLaneBlocks]) {
  constexpr int kRowsAtOnce = 8;
  int counted = 0;
  for (int first = 0; first < pieces.count; first += kRowsAtOnce) {
    float v[kRowsAtOnce][kLaneBlocks];
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const int row = min(first + r, pieces.count - 1);
      const float* from = pieces.rows + static_cast<index_t>(row) * p.slab_width + piece;
#pragma unroll
      for (int i = 0; i < kLaneBlocks; ++i) v[r][i] = __ldcg(from + pieces.offset[i]);
    }
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const int row = min(first + r, pieces.count - 1);
      const float reference = pieces.references[row];
      const bool counts = first + r < pieces.count && reference != kLeftOut;
      counted += counts ? 1 : 0;
#pragma unroll
      for (int i = 0; i < kLaneBlocks; ++i) {
        const float ratio_log2 = v[r][i] - reference;
        if constexpr (kReduction == Reduction::kMax) {
          reduced[i] = fmaxf(reduced[i], counts ? ratio_log2 : -INFINITY);
        } else {
          reduced[i] += counts ? exp2_approx(ratio_log2) : 0.0F;
        }
      }
    }
  }
  return counted;
}

/// Writes the importance of up to kWarpBlocks KV blocks, from `first` on, for the query block whose
/// `rows` [count, slab_width] are given; from `visible` on it is 0. One warp.
template <Reduction kReduction>
__device__ inline void store_blocks(const Params& p, const float* rows, const float* references,
                                    int first, int visible, float* importance) {
  const int log2_pieces = max(p.log2_columns - kMaxLog2Piece, 0);  // of a block
  BlockPieces pieces{.rows = rows, .references = references, .count = p.rows_per_block};
  float reduced[kLaneBlocks];
#pragma unroll
  for (int i = 0; i < kLaneBlocks; ++i) {
    pieces.offset[i] = min(first + lane_id() + 32 * i, visible - 1) << log2_pieces;
    reduced[i] = kReduction == Reduction::kMax ? -INFINITY : 0.0F;
  }
  int counted = 0;
  for (int piece = 0; first < visible && piece < 1 << log2_pieces; ++piece) {
    counted = reduce_rows<kReduction>(p, pieces, piece, reduced);
  }
#pragma unroll
  for (int i = 0; i < kLaneBlocks; ++i) {
    const int block = first + lane_id() + 32 * i;
    if (block >= p.num_kv_blocks) break;
    float x = 0.0F;
    if constexpr (kReduction == Reduction::kMax) {
      x = exp2_approx(reduced[i]);
    } else if (counted > 0) {
      x = reduced[i] / static_cast<float>(counted);
    }
    importance[block] = block < visible ? x : 0.0F;
  }
}

}  // namespace psa::cuda::estimation
