// SPDX-License-Identifier: Apache-2.0
#pragma once

// Attention with mma.sync, for every device from sm_80 on and every head_dim (S-5 to S-8).
//
//   in   q [B, Hq, Lq, D], k, v [B, Hkv, Lk, D], pooled k and v by level, levels [B, Hq, Nq, Nk]
//   out  out [B, Hq, Lq, D], lse [B, Hq, Lq]
//
// One CTA of four warps per query block (two CTAs if a block has 128 rows and D > 128). It reads
// the rows that its level-map row names as a stream (kv_stream.cuh) in tiles of kTileKeys rows, and
// keeps S, P and O of its query rows in registers, as FlashAttention-2 does. Tile t:
//
//   copies   V(t) ........................ | K(t+1) ......................... | V(t+1) ...
//   warps    list rows of t+1, S = Q·K(t)ᵀ | P = soft-max of S, O += P·V(t)   | list ...
//                                      barrier                            barrier
//                            V(t) is there, K(t) is free        K(t+1) is there, V(t) is free
//
// K and V have one buffer each, because each copy has a whole matrix product to hide behind. Second
// buffers would take 111 KB instead of 79 (D = 128), and with them the other CTA of the SM (164 KB
// on an A100), which keeps the tensor cores busy while this one takes its soft-max.
// A warp owns 32 rows of q where registers allow: it reads all of K and V from shared memory, so
// with 16 rows shared memory would be the limit and not the tensor cores.
//
// Soft-max, in log2 units: s = scale·q·k + log2(weight). A tile whose rows have one weight and are
// seen by all queries (almost all have: levels come in runs) has one bias, which joins the constant
// of the exponent; in the others every row has its bias and its visibility. Exponents are relative
// to the row's largest logit without bias: p <= 128 fits f16. O is rescaled only in tiles that
// raise it for some row of the warp. (To let it lag by 8, as is common, would spare nearly all of
// that, but then p of a dominant key is no power of two, and its rounding doubles the error of
// out.)
//
// Cost: 2·D multiply-adds per query row and row read; 4·D bytes from L2 per row read and CTA.

#include <cstdint>
#include <numbers>

#include "cuda/attention/kv_stream.cuh"
#include "cuda/attention/params.hpp"
#include "cuda/attention/recompute.cuh"
#include "cuda/attention/storage_sm80.cuh"
#include "cuda/device/copy.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/device/shared_rows.cuh"

namespace psa::cuda::sm80 {

// ---- one tile, by warp --------------------------------------------------------------------------

/// s = Q·Kᵀ, unscaled.
template <typename V>
__device__ __forceinline__ void multiply_keys(const SharedMemory<V>& shared, Scores<V>& s) {
  const int lane = lane_id();
  const std::uint32_t q =
      piece_address<V::kRowBytes>(shared.q, warp_id() * V::kWarpRows + lane % 16, lane / 16);
  const std::uint32_t k =
      piece_address<V::kRowBytes>(shared.k, lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
  for (int m = 0; m < V::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < V::kTileKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[m][n][i] = 0.0F;
    }
  }
#pragma unroll
  for (int step = 0; step < V::kColumns / 16; ++step) {
    std::uint32_t a[V::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < V::kRowTiles; ++m) {
      load_matrices(a[m], advance<V::kRowBytes>(q, 16 * m, 2 * step));
    }
#pragma unroll
    for (int pair = 0; pair < V::kTileKeys / 16; ++pair) {
      std::uint32_t b[4];
      load_matrices(b, advance<V::kRowBytes>(k, 16 * pair, 2 * step));
#pragma unroll
      for (int m = 0; m < V::kRowTiles; ++m) {
        mma_16x8x16<typename V::Element>(s[m][2 * pair], a[m], b[0], b[1]);
        mma_16x8x16<typename V::Element>(s[m][2 * pair + 1], a[m], b[2], b[3]);
      }
    }
  }
}

/// Adjusts logits, and selects -inf where a query does not see a row, so that what the row holds
/// does not matter.
template <typename V>
__device__ __forceinline__ void adjust_rows(const AttentionParams& p, const SharedMemory<V>& shared,
                                            const TileRows<V::kTileKeys>& rows, Scores<V>& s) {
  int position[V::kRowTiles][2];
#pragma unroll
  for (int m = 0; m < V::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_id() * V::kWarpRows + 16 * m + 8 * half + lane_id() / 4;
      position[m][half] = p.is_causal ? shared.query.first_position + row : kSeesAll;
    }
  }
  const int* lasts = rows.last + 2 * (lane_id() % 4);
  const float* adjusts = rows.adjust + 2 * (lane_id() % 4);
#pragma unroll
  for (int n = 0; n < V::kTileKeys / 8; ++n) {
    const auto last = *reinterpret_cast<const int2*>(lasts + 8 * n);
    float2 adjust{};
    if constexpr (V::kHasFirstOrder) adjust = *reinterpret_cast<const float2*>(adjusts + 8 * n);
#pragma unroll
    for (int m = 0; m < V::kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool is_seen = (i % 2 == 0 ? last.x : last.y) <= position[m][i / 2];
        s[m][n][i] = is_seen ? s[m][n][i] + (i % 2 == 0 ? adjust.x : adjust.y) : -INFINITY;
      }
    }
  }
}

/// What scaled logits are taken relative to: the scaled references.
template <typename V>
using Shifts = float[V::kRowTiles][2];

/// Raises the references to the largest logits so far, and scales what was summed by them. Logits
/// that are so large that rounding of a scaled one matters (kLargestShift) become relative to the
/// reference.
template <typename V>
__device__ __forceinline__ void raise_references(float scale_log2, Scores<V>& s, WarpRows<V>& rows,
                                                 Shifts<V>& shift) {
  float rescale[V::kRowTiles][2];
  bool is_any_raised = false;
#pragma unroll
  for (int m = 0; m < V::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = -INFINITY;
#pragma unroll
      for (int n = 0; n < V::kTileKeys / 8; ++n) {
        largest = fmaxf(largest, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
      }
      largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, 2));
      float& reference = rows.reference[m][half];
      const bool is_raised = largest > reference;
      rescale[m][half] = is_raised ? exp2_approx((reference - largest) * scale_log2) : 1.0F;
      reference = is_raised ? largest : reference;
      is_any_raised |= is_raised;
      // A row that has seen nothing: -inf minus -inf must not arise.
      shift[m][half] = reference == -INFINITY ? 0.0F : reference * scale_log2;
      if (fabsf(shift[m][half]) <= kLargestShift) continue;
      shift[m][half] = 0.0F;
#pragma unroll
      for (int n = 0; n < V::kTileKeys / 8; ++n) {
        s[m][n][2 * half] -= reference;
        s[m][n][2 * half + 1] -= reference;
      }
    }
  }
  if (__any_sync(0xFFFFFFFFU, is_any_raised) == 0) return;
#pragma unroll
  for (int m = 0; m < V::kRowTiles; ++m) {
    rows.sum[m][0] *= rescale[m][0];
    rows.sum[m][1] *= rescale[m][1];
    if constexpr (V::kHasFirstOrder) {
      rows.rest_sum[m][0] *= rescale[m][0];
      rows.rest_sum[m][1] *= rescale[m][1];
    }
#pragma unroll
    for (int n = 0; n < V::kColumns / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) rows.out[m][n][i] *= rescale[m][i / 2];
    }
  }
}

/// s becomes exp2(s·scale + bias - shift). `bias_of(n)` gives the biases of this lane's two
/// columns of granule n.
template <typename V, typename BiasOf>
__device__ __forceinline__ void take_exponentials(float scale_log2, const BiasOf& bias_of,
                                                  const Shifts<V>& shift, Scores<V>& s,
                                                  WarpRows<V>& rows) {
#pragma unroll
  for (int n = 0; n < V::kTileKeys / 8; ++n) {
    const float2 bias = bias_of(n);
#pragma unroll
    for (int m = 0; m < V::kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float constant = (i % 2 == 0 ? bias.x : bias.y) - shift[m][i / 2];
        s[m][n][i] = exp2_approx(fmaf(s[m][n][i], scale_log2, constant));
        rows.sum[m][i / 2] += s[m][n][i];
      }
    }
  }
}

/// The soft-max step: s becomes the probabilities.
template <typename V>
__device__ __forceinline__ void weigh_keys(const AttentionParams& p, const SharedMemory<V>& shared,
                                           const TileRows<V::kTileKeys>& list, Scores<V>& s,
                                           WarpRows<V>& rows) {
  Shifts<V> shift;
  if (is_one_run(list)) {
    raise_references<V>(p.scale_log2, s, rows, shift);
    const float2 bias{list.run_bias[0], list.run_bias[0]};
    take_exponentials<V>(
        p.scale_log2, [&](int) { return bias; }, shift, s, rows);
    return;
  }
  adjust_rows<V>(p, shared, list, s);
  raise_references<V>(p.scale_log2, s, rows, shift);
  const float* bias = list.bias_log2 + 2 * (lane_id() % 4);
  take_exponentials<V>(
      p.scale_log2, [&](int n) { return *reinterpret_cast<const float2*>(bias + 8 * n); }, shift, s,
      rows);
}

/// Adds the probabilities from `granule` on to those of the block means.
template <typename V>
__device__ __forceinline__ void sum_rest(const Scores<V>& s, int granule, WarpRows<V>& rows) {
  if (granule >= V::kTileKeys / 8) return;
#pragma unroll
  for (int n = 0; n < V::kTileKeys / 8; ++n) {
    if (n < granule) continue;
#pragma unroll
    for (int m = 0; m < V::kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) rows.rest_sum[m][i / 2] += s[m][n][i];
    }
  }
}

/// O += P·V; P is rounded to the storage type. The accumulators of S are the operands of P as they
/// lie.
template <typename V>
__device__ __forceinline__ void add_values(const SharedMemory<V>& shared, const Scores<V>& s,
                                           WarpRows<V>& rows) {
  using Element = typename V::Element;
  const std::uint32_t v = piece_address<V::kRowBytes>(shared.v, lane_id() % 16, lane_id() / 16);
#pragma unroll
  for (int step = 0; step < V::kTileKeys / 16; ++step) {
    std::uint32_t a[V::kRowTiles][4];
#pragma unroll
    for (int m = 0; m < V::kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&granule)[4] = s[m][2 * step + i / 2];
        a[m][i] = pack<Element>(granule[2 * (i % 2)], granule[2 * (i % 2) + 1]);
      }
    }
#pragma unroll
    for (int pair = 0; pair < V::kColumns / 16; ++pair) {
      std::uint32_t b[4];
      load_matrices_transposed(b, advance<V::kRowBytes>(v, 16 * step, 2 * pair));
#pragma unroll
      for (int m = 0; m < V::kRowTiles; ++m) {
        mma_16x8x16<Element>(rows.out[m][2 * pair], a[m], b[0], b[1]);
        mma_16x8x16<Element>(rows.out[m][2 * pair + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// ---- the loop -----------------------------------------------------------------------------------

/// All tiles of the window in shared memory. Called and left with all threads in step.
template <typename V>
__device__ __forceinline__ void attend_window(const KernelParams& params, SharedMemory<V>& shared,
                                              WarpRows<V>& rows) {
  const AttentionParams& p = params.attention;
  if (shared.stream.rows() == 0) return;
  const bool has_rows = warp_id() * V::kWarpRows < shared.query.q_rows;
  list_rows<V>(p, shared, 0);
  __syncthreads();
  copy_rows<V, V::kTileKeys>(params, shared.k, [&](int r) { return shared.rows[0].k[r]; });
  commit_copies();
  for (int tile = 0; tile * V::kTileKeys < shared.stream.rows(); ++tile) {
    const bool has_next = (tile + 1) * V::kTileKeys < shared.stream.rows();
    const TileRows<V::kTileKeys>& list = shared.rows[tile % 2];
    const TileRows<V::kTileKeys>& next = shared.rows[(tile + 1) % 2];
    Scores<V> s;
    wait_copies<0>();
    __syncthreads();
    copy_rows<V, V::kTileKeys>(params, shared.v, [&](int r) { return list.v[r]; });
    commit_copies();
    if (has_next) list_rows<V>(p, shared, tile + 1);
    if (has_rows) multiply_keys<V>(shared, s);
    wait_copies<0>();
    __syncthreads();
    if (has_next) {
      copy_rows<V, V::kTileKeys>(params, shared.k, [&](int r) { return next.k[r]; });
      commit_copies();
    }
    if (has_rows) {
      weigh_keys<V>(p, shared, list, s, rows);
      if constexpr (V::kHasFirstOrder) {
        const int rest_begin = shared.stream.begin[semantics::kBlockMeanCode];
        sum_rest<V>(s, (rest_begin - tile * V::kTileKeys) / 8, rows);
      }
      add_values<V>(shared, s, rows);
    }
  }
}

/// O += (sum of the rest) · Q·M (S-23): rows of the map (first_order.hpp), which stand for channels
/// of O, take the place of keys. Called and left with all threads in step.
template <typename V>
__device__ __forceinline__ void add_first_order(const KernelParams& params, SharedMemory<V>& shared,
                                                WarpRows<V>& rows) {
  const AttentionParams& p = params.attention;
  const QueryBlock& q = shared.query;
  const float factor = p.map_factor[first_order_block_of(p, q)];
  float share[V::kRowTiles][2];
#pragma unroll
  for (int m = 0; m < V::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = rows.rest_sum[m][half];
      sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 1);
      sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 2);
      share[m][half] = sum * factor;
    }
  }
  constexpr int kChannels = V::kTileKeys < V::kColumns ? V::kTileKeys : V::kColumns;  // of a tile
#pragma unroll
  for (int first = 0; first < V::kColumns; first += kChannels) {
    __syncthreads();  // nobody reads K any more
    copy_rows<V, V::kTileKeys>(params, shared.k, [&](int r) {
      return first + r < p.head_dim ? first_order_row(p, q, first + r, sizeof(typename V::Element))
                                    : zero_row();
    });
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    Scores<V> s;
    multiply_keys<V>(shared, s);
#pragma unroll
    for (int m = 0; m < V::kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kChannels / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float added = s[m][n][i] * share[m][i / 2];
          rows.out[m][first / 8 + n][i] += isfinite(added) ? added : 0.0F;
        }
      }
    }
  }
}

// ---- the result ---------------------------------------------------------------------------------

template <typename Element>
__device__ inline void store_pair(Element* row, int channel, const KernelParams& params, float low,
                                  float high) {
  const int head_dim = params.attention.head_dim;
  if (params.has_aligned_rows) {
    if (channel < head_dim) {
      *reinterpret_cast<std::uint32_t*>(row + channel) = pack<Element>(low, high);
    }
    return;
  }
  if (channel < head_dim) row[channel] = from_float<Element>(low);
  if (channel + 1 < head_dim) row[channel + 1] = from_float<Element>(high);
}

/// Writes out and lse of the warp's rows.
template <typename V>
__device__ __forceinline__ void store_rows(const KernelParams& params, const QueryBlock& q,
                                           const WarpRows<V>& rows) {
  using Element = typename V::Element;
  const AttentionParams& p = params.attention;
#pragma unroll
  for (int m = 0; m < V::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      semantics::SoftmaxState<float> state{rows.reference[m][half] * p.scale_log2,
                                           rows.sum[m][half]};
      state.sum += __shfl_xor_sync(0xFFFFFFFFU, state.sum, 1);
      state.sum += __shfl_xor_sync(0xFFFFFFFFU, state.sum, 2);
      const int row = warp_id() * V::kWarpRows + 16 * m + 8 * half + lane_id() / 4;
      if (row >= q.q_rows) continue;
      const index_t token = query_token(p, q, q.q_begin + row);
      auto* out = reinterpret_cast<Element*>(p.out.data) + q.batch * p.out.batch_stride +
                  q.head * p.out.head_stride + token * p.out.token_stride;
      const float normaliser = semantics::normaliser(state);
#pragma unroll
      for (int n = 0; n < V::kColumns / 8; ++n) {
        store_pair(out, 8 * n + 2 * (lane_id() % 4), params, rows.out[m][n][2 * half] * normaliser,
                   rows.out[m][n][2 * half + 1] * normaliser);
      }
      if (p.lse != nullptr && lane_id() % 4 == 0) {
        state.max *= std::numbers::ln2_v<float>;
        const index_t head = static_cast<index_t>(q.batch) * p.heads_q + q.head;
        p.lse[head * p.len_q + token] = semantics::log_sum_exp(state);
      }
    }
  }
}

/// Recomputes rows that hold a NaN, which may come from a value that they do not see.
template <typename V>
__device__ __forceinline__ void repair_rows(const AttentionParams& p, const QueryBlock& q,
                                            const WarpRows<V>& rows) {
  bool is_lost = false;  // row 8·(lane % 4) + lane / 4 of the warp holds a NaN
#pragma unroll
  for (int eighth = 0; eighth < 2 * V::kRowTiles; ++eighth) {
    bool has_nan = false;
#pragma unroll
    for (int n = 0; n < V::kColumns / 8; ++n) {
      const float(&out)[4] = rows.out[eighth / 2][n];
      has_nan |= isnan(out[2 * (eighth % 2)]) || isnan(out[2 * (eighth % 2) + 1]);
    }
    const unsigned lanes = __ballot_sync(0xFFFFFFFFU, has_nan);
    const bool has_row_nan = ((lanes >> (lane_id() / 4 * 4)) & 0xFU) != 0;
    if (lane_id() % 4 == eighth) is_lost = has_row_nan;
  }
  for (unsigned lost = __ballot_sync(0xFFFFFFFFU, is_lost); lost != 0; lost &= lost - 1) {
    const int lane = __ffs(static_cast<int>(lost)) - 1;
    const int row = warp_id() * V::kWarpRows + 8 * (lane % 4) + lane / 4;
    if (row < q.q_rows) recompute_row<typename V::Element>(p, q, row);
  }
}

template <typename V>
__global__ void __launch_bounds__(V::kThreads, V::kCtasPerSm)
    attention_kernel(const __grid_constant__ KernelParams params) {
  extern __shared__ __align__(128) std::byte shared_bytes[];
  auto& shared = *reinterpret_cast<SharedMemory<V>*>(shared_bytes);
  const AttentionParams& p = params.attention;
  if (threadIdx.x == 0) {
    shared.query = query_part<V>(p, static_cast<int>(blockIdx.x));
    shared.end_block = readable_blocks(p, shared.query);
  }
  __syncthreads();
  const QueryBlock& q = shared.query;
  if (q.q_rows == 0) return;
  copy_queries<V>(params, shared);
  commit_copies();

  WarpRows<V> rows;
#pragma unroll
  for (int m = 0; m < V::kRowTiles; ++m) rows.reference[m][0] = rows.reference[m][1] = -INFINITY;
  for (int first = 0; first < shared.end_block; first = shared.window.first_block + kWindowBlocks) {
    __syncthreads();  // nobody reads the last window any more
    list_window(p, q, first, shared.end_block, shared.window, warp_id(), V::kWarps);
    __syncthreads();
    if (threadIdx.x == 0) shared.stream = KvStream(p, shared.window);
    __syncthreads();
    attend_window<V>(params, shared, rows);
  }
  wait_copies<0>();
  if constexpr (V::kHasFirstOrder) add_first_order<V>(params, shared, rows);
  store_rows<V>(params, q, rows);
  __syncwarp();
  if (p.is_causal) repair_rows<V>(p, q, rows);
}

}  // namespace psa::cuda::sm80
