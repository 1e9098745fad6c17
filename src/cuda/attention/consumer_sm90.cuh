// SPDX-License-Identifier: Apache-2.0
#pragma once

// A consumer warpgroup of the sm_90a attention kernel (kernel_sm90.cuh): 64 query rows from their
// logits to the output.

#include <climits>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "cuda/attention/kv_stream.cuh"
#include "cuda/attention/recompute.cuh"
#include "cuda/attention/storage_sm90.cuh"
#include "cuda/device/barrier.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/math.cuh"
#include "cuda/device/wgmma.cuh"
#include "semantics/online_softmax.hpp"

namespace psa::cuda::sm90 {

/// Raising the reference maximum of a row costs a pass over its outputs, so it may lag by 2^8.
inline constexpr float kMaxLagLog2 = 8.0F;

__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, 2));
}
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xFFFFFFFFU, x, 1);
  return x + __shfl_xor_sync(0xFFFFFFFFU, x, 2);
}

template <typename Traits>
struct Consumer {
  using Element = typename Traits::Element;
  using Storage = SharedStorage<Traits>;
  using Notes = TileNotes<Traits::kTileKv>;
  static constexpr int kLogits = Traits::kTileKv / 2;  // of a thread: two rows, a quarter each
  static constexpr int kOutputs = Traits::kHeadDim / 2;

  const AttentionParams& p;
  Storage& shared;
  int consumer, warp, lane;  // warp inside the warpgroup
  RingIndex<Traits::kKeyStages> k_ring;
  RingIndex<Traits::kValueStages> v_ring;
  int note_slot = 0;
  std::uint32_t q_parity = 0;

  // The two rows of this thread.
  float max[2];       // reference of the exponents, raw logits
  int limit[2];       // bits of the largest logit that max may stay behind; INT_MIN: look closer
  float sum[2];       // this lane's share
  float rest_sum[2];  // of the block means, part of sum; only with a first-order term
  int position[2];    // on the axis of the keys; INT_MAX without causal
  float out[kOutputs];
  std::uint32_t weights[kLogits / 2];  // P, packed for the tensor cores

  __device__ Consumer(const AttentionParams& params, Storage& storage)
      : p(params),
        shared(storage),
        consumer(uniform(static_cast<int>(threadIdx.x) / kWarpgroup - 1)),
        warp(uniform(static_cast<int>(threadIdx.x) / 32 % 4)),
        lane(static_cast<int>(threadIdx.x) % 32) {}

  __device__ int first_row() const { return consumer * 64 + warp * 16 + lane / 4; }

  __device__ void multiply_keys(float (&s)[kLogits]) const {
    const Operand q = operand(shared_address(shared.q), 16, Storage::kGranuleBytes)
                          .at(consumer * 8 * Storage::kGranuleBytes);
    const Operand k = operand(shared_address(shared.k), 16, Storage::kGranuleBytes)
                          .at(k_ring.slot * Storage::kTileBytes);
#pragma unroll
    for (int step = 0; step < Traits::kHeadDim / 16; ++step) {
      const int at = step / 4 * static_cast<int>(kHalfBytes) + step % 4 * 32;
      Wgmma<Element, Traits::kTileKv>::shared_times_shared(s, q.at(at), k.at(at), step > 0);
    }
  }

  __device__ void multiply_values() {
    const Operand v = operand(shared_address(shared.v), kHalfBytes, Storage::kGranuleBytes)
                          .at(v_ring.slot * Storage::kTileBytes);
#pragma unroll
    for (int step = 0; step < Traits::kTileKv / 16; ++step) {
      Wgmma<Element, Traits::kHeadDim>::registers_times_shared(
          out, &weights[4 * step], v.at(step * 2 * Storage::kGranuleBytes));
    }
  }

  __device__ void release(Barrier* empty) const {
    if (lane == 0) arrive(empty);
  }

  __device__ void mask(float (&s)[kLogits], const Notes& notes) const {
#pragma unroll
    for (int granule = 0; granule < Traits::kTileKv / 8; ++granule) {
      const int column = granule * 8 + lane % 4 * 2;
      const int2 last = *reinterpret_cast<const int2*>(&notes.last[column]);
      const float2 adjust = *reinterpret_cast<const float2*>(&notes.adjust[column]);
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        // A select, not a sum: what must not be seen may be NaN.
        float* pair = &s[4 * granule + 2 * row];
        pair[0] = last.x > position[row] ? -INFINITY : pair[0] + adjust.x;
        pair[1] = last.y > position[row] ? -INFINITY : pair[1] + adjust.y;
      }
      asm volatile("" ::: "memory");  // loads of all granules at once would take too many registers
    }
  }

  /// Whether a row of this warp needs raise_references(). Compares logits as integers, of which
  /// Hopper takes the largest of three at a time; above zero they are ordered as floats are.
  __device__ bool is_above_limit(const float (&s)[kLogits]) const {
    int top[2] = {INT_MIN, INT_MIN};
#pragma unroll
    for (int j = 0; j < kLogits; j += 2) {
      int& row_top = top[j / 2 % 2];
      row_top = __vimax3_s32(row_top, __float_as_int(s[j]), __float_as_int(s[j + 1]));
    }
    return __any_sync(0xFFFFFFFFU, top[0] > limit[0] || top[1] > limit[1]);
  }

  /// Raises max where it lags too far. Returns the factors that bring out and sum to it.
  __device__ float2 raise_references(float (&s)[kLogits], float (&shift)[2]) {
    float top[2] = {max[0], max[1]};
#pragma unroll
    for (int j = 0; j < kLogits; ++j) top[j / 2 % 2] = fmaxf(top[j / 2 % 2], s[j]);
    float factor[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      top[row] = quad_max(top[row]);
      const bool keeps = (top[row] - max[row]) * p.scale_log2 <= kMaxLagLog2;
      const float next = keeps ? max[row] : top[row];
      // Nothing seen yet: any finite reference will do.
      shift[row] = next == -INFINITY ? 0.0F : next * p.scale_log2;
      factor[row] = keeps ? 1.0F : exp2_approximate(max[row] * p.scale_log2 - shift[row]);
      max[row] = next;
      sum[row] *= factor[row];
      if constexpr (Traits::kHasFirstOrder) rest_sum[row] *= factor[row];
      const float highest = next + kMaxLagLog2 / p.scale_log2;
      limit[row] = highest >= 0.0F ? __float_as_int(highest) : INT_MIN;
      if (fabsf(shift[row]) <= kLargestShift) continue;
      limit[row] = INT_MIN;
      shift[row] = 0.0F;
#pragma unroll
      for (int j = 2 * row; j < kLogits; j += 4) {
        s[j] -= next;
        s[j + 1] -= next;
      }
    }
    return {factor[0], factor[1]};
  }

  /// s becomes P. Returns the factors that bring out to the new reference.
  __device__ float2 soft_max(float (&s)[kLogits], const Notes& notes) {
    if (*reinterpret_cast<const std::uint32_t*>(notes.is_masked) != 0) mask(s, notes);
    float2 factor{1.0F, 1.0F};
    float shift[2] = {max[0] * p.scale_log2, max[1] * p.scale_log2};
    if (is_above_limit(s)) factor = raise_references(s, shift);
#pragma unroll
    for (int granule = 0; granule < Traits::kTileKv / 8; ++granule) {
      const float bias = notes.bias[granule];
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const float constant = bias - shift[row];
        float* pair = &s[4 * granule + 2 * row];
        pair[0] = exp2_approximate(fmaf(pair[0], p.scale_log2, constant));
        pair[1] = exp2_approximate(fmaf(pair[1], p.scale_log2, constant));
      }
    }
    // Behind the exponentials, so that none of them waits for a sum.
#pragma unroll
    for (int j = 0; j < kLogits; j += 2) sum[j / 2 % 2] += s[j] + s[j + 1];
    if constexpr (Traits::kHasFirstOrder) sum_rest(s, notes.rest_granule);
    return factor;
  }

  __device__ void sum_rest(const float (&s)[kLogits], int first_granule) {
    if (first_granule >= Traits::kTileKv / 8) return;
#pragma unroll
    for (int j = 0; j < kLogits; j += 2) {
      if (j / 4 >= first_granule) rest_sum[j / 2 % 2] += s[j] + s[j + 1];
    }
  }

  __device__ void rescale(float2 factor) {
    const bool is_needed = factor.x != 1.0F || factor.y != 1.0F;
    if (!__any_sync(0xFFFFFFFFU, is_needed)) return;
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) out[j] *= j / 2 % 2 == 0 ? factor.x : factor.y;
  }

  __device__ void pack_weights(const float (&s)[kLogits]) {
#pragma unroll
    for (int j = 0; j < kLogits / 2; ++j) weights[j] = pack<Element>(s[2 * j], s[2 * j + 1]);
  }

  /// After the last use of this tile's K.
  __device__ void release_keys(bool is_last) {
    release(&shared.k_empty[k_ring.slot]);
    if (is_last) release(&shared.q_empty);
    k_ring.advance();
  }

  __device__ void advance_notes() {
    note_slot = note_slot + 1 == Storage::kNoteSlots ? 0 : note_slot + 1;
  }

  /// Waits for a tile; its keys were written by threads, but the tensor cores read them.
  const __device__ Notes& await_tile() {
    wait(&shared.k_full[k_ring.slot], k_ring.parity);
    fence_async_proxy();
    return shared.notes[note_slot];
  }

  __device__ void await_values() {
    wait(&shared.v_full[v_ring.slot], v_ring.parity);
    fence_async_proxy();
  }

  __device__ void start(const QueryBlock& q) {
    wait(&shared.q_full, q_parity);
    q_parity ^= 1U;
    fence_async_proxy();
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      max[row] = -INFINITY;
      limit[row] = INT_MIN;
      sum[row] = 0.0F;
      rest_sum[row] = 0.0F;
      position[row] = p.is_causal ? q.first_position + first_row() + 8 * row : INT_MAX;
    }
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) out[j] = 0.0F;
  }

  /// One query block, whose first tile has arrived.
  __device__ void run_query_block(const Notes& first_notes) {
    const QueryBlock q = query_block_of(p, first_notes.item);
    start(q);
    bool is_last = first_notes.is_last;
    {
      float s[kLogits];
      begin_products();
      multiply_keys(s);
      commit_products();
      wait_products<0>();
      pin(s);
      release_keys(is_last);
      soft_max(s, first_notes);
      pack_weights(s);
      advance_notes();
    }
    while (!is_last) {
      const Notes& notes = await_tile();
      is_last = notes.is_last;
      if constexpr (Traits::kHasFirstOrder) {
        if (is_last) {
          finish_with_map(notes.map_factor);
          break;
        }
      }
      step(notes, is_last);
      advance_notes();
    }
    if constexpr (!Traits::kHasFirstOrder) finish();
    store(q);
    if (p.is_causal) repair(q);
  }

  /// out += P·V of the last tile.
  __device__ void finish() {
    await_values();
    pin(out);
    begin_products();
    multiply_values();
    commit_products();
    wait_products<0>();
    pin(out);
    release(&shared.v_empty[v_ring.slot]);
    v_ring.advance();
  }

  /// The same, and out += (sum of the rest) · Q·M (S-23). The map lies in a slot of K, its rows
  /// being channels of out, so that the product has the layout of out.
  __device__ void finish_with_map(float map_factor) {
    float term[kLogits];
    begin_products();
    multiply_keys(term);
    commit_products();
    finish();
    pin(term);
    __syncwarp();  // all lanes have read the notes: no barrier of the consumers was in between
    release_keys(/*is_last=*/true);
    advance_notes();
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float share = quad_sum(rest_sum[row]) * map_factor;
#pragma unroll
      for (int j = 2 * row; j < kOutputs; j += 4) {
#pragma unroll
        for (int i = j; i < j + 2; ++i) {
          const float added = term[i] * share;
          out[i] += isfinite(added) ? added : 0.0F;
        }
      }
    }
  }

  /// S of this tile, and out += P·V of the tile before.
  __device__ void step(const Notes& notes, bool is_last) {
    float s[kLogits];
    sync_named(kTurnBarrier + consumer, 2 * kWarpgroup);
    begin_products();
    multiply_keys(s);
    commit_products();
    await_values();
    pin(out);
    begin_products();
    multiply_values();
    commit_products();
    arrive_named(kTurnBarrier + 1 - consumer, 2 * kWarpgroup);
    wait_products<1>();
    pin(s);
    release_keys(is_last);
    const float2 factor = soft_max(s, notes);
    wait_products<0>();
    pin(out);
    release(&shared.v_empty[v_ring.slot]);
    v_ring.advance();
    rescale(factor);
    pack_weights(s);
  }

  __device__ void store(const QueryBlock& q) const {
    constexpr auto kLn2 = std::numbers::ln2_v<float>;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const semantics::SoftmaxState<float> state{max[row] * p.scale_log2 * kLn2,
                                                 quad_sum(sum[row])};
      const int r = first_row() + 8 * row;
      if (r >= q.q_rows) continue;
      const float scale = semantics::normaliser(state);
      const index_t token = query_token(p, q, q.q_begin + r);
      if (p.lse != nullptr && lane % 4 == 0) {
        const index_t head = static_cast<index_t>(q.batch) * p.heads_q + q.head;
        p.lse[head * p.len_q + token] = semantics::log_sum_exp(state);
      }
      std::byte* line = p.out.data + (q.batch * p.out.batch_stride + q.head * p.out.head_stride +
                                      token * p.out.token_stride) *
                                         static_cast<index_t>(sizeof(Element));
#pragma unroll
      for (int j = 0; j < Traits::kHeadDim / 8; ++j) {
        const int column = 8 * j + lane % 4 * 2;
        if (column >= p.head_dim) break;
        *reinterpret_cast<std::uint32_t*>(line + column * sizeof(Element)) =
            pack<Element>(out[4 * j + 2 * row] * scale, out[4 * j + 2 * row + 1] * scale);
      }
    }
  }

  /// Rows of this warp that hold a NaN: of row l/4 + 8·(l%4) in lane l, l%4 < 2. See recompute.cuh.
  __device__ void repair(const QueryBlock& q) const {
    bool is_lost = false;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      bool has_nan = false;
#pragma unroll
      for (int j = 0; j < Traits::kHeadDim / 8; ++j) {
        has_nan |= isnan(out[4 * j + 2 * row]) || isnan(out[4 * j + 2 * row + 1]);
      }
      const unsigned lanes = __ballot_sync(0xFFFFFFFFU, has_nan);
      if (lane % 4 == row) is_lost = ((lanes >> (lane / 4 * 4)) & 0xFU) != 0;
    }
    __syncwarp();
    for (unsigned lost = __ballot_sync(0xFFFFFFFFU, is_lost); lost != 0; lost &= lost - 1U) {
      const int holder = __ffs(static_cast<int>(lost)) - 1;
      const int row = consumer * 64 + warp * 16 + 8 * (holder % 4) + holder / 4;
      if (row < q.q_rows) recompute_row<Element>(p, q, row);
    }
  }

  __device__ void run() {
    if (consumer == 1) arrive_named(kTurnBarrier, 2 * kWarpgroup);  // consumer 0 begins
    for (;;) {
      const Notes& notes = await_tile();
      if (notes.item == kNoItem) return;
      run_query_block(notes);
    }
  }
};

}  // namespace psa::cuda::sm90
