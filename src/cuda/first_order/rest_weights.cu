// SPDX-License-Identifier: Apache-2.0

// Mass and weights of the unread blocks of each query block (S-23).
//
//   in   q [B, Hq, Lq, D], levels [B, Hq, Nq, Nk], means, variances and units of block_moments
//   out  mass    [m, Nq, Nk]           log2 of 1 + v/2
//        weights [m, Nq, weight_row]   w of S-23 times the block's unit, scaled to fit f16
//        factor  [m, Nq]               what undoes that scale, times soft-max scale, over the mass
//
// One CTA of a warp per query block for kBlocks query blocks of a head, so that the key means are
// read once for all of them:
//
//   each warp    means of its block's queries and of their squares, to shared memory
//   all threads  a KV block each: logits at the kBlocks mean queries and mass, to global memory
//   each warp    its row of logits to weights: sums, then the weights themselves
//
// Cost: 2 D multiply-adds in float per query block and KV block; one read of q.

#include <bit>
#include <cmath>
#include <cstdint>

#include "cuda/attention/params.hpp"
#include "cuda/device/element.cuh"
#include "cuda/device/kv_rows.cuh"
#include "cuda/device/math.cuh"
#include "cuda/first_order/first_order.hpp"
#include "cuda/grid.hpp"
#include "cuda/launch.cuh"
#include "semantics/first_order.hpp"

namespace psa::cuda {
namespace {

constexpr int kBlocks = 8;  // query blocks of a CTA; at most 8, for rest_sets_of()
constexpr int kThreads = 32 * kBlocks;
constexpr int kMaxRow = 256;        // elements of a row: head_dim <= 256
constexpr int kLoadsAtOnce = 8;     // of queries, by lane
constexpr int kChannelsAtOnce = 8;  // of key means, by thread
constexpr int kLogitsAtOnce = 8;    // of a row, by lane

/// The scaled weights of a row add up to 2^7 .. 2^8. With covariances of at most 2^7 (2^6, but for
/// rounding) no element of a map reaches the largest f16.
constexpr int kSumLog2 = 7;
constexpr int kMaxExponent = 100;

/// Of the rows that qualify of each query block of a CTA.
struct QueryMeans {
  alignas(16) float mean[kBlocks][kMaxRow];
  alignas(16) float square[kBlocks][kMaxRow];
};

struct WeightParams {
  AttentionParams call;
  FirstOrder work;
  float scale;
  int lanes_per_row;  // of q
};

/// The query blocks of a CTA, all of one head.
struct Group {
  int batch, head;
  int work_head, work_head_kv;  // in the work memory
  int first;                    // query block
  index_t kv_length;

  /// Of the level map.
  [[nodiscard]] __device__ index_t map_row(const WeightParams& p, int block) const {
    return (static_cast<index_t>(batch) * p.call.heads_q + head) * p.call.num_q_blocks + block;
  }
  [[nodiscard]] __device__ index_t row(const WeightParams& p, int block) const {
    return static_cast<index_t>(work_head) * p.call.num_q_blocks + block;
  }
  /// Of the first KV block.
  [[nodiscard]] __device__ index_t kv_row(const WeightParams& p) const {
    return static_cast<index_t>(work_head_kv) * p.call.num_kv_blocks;
  }
};

__device__ Group group_of(const WeightParams& p, int cta) {
  const int groups = (p.call.num_q_blocks + kBlocks - 1) / kBlocks;
  Group group{};
  group.first = cta % groups * kBlocks;
  const int heads_per_kv = p.call.heads_q / p.call.heads_kv;
  group.work_head = cta / groups;
  group.work_head_kv = group.work_head / heads_per_kv;
  const int head = p.work.heads.first * heads_per_kv + group.work_head;
  group.head = head % p.call.heads_q;
  group.batch = head / p.call.heads_q;
  group.kv_length = key_length(p.call.kv_lengths, group.batch, p.call.len_kv);
  return group;
}

__device__ float warp_max(float x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, lanes));
  }
  return x;
}

/// Writes the means of the rows that qualify and of their squares, [row] each; returns whether
/// there is one. One warp: `lanes` of them, a power of two, hold a row together.
template <typename Element, bool kAligned>
__device__ bool mean_query(const WeightParams& p, const Group& group, semantics::Range rows,
                           float* mean, float* square) {
  const int lanes = p.lanes_per_row;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int channel = lane % lanes * kThreadChannels;
  const int channels = p.call.head_dim - channel;
  const int rows_per_load = 32 / lanes;
  const auto* head = reinterpret_cast<const Element*>(p.call.q.data) +
                     group.batch * p.call.q.batch_stride + group.head * p.call.q.head_stride +
                     channel;
  const std::int32_t* order = p.call.q_order.index == nullptr
                                  ? nullptr
                                  : p.call.q_order.index +
                                        group.batch * p.call.q_order.batch_stride +
                                        group.head * p.call.q_order.head_stride;
  float sum[kThreadChannels] = {};
  float square_sum[kThreadChannels] = {};
  int count = 0;
  for (index_t first = rows.begin + lane / lanes; first - lane / lanes < rows.end;
       first += kLoadsAtOnce * rows_per_load) {
    uint4 packed[kLoadsAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kLoadsAtOnce; ++i) {
      const index_t position = first + i * rows_per_load;
      if (position >= rows.end || channels <= 0) continue;
      const index_t token = order == nullptr ? position : order[position];
      packed[i] = load_channels<kAligned>(head + token * p.call.q.token_stride, channels);
    }
#pragma unroll
    for (int i = 0; i < kLoadsAtOnce; ++i) {
      float x[kThreadChannels];
      float norm2 = 0.0F;
#pragma unroll
      for (int pair = 0; pair < kThreadChannels / 2; ++pair) {
        const float2 two = unpack_pair<Element>(packed[i], pair);
        x[2 * pair] = two.x;
        x[2 * pair + 1] = two.y;
        norm2 += two.x * two.x + two.y * two.y;
      }
      for (int apart = lanes / 2; apart > 0; apart /= 2) {
        norm2 += __shfl_xor_sync(0xFFFFFFFFU, norm2, apart);
      }
      if (first + i * rows_per_load >= rows.end || !semantics::is_finite_float(norm2)) continue;
      ++count;
#pragma unroll
      for (int c = 0; c < kThreadChannels; ++c) {
        sum[c] += x[c];
        square_sum[c] += x[c] * x[c];
      }
    }
  }
  for (int apart = lanes; apart < 32; apart *= 2) {
    count += __shfl_xor_sync(0xFFFFFFFFU, count, apart);
#pragma unroll
    for (float& x : sum) x += __shfl_xor_sync(0xFFFFFFFFU, x, apart);
#pragma unroll
    for (float& x : square_sum) x += __shfl_xor_sync(0xFFFFFFFFU, x, apart);
  }
  const auto total = static_cast<float>(count);
  if (lane < lanes && channel < p.work.row) {
#pragma unroll
    for (int c = 0; c < kThreadChannels; ++c) {
      mean[channel + c] = count == 0 ? 0.0F : sum[c] / total;
      square[channel + c] = count == 0 ? 0.0F : square_sum[c] / total;
    }
  }
  return count > 0;
}

__device__ semantics::Range query_rows(const WeightParams& p, int block) {
  return semantics::block_range(block, p.call.block_q, p.call.len_q);
}

/// Products of a KV block's row of `keys`, [n, R, Nk], with a row of each query block.
__device__ void multiply_rows(const WeightParams& p, const Group& group, int kv_block,
                              const float* keys, const float (&rows)[kBlocks][kMaxRow],
                              float (&dot)[kBlocks]) {
  keys += group.kv_row(p) * p.work.row + kv_block;
#pragma unroll 2
  for (int channel = 0; channel < p.work.row; channel += kChannelsAtOnce) {
    float k[kChannelsAtOnce];
#pragma unroll
    for (int c = 0; c < kChannelsAtOnce; ++c) {
      k[c] = keys[static_cast<index_t>(channel + c) * p.call.num_kv_blocks];
    }
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
#pragma unroll
      for (int c = 0; c < kChannelsAtOnce; c += 4) {
        const float4 q = *reinterpret_cast<const float4*>(&rows[i][channel + c]);
        dot[i] =
            fmaf(q.x, k[c], fmaf(q.y, k[c + 1], fmaf(q.z, k[c + 2], fmaf(q.w, k[c + 3], dot[i]))));
      }
    }
  }
}

/// Bit i: the KV block is in the rest set of query block i of the group.
__device__ unsigned rest_sets_of(const WeightParams& p, const Group& group, int kv_block) {
  const semantics::Range keys = semantics::block_range(kv_block, p.call.block_kv, group.kv_length);
  const int blocks = min(kBlocks, p.call.num_q_blocks - group.first);
  const std::uint8_t* levels =
      p.call.levels + group.map_row(p, group.first) * p.call.num_kv_blocks + kv_block;
  std::uint64_t codes = 0;  // a byte each: loaded together
#pragma unroll
  for (int i = 0; i < kBlocks; ++i) {
    if (i < blocks) codes |= std::uint64_t{levels[i * p.call.num_kv_blocks]} << 8 * i;
  }
  unsigned found = 0;
#pragma unroll 1
  for (int i = 0; i < blocks; ++i) {
    const auto visibility = semantics::block_visibility(
        p.call.is_causal, query_rows(p, group.first + i), keys, p.call.len_q, group.kv_length);
    const int code = static_cast<int>(codes >> 8 * i & 0xFFU);
    if (semantics::is_in_rest_set(code, visibility)) found |= 1U << i;
  }
  return found;
}

/// Logits of one KV block at the mean queries of the group, -inf outside of the rest sets, and its
/// mass.
__device__ void write_logits(const WeightParams& p, const Group& group, int kv_block,
                             const QueryMeans& queries) {
  const unsigned rest_sets = rest_sets_of(p, group, kv_block);
  const int blocks = min(kBlocks, p.call.num_q_blocks - group.first);
  const int stride = p.call.num_kv_blocks;
  const index_t at = group.row(p, group.first) * stride + kv_block;
  float dot[kBlocks] = {};
  multiply_rows(p, group, kv_block, p.work.key_mean, queries.mean, dot);
#pragma unroll
  for (int i = 0; i < kBlocks; ++i) {
    if (i >= blocks) break;
    const bool is_in = ((rest_sets >> i) & 1U) != 0;
    p.work.logits[at + i * stride] = is_in ? p.call.scale_log2 * dot[i] : -INFINITY;
    dot[i] = 0.0F;
  }
  multiply_rows(p, group, kv_block, p.work.key_variance, queries.square, dot);
#pragma unroll
  for (int i = 0; i < kBlocks; ++i) {
    if (i >= blocks) break;
    const bool is_in = ((rest_sets >> i) & 1U) != 0;
    p.work.mass[at + i * stride] = is_in ? log2f(semantics::rest_mass(p.scale, dot[i])) : 0.0F;
  }
}

/// One pass of a warp over a row of `count` KV blocks: calls `each(j, logit, extra)`, extra being
/// load(j). kLogitsAtOnce of them are loaded before the first is used.
template <typename Load, typename Each>
__device__ void for_each_logit(const float* logits, int count, const Load& load, const Each& each) {
  using Extra = decltype(load(0));
  for (int first = static_cast<int>(threadIdx.x) % 32; first < count; first += 32 * kLogitsAtOnce) {
    float logit[kLogitsAtOnce];
    Extra extra[kLogitsAtOnce];
#pragma unroll
    for (int i = 0; i < kLogitsAtOnce; ++i) {
      const int j = first + 32 * i;
      const bool is_there = j < count;
      logit[i] = is_there ? logits[j] : 0.0F;
      extra[i] = is_there ? load(j) : Extra{};
    }
#pragma unroll
    for (int i = 0; i < kLogitsAtOnce; ++i) {
      if (first + 32 * i < count) each(first + 32 * i, logit[i], extra[i]);
    }
  }
}

/// e^(logit - largest): 0 outside of the rest set.
__device__ float weight_of(float logit, float largest) {
  return logit == -INFINITY ? 0.0F : exp2f(logit - largest);
}

/// A row of logits becomes weights and their factor. One warp.
template <typename Element>
__device__ void write_weights(const WeightParams& p, const Group& group, int q_block,
                              bool has_query) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const index_t row = group.row(p, q_block);
  const index_t kv_row = group.kv_row(p);
  const float* logits = p.work.logits + row * p.call.num_kv_blocks;
  const float* unit = p.work.unit + kv_row;
  const int count = p.call.num_kv_blocks;
  float largest = -INFINITY;
  for_each_logit(
      logits, count, [](int) { return 0.0F; },
      [&](int, float logit, float) { largest = fmaxf(largest, logit); });
  largest = warp_max(largest);

  float mass_sum = 0.0F;  // of n·w·(1 + v/2)
  float unit_sum = 0.0F;  // of w·unit: a NaN is a block whose moments are not finite
  const float* mass = p.work.mass + row * p.call.num_kv_blocks;
  for_each_logit(
      logits, count,
      [&](int j) {
        return float2{mass[j], unit[j]};
      },
      [&](int j, float logit, float2 block) {
        const float weight = weight_of(logit, largest);
        if (weight == 0.0F) return;
        const auto tokens =
            static_cast<float>(semantics::block_range(j, p.call.block_kv, group.kv_length).size());
        mass_sum += tokens * weight * exp2f(block.x);
        unit_sum += weight * block.y;
      });
  mass_sum = warp_sum(mass_sum);
  unit_sum = warp_sum(unit_sum);

  const int exponent =
      unit_sum > 0.0F ? max(-kMaxExponent, min(kMaxExponent, kSumLog2 - ilogbf(unit_sum))) : 0;
  const float fit = ldexpf(1.0F, exponent);
  float factor = p.scale / mass_sum / fit;
  // Not so for an empty rest set, no row that qualifies, and sums that are not finite.
  const bool has_term = has_query && isfinite(factor) && isfinite(unit_sum);
  if (!has_term) factor = 0.0F;
  auto* weights = reinterpret_cast<Element*>(p.work.weights) + row * p.work.weight_row;
  for_each_logit(
      logits, count, [&](int j) { return unit[j]; },
      [&](int j, float logit, float block_unit) {
        const float weight = has_term ? weight_of(logit, largest) : 0.0F;
        weights[j] = from_float<Element>(weight == 0.0F ? 0.0F : weight * block_unit * fit);
      });
  for (int j = count + lane; j < p.work.weight_row; j += 32) weights[j] = from_float<Element>(0.0F);
  if (lane == 0) p.work.factor[row] = factor;
}

template <typename Element, bool kAligned>
__global__ void __launch_bounds__(kThreads, 2) weigh_rest(const __grid_constant__ WeightParams p) {
  __shared__ QueryMeans queries;
  const Group group = group_of(p, static_cast<int>(blockIdx.x));
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int q_block = group.first + warp;
  bool has_query = false;
  if (q_block < p.call.num_q_blocks) {
    has_query = mean_query<Element, kAligned>(p, group, query_rows(p, q_block), queries.mean[warp],
                                              queries.square[warp]);
  }
  __syncthreads();
  for (int j = static_cast<int>(threadIdx.x); j < p.call.num_kv_blocks; j += kThreads) {
    write_logits(p, group, j, queries);
  }
  __syncthreads();
  if (q_block < p.call.num_q_blocks) write_weights<Element>(p, group, q_block, has_query);
}

// ---- launch ------------------------------------------------------------------------------------

template <typename Element>
void launch(const StageContext& context, const WeightParams& p, unsigned int ctas,
            bool is_aligned) {
  const auto kernel = is_aligned ? weigh_rest<Element, true> : weigh_rest<Element, false>;
  kernel<<<ctas, kThreads, 0, stream_of(context.stream)>>>(p);
  check_launch("weigh_rest");
}

}  // namespace

void rest_weights(const StageContext& context, const core::AttentionParams& call,
                  const FirstOrder& work) {
  const core::Geometry& g = context.geometry;
  const int row_threads = threads_per_row(g.shape.head_dim);
  const WeightParams p{
      .call = make_attention_params(context, call, work.heads, work.heads),
      .work = work,
      .scale = g.scale,
      .lanes_per_row = static_cast<int>(std::bit_ceil(static_cast<unsigned>(row_threads)))};
  const unsigned int ctas = grid_of(work.heads.count * g.heads_per_kv() *
                                    semantics::ceil_div(g.num_q_blocks, index_t{kBlocks}));
  if (g.shape.dtype_kv == DType::kF16) {
    launch<__half>(context, p, ctas, has_aligned_rows(call.inputs.q));
  } else {
    launch<__nv_bfloat16>(context, p, ctas, has_aligned_rows(call.inputs.q));
  }
}

}  // namespace psa::cuda
