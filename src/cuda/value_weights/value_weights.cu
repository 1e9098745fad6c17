// SPDX-License-Identifier: Apache-2.0

// Value weights stage: how far the values of a KV block lie from those that a row sees on average
// (S-27), and where query blocks share a budget its keys from their mean (S-28).
//
//   in   v        [B, Hkv, Lk, D] of 16-bit elements, any strides, read in working order (S-19);
//                 k likewise where its spread counts
//   out  weights  [B, Hkv, Nk]; 0 for a block without keys
//
// Two kernels, with sums in float in an order that never changes:
//
//   measure_rows    one pass over V, another over K where its spread counts. A team of lanes,
//                   8 channels each, holds a stretch of 16 rows in registers: their mean, and how
//                   far they lie from it. A warp makes those of a block of what its stretches have.
//   weigh_values    a CTA per kCtaBlocks blocks of a head. The mean of what a row sees, from the
//                   means of all blocks, in causal calls of those up to its own; then
//                   |v - center|² is on average the sum of both squared distances.
//
// Cost: bound by memory, one read of V (and K); the means, 4 · D bytes a block, are read once per
// kCtaBlocks blocks from the second-level cache.

#include <cmath>

#include "core/ledger.hpp"
#include "cuda/device/kv_rows.cuh"
#include "cuda/device/math.cuh"
#include "cuda/grid.hpp"
#include "cuda/launch.cuh"
#include "cuda/stages.hpp"
#include "semantics/levels.hpp"

namespace psa::cuda {
namespace {

constexpr int kMaxThreads = StretchTiles::kMaxThreads;
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFU;
constexpr int kMaxDim = 256;
constexpr int kCtaBlocks = 32;
constexpr int kWeighThreads = 1024;
constexpr int kWeighWarps = kWeighThreads / kWarp;
constexpr int kLaneChannels = kMaxDim / kWarp;
static_assert(kWeighThreads >= kMaxDim);

/// Of every KV block, in the scratch memory.
struct BlockMoments {
  float* means;   // [B, Hkv, Nk, D]; null: not wanted
  float* spread;  // [B, Hkv, Nk]: mean |row - mean|² of the block
};

struct WeightScratch {
  BlockMoments values;
  BlockMoments keys;  // spread null: it does not count
};

WeightScratch carve(core::Ledger& ledger, const core::Geometry& g) {
  const auto blocks = static_cast<std::size_t>(g.shape.batch * g.shape.heads_kv * g.num_kv_blocks);
  WeightScratch scratch{};
  scratch.values = {ledger.take<float>(blocks * static_cast<std::size_t>(g.shape.head_dim)),
                    ledger.take<float>(blocks)};
  if (core::weighs_keys(g.config)) scratch.keys.spread = ledger.take<float>(blocks);
  return scratch;
}

template <typename Element>
struct ValueParams {
  const std::int32_t* kv_lengths;  // [B] or null
  WeightScratch blocks;
  float* weights;  // [B, Hkv, Nk]
  int heads_kv, len_kv, head_dim, block_kv, num_kv_blocks;
  bool causal;
  int tiles;      // CTAs per head that measure
  int lanes;      // that hold a row together: a power of two
  int stretches;  // of a CTA
};

template <typename Element>
__device__ int block_tokens(const ValueParams<Element>& p, int kv_block, index_t kv_length) {
  return static_cast<int>(semantics::block_range(kv_block, p.block_kv, kv_length).size());
}

/// The 8 channels of a lane.
struct Channels {
  float x[kThreadChannels];
};

/// Mean over the first `tokens` of a stretch; `square`: the sum of the squared distances from it.
template <typename Element>
__device__ Channels stretch_mean(const uint4 (&packed)[kStretchTokens], int tokens, float& square) {
  const float share = 1.0F / static_cast<float>(max(tokens, 1));
  Channels mean;
#pragma unroll
  for (int pair = 0; pair < kThreadChannels / 2; ++pair) {
    float2 sum{0.0F, 0.0F};
#pragma unroll
    for (int u = 0; u < kStretchTokens; ++u) {
      const float2 v = unpack_pair<Element>(packed[u], pair);
      if (u < tokens) sum = {fmaf(share, v.x, sum.x), fmaf(share, v.y, sum.y)};
    }
#pragma unroll
    for (int u = 0; u < kStretchTokens; ++u) {
      const float2 v = unpack_pair<Element>(packed[u], pair);
      const float2 d{v.x - sum.x, v.y - sum.y};
      if (u < tokens) square = fmaf(d.y, d.y, fmaf(d.x, d.x, square));
    }
    mean.x[2 * pair] = sum.x;
    mean.x[2 * pair + 1] = sum.y;
  }
  return mean;
}

/// What the stretches of a CTA have, in shared memory.
struct Stretches {
  float* means;   // [stretches, head_dim]
  float* square;  // [stretches]: sum of |v - mean|²
};

/// Mean and spread of a block, by a warp; `first`: its first stretch in the CTA.
template <typename Element>
__device__ void measure_block(const ValueParams<Element>& p, const BlockMoments& out,
                              const Stretches& cta, int head, int kv_block, int first, int tokens) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const index_t block = index_t{head} * p.num_kv_blocks + kv_block;
  const int stretches = (tokens + kStretchTokens - 1) / kStretchTokens;
  const float token_share = 1.0F / static_cast<float>(tokens);
  const auto share_of = [&](int s) {
    return static_cast<float>(min(kStretchTokens, tokens - s * kStretchTokens)) * token_share;
  };
  float spread = 0.0F;
  for (int channel = lane; channel < p.head_dim; channel += kWarp) {
    const float* const means = cta.means + first * p.head_dim + channel;
    float mean = 0.0F;
    for (int s = 0; s < stretches; ++s) mean = fmaf(share_of(s), means[s * p.head_dim], mean);
    for (int s = 0; s < stretches; ++s) {
      const float d = means[s * p.head_dim] - mean;
      spread = fmaf(share_of(s) * d, d, spread);
    }
    if (out.means != nullptr) out.means[block * p.head_dim + channel] = mean;
  }
  if (lane < stretches) spread = fmaf(cta.square[first + lane], token_share, spread);
  spread = warp_sum(spread);
  if (lane == 0) out.spread[block] = spread;
}

template <typename Element, bool kAligned>
__global__ void __launch_bounds__(kMaxThreads)
    measure_rows(const __grid_constant__ ValueParams<Element> p,
                 const __grid_constant__ KvRows<Element> rows,
                 const __grid_constant__ BlockMoments out) {
  extern __shared__ float shared[];
  const Stretches cta{shared, shared + p.stretches * p.head_dim};
  const int head = static_cast<int>(blockIdx.x) / p.tiles;
  const int tile = static_cast<int>(blockIdx.x) % p.tiles;
  const index_t kv_length = key_length(p.kv_lengths, head / p.heads_kv, p.len_kv);
  const int thread = static_cast<int>(threadIdx.x);
  const int own = thread / p.lanes;  // stretch of the CTA
  const int stretch = tile * p.stretches + own;
  const int channel = thread % p.lanes * kThreadChannels;
  const int tokens = static_cast<int>(semantics::pooled_weight(stretch, kStretchTokens, kv_length));

  uint4 packed[kStretchTokens] = {};
  if (tokens > 0 && channel < p.head_dim) {
    load_stretch<kAligned>(rows.head(head / p.heads_kv, head % p.heads_kv),
                           stretch * kStretchTokens, tokens, channel, p.head_dim - channel, packed);
  }
  float square = 0.0F;
  const Channels mean = stretch_mean<Element>(packed, tokens, square);
#pragma unroll
  for (int c = 0; c < kThreadChannels; ++c) {
    if (channel + c < p.head_dim) cta.means[own * p.head_dim + channel + c] = mean.x[c];
  }
  for (int distance = p.lanes / 2; distance > 0; distance /= 2) {
    square += __shfl_xor_sync(kAllLanes, square, distance);
  }
  if (channel == 0) cta.square[own] = square;
  __syncthreads();

  const int block_stretches = p.block_kv / kStretchTokens;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  for (int b = thread / kWarp; b < p.stretches / block_stretches; b += warps) {
    const int kv_block = tile * p.stretches / block_stretches + b;
    if (kv_block >= p.num_kv_blocks) break;
    const int real = block_tokens(p, kv_block, kv_length);
    if (real > 0) measure_block(p, out, cta, head, kv_block, b * block_stretches, real);
  }
}

/// Sum of the values of some blocks, by a warp: lane l has channels l, l + 32, ...
struct ValueSum {
  float channel[kLaneChannels];
  int tokens;
};

/// The blocks of a KV head, by a warp.
template <typename Element>
struct HeadBlocks {
  const ValueParams<Element>& p;
  index_t kv_length;
  const float* means;   // [Nk, D]
  const float* spread;  // [Nk]
  int lane;

  /// Calls body(c, mean) for the channels of the lane.
  template <typename Body>
  __device__ void for_each_mean(int kv_block, const Body& body) const {
    const float* const row = means + index_t{kv_block} * p.head_dim;
#pragma unroll
    for (int c = 0; c < kLaneChannels; ++c) {
      const int channel = c * kWarp + lane;
      if (channel < p.head_dim) body(c, __ldg(row + channel));
    }
  }

  /// A block of which a number is not finite is left out. No branch, so that loads of several
  /// blocks are under way at once.
  __device__ void add(int kv_block, ValueSum& sum) const {
    const bool is_finite = __ldg(spread + kv_block) <= semantics::kLargestFloat;
    const int tokens = is_finite ? block_tokens(p, kv_block, kv_length) : 0;
    sum.tokens += tokens;
    for_each_mean(kv_block, [&](int c, float mean) {
      const float value = is_finite ? mean : 0.0F;
      sum.channel[c] = fmaf(static_cast<float>(tokens), value, sum.channel[c]);
    });
  }

  /// `seen`: the values whose mean the block is held against.
  [[nodiscard]] __device__ float weight(int kv_block, const ValueSum& seen) const {
    const float share = 1.0F / static_cast<float>(max(seen.tokens, 1));
    float square = 0.0F;
    for_each_mean(kv_block, [&](int c, float mean) {
      const float d = mean - share * seen.channel[c];
      square = fmaf(d, d, square);
    });
    return semantics::value_weight(__ldg(spread + kv_block) + warp_sum(square));
  }
};

/// Adds up what the warps of the CTA have, in their order; every warp gets the sum.
__device__ ValueSum add_warps(const ValueSum& own) {
  __shared__ float channels[kWeighWarps][kMaxDim];
  __shared__ int tokens[kWeighWarps];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
#pragma unroll
  for (int c = 0; c < kLaneChannels; ++c) {
    channels[thread / kWarp][c * kWarp + lane] = own.channel[c];
  }
  if (lane == 0) tokens[thread / kWarp] = own.tokens;
  __syncthreads();
  if (thread < kMaxDim) {
    for (int warp = 1; warp < kWeighWarps; ++warp) channels[0][thread] += channels[warp][thread];
  }
  if (thread == 0) {
    for (int warp = 1; warp < kWeighWarps; ++warp) tokens[0] += tokens[warp];
  }
  __syncthreads();
  ValueSum all{};
#pragma unroll
  for (int c = 0; c < kLaneChannels; ++c) all.channel[c] = channels[0][c * kWarp + lane];
  all.tokens = tokens[0];
  return all;
}

template <typename Element>
__global__ void __launch_bounds__(kWeighThreads)
    weigh_values(const __grid_constant__ ValueParams<Element> p) {
  const int ctas = (p.num_kv_blocks + kCtaBlocks - 1) / kCtaBlocks;
  const int head = static_cast<int>(blockIdx.x) / ctas;
  const int begin = static_cast<int>(blockIdx.x) % ctas * kCtaBlocks;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const index_t first = index_t{head} * p.num_kv_blocks;
  const HeadBlocks<Element> blocks{p, key_length(p.kv_lengths, head / p.heads_kv, p.len_kv),
                                   p.blocks.values.means + first * p.head_dim,
                                   p.blocks.values.spread + first,
                                   static_cast<int>(threadIdx.x) % kWarp};
  const int real = static_cast<int>(semantics::ceil_div(blocks.kv_length, p.block_kv));
  ValueSum seen{};
  const int end = p.causal ? min(begin, real) : real;
#pragma unroll 4
  for (int j = warp; j < end; j += kWeighWarps) blocks.add(j, seen);
  seen = add_warps(seen);

  constexpr int kWarpBlocks = kCtaBlocks / kWeighWarps;
  const int own = begin + warp * kWarpBlocks;
#pragma unroll 4
  for (int j = begin; j < (p.causal ? min(own, real) : begin); ++j) blocks.add(j, seen);
  for (int j = own; j < min(own + kWarpBlocks, p.num_kv_blocks); ++j) {
    const bool has_keys = j < real;
    if (p.causal && has_keys) blocks.add(j, seen);
    float weight = has_keys ? blocks.weight(j, seen) : 0.0F;
    if (has_keys && p.blocks.keys.spread != nullptr) {
      weight = semantics::error_weight(weight, __ldg(p.blocks.keys.spread + first + j));
    }
    if (blocks.lane == 0) p.weights[first + j] = weight;
  }
}

// ---- launch ------------------------------------------------------------------------------------

template <typename Element>
void launch(const StageContext& context, const core::ValueWeightsParams& params) {
  const core::Geometry& g = context.geometry;
  core::Ledger scratch(context.scratch);
  ValueParams<Element> p{};
  p.kv_lengths = params.inputs.kv_lengths;
  p.blocks = carve(scratch, g);
  p.weights = params.weights;
  p.heads_kv = static_cast<int>(g.shape.heads_kv);
  p.len_kv = static_cast<int>(g.shape.len_kv);
  p.head_dim = static_cast<int>(g.shape.head_dim);
  p.block_kv = g.config.block_kv;
  p.num_kv_blocks = static_cast<int>(g.num_kv_blocks);
  p.causal = g.config.causal;
  const StretchTiles tiles = stretch_tiles(g.shape.head_dim, g.shape.len_kv);
  p.lanes = tiles.lanes;
  p.stretches = tiles.stretches;
  p.tiles = tiles.tiles;

  const index_t heads = g.shape.batch * g.shape.heads_kv;
  const auto shared = sizeof(float) * static_cast<std::size_t>(p.stretches) *
                      static_cast<std::size_t>(p.head_dim + 1);
  const auto measure = [&](const TensorView& tensor, const BlockMoments& out) {
    const auto kernel =
        has_aligned_rows(tensor) ? measure_rows<Element, true> : measure_rows<Element, false>;
    kernel<<<grid_of(heads * p.tiles), tiles.threads(), shared, stream_of(context.stream)>>>(
        p, kv_rows<Element>(tensor, params.inputs.kv_order), out);
    check_launch("measure_rows");
  };
  measure(params.inputs.v, p.blocks.values);
  if (p.blocks.keys.spread != nullptr) measure(params.inputs.k, p.blocks.keys);
  const index_t ctas = semantics::ceil_div(g.num_kv_blocks, kCtaBlocks);
  weigh_values<Element><<<grid_of(heads * ctas), kWeighThreads, 0, stream_of(context.stream)>>>(p);
  check_launch("weigh_values");
}

}  // namespace

void value_weights(const StageContext& context, const core::ValueWeightsParams& params) {
  if (context.geometry.shape.dtype_kv == DType::kF16) {
    launch<__half>(context, params);
  } else {
    launch<__nv_bfloat16>(context, params);
  }
}

std::size_t value_weights_scratch(const core::Geometry& geometry) {
  if (!geometry.config.weigh_values) return 0;
  core::Ledger ledger(nullptr);
  carve(ledger, geometry);
  return ledger.bytes();
}

}  // namespace psa::cuda
