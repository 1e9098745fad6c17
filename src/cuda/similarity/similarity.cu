// SPDX-License-Identifier: Apache-2.0

// Similarity stage: how coarsely each KV block may be pooled (S-16).
//
//   in   k     [B, Hkv, Lk, D] of 16-bit elements, any strides, read in working order (S-19)
//   out  caps  [B, Hkv, Nk]: the coarsest level whose groups are alike; 1 for a block without keys
//
//   sim_l = mean over the groups of f_l positions of cos(first real key, last real key)
//
// One pass over K. A team of lanes (a power of two of them, 8 channels each) loads a stretch of 16
// keys, multiplies each key with itself and the first with the last key of each of its 8 + 4 + 2 +
// 1 groups, and adds the 31 products up over its lanes, so that every lane has them. A stretch that
// ends early repeats its last real key, which is then the last of its group. The cosines of each
// level are added up over the stretch; one thread per block adds its stretches in rising order.
// All sums are float in an order that never changes.
//
// Every lane loads for itself; the CTA, which holds whole KV blocks, waits once, for the sums of
// its stretches.
//
// Cost: bound by memory, one read of K. On an H100 2.4 TB/s at [1,12,75600,128].

#include <algorithm>

#include "cuda/device/kv_rows.cuh"
#include "cuda/grid.hpp"
#include "cuda/launch.cuh"
#include "cuda/stages.hpp"
#include "semantics/levels.hpp"
#include "semantics/pooling.hpp"

namespace psa::cuda {
namespace {

constexpr int kMaxThreads = StretchTiles::kMaxThreads;
constexpr unsigned kAllLanes = 0xFFFFFFFFU;
constexpr int kFirstLevel = semantics::kFinestLevel + 1;
constexpr int kPooledLevels = kMaxLevels - semantics::kFinestLevel;
constexpr int kGroups = kStretchTokens - 1;  // of a stretch at levels 2 to 5: 8 + 4 + 2 + 1

template <typename Element>
struct CapParams {
  KvRows<Element> keys;
  const std::int32_t* kv_lengths;  // [B] or null
  std::uint8_t* caps;              // [B, Hkv, Nk]
  float min_cosine[kPooledLevels];
  int heads_kv, len_kv, head_dim, block_kv, num_kv_blocks, num_levels;
  int tiles;      // CTAs per head
  int lanes;      // that hold a row together: a power of two
  int stretches;  // of a CTA
};

/// Sums over the groups of a stretch of their cosines, by level.
struct alignas(16) CosineSums {
  float level[kPooledLevels];
};

/// The scalar products of a stretch.
struct Products {
  float self[kStretchTokens];
  float group[kGroups];  // first key times last, by rising level, then rising group
};

constexpr int factor_of(int level) {
  return static_cast<int>(semantics::pool_factor(level, kStretchTokens));
}

__device__ void add_product(float& sum, float2 a, float2 b) {
  sum = fmaf(a.x, b.x, sum);
  sum = fmaf(a.y, b.y, sum);
}

/// Over the 8 channels of this lane.
template <typename Element>
__device__ Products multiply_keys(const uint4 (&packed)[kStretchTokens]) {
  Products products{};
#pragma unroll
  for (int pair = 0; pair < kThreadChannels / 2; ++pair) {
    float2 key[kStretchTokens];
#pragma unroll
    for (int u = 0; u < kStretchTokens; ++u) {
      key[u] = unpack_pair<Element>(packed[u], pair);
      add_product(products.self[u], key[u], key[u]);
    }
    int group = 0;
#pragma unroll
    for (int level = kFirstLevel; level <= kMaxLevels; ++level) {
#pragma unroll
      for (int first = 0; first < kStretchTokens; first += factor_of(level)) {
        add_product(products.group[group++], key[first], key[first + factor_of(level) - 1]);
      }
    }
  }
  return products;
}

/// Adds up over the `lanes` lanes of each team.
__device__ void add_lanes(Products& products, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (float& x : products.self) x += __shfl_xor_sync(kAllLanes, x, distance);
#pragma unroll
    for (float& x : products.group) x += __shfl_xor_sync(kAllLanes, x, distance);
  }
}

/// Cosines of the groups that begin among the first `tokens` keys.
__device__ CosineSums add_cosines(const Products& products, int tokens) {
  float length[kStretchTokens];
#pragma unroll
  for (int u = 0; u < kStretchTokens; ++u) length[u] = sqrtf(products.self[u]);
  CosineSums sums{};
  int group = 0;
#pragma unroll
  for (int level = kFirstLevel; level <= kMaxLevels; ++level) {
#pragma unroll
    for (int first = 0; first < kStretchTokens; first += factor_of(level)) {
      const float lengths = length[first] * length[first + factor_of(level) - 1];
      const float cosine = products.group[group++] / (lengths + 1e-6F);
      if (first < tokens) sums.level[level - kFirstLevel] += cosine;
    }
  }
  return sums;
}

/// `sums` of the stretches of the block.
template <typename Element>
__device__ int block_cap(const CapParams<Element>& p, int kv_block, index_t kv_length,
                         const CosineSums* sums) {
  if (semantics::block_range(kv_block, p.block_kv, kv_length).size() <= 0) {
    return semantics::kFinestLevel;
  }
  float similarity[kPooledLevels] = {};
#pragma unroll
  for (int level = kFirstLevel; level <= kMaxLevels; ++level) {
    float sum = 0.0F;
    for (int s = 0; s < p.block_kv / kStretchTokens; ++s) sum += sums[s].level[level - kFirstLevel];
    const index_t groups = semantics::pooled_range(kv_block, p.block_kv, level, kv_length).size();
    similarity[level - kFirstLevel] = sum / static_cast<float>(groups);
  }
  return semantics::similarity_cap(similarity, p.min_cosine, p.num_levels);
}

template <typename Element, bool kAligned>
__global__ void __launch_bounds__(kMaxThreads)
    cap_tiles(const __grid_constant__ CapParams<Element> p) {
  __shared__ CosineSums sums[kMaxThreads];  // [stretches]
  const int head = static_cast<int>(blockIdx.x) / p.tiles;
  const int tile = static_cast<int>(blockIdx.x) % p.tiles;
  const index_t kv_length = key_length(p.kv_lengths, head / p.heads_kv, p.len_kv);
  const int thread = static_cast<int>(threadIdx.x);
  const int stretch = tile * p.stretches + thread / p.lanes;  // of the head
  const int channel = thread % p.lanes * kThreadChannels;
  const int tokens = static_cast<int>(semantics::pooled_weight(stretch, kStretchTokens, kv_length));

  uint4 packed[kStretchTokens] = {};
  if (tokens > 0 && channel < p.head_dim) {
    load_stretch<kAligned>(p.keys.head(head / p.heads_kv, head % p.heads_kv),
                           stretch * kStretchTokens, tokens, channel, p.head_dim - channel, packed);
  }
  Products products = multiply_keys<Element>(packed);
  add_lanes(products, p.lanes);
  const CosineSums own = add_cosines(products, tokens);
  if (channel == 0) sums[thread / p.lanes] = own;
  __syncthreads();

  const int block_stretches = p.block_kv / kStretchTokens;
  const int kv_block = tile * p.stretches / block_stretches + thread;
  if (thread >= p.stretches / block_stretches || kv_block >= p.num_kv_blocks) return;
  p.caps[index_t{head} * p.num_kv_blocks + kv_block] =
      static_cast<std::uint8_t>(block_cap(p, kv_block, kv_length, sums + thread * block_stretches));
}

// ---- launch ------------------------------------------------------------------------------------

template <typename Element>
void launch(const StageContext& context, const core::SimilarityParams& params) {
  const core::Geometry& g = context.geometry;
  CapParams<Element> p{};
  p.keys = kv_rows<Element>(params.inputs.k, params.inputs.kv_order);
  p.kv_lengths = params.inputs.kv_lengths;
  p.caps = params.caps;
  std::copy(g.config.similarity_cap->begin(), g.config.similarity_cap->end(), p.min_cosine);
  p.heads_kv = static_cast<int>(g.shape.heads_kv);
  p.len_kv = static_cast<int>(g.shape.len_kv);
  p.head_dim = static_cast<int>(g.shape.head_dim);
  p.block_kv = g.config.block_kv;
  p.num_kv_blocks = static_cast<int>(g.num_kv_blocks);
  p.num_levels = g.config.num_levels;
  const StretchTiles tiles = stretch_tiles(g.shape.head_dim, g.shape.len_kv);
  p.lanes = tiles.lanes;
  p.stretches = tiles.stretches;
  p.tiles = tiles.tiles;

  const unsigned int grid = grid_of(g.shape.batch * g.shape.heads_kv * p.tiles);
  const auto kernel =
      has_aligned_rows(params.inputs.k) ? cap_tiles<Element, true> : cap_tiles<Element, false>;
  kernel<<<grid, tiles.threads(), 0, stream_of(context.stream)>>>(p);
  check_launch("cap_tiles");
}

}  // namespace

void similarity(const StageContext& context, const core::SimilarityParams& params) {
  if (context.geometry.shape.dtype_kv == DType::kF16) {
    launch<__half>(context, params);
  } else {
    launch<__nv_bfloat16>(context, params);
  }
}

}  // namespace psa::cuda
