// SPDX-License-Identifier: Apache-2.0

// Pyramid stage: means of groups of neighbouring keys and values (S-3, S-4).
//
//   in   k, v        [B, Hkv, Lk, D] of 16-bit elements, any strides, read in working order (S-19)
//   out  pyramid[l]  [B, Hkv, rows, D] of the same type, every level that is not null; rows of
//                    positions that do not exist (S-1) become 0
//
// One pass: a thread loads 8 channels of a stretch of 16 tokens and halves it four times,
//
//   16 tokens -> 8 means of 2 -> 4 of 4 -> 2 of 8 -> 1 of 16        levels 2, 3, 4, 5
//
// each mean from the two below in float, as a/2 + b/2, which no finite input overflows. Tokens that
// do not exist count as 0, and a group with w of its f tokens is scaled by f/w. Each stored mean is
// rounded once (docs/numerics.md). A CTA holds whole KV blocks; for their means (code 6) the
// threads leave the mean of their stretch in shared memory, and one thread per block and 8 channels
// adds them up in rising order, so that results are the same in every run.
//
// Every thread loads for itself; nothing waits but the block means, once, for all stretches of the
// CTA. 16 loads of 16 bytes per thread cover the latency of the memory.
//
// Cost: bound by memory, one read of K and V and one write of the levels: with levels 2, 3, 4 and
// the block mean 1.9 times the bytes of K and V. On an H100 at [1,12,75600,128] 2.9 TB/s, with a
// random order of the tokens too; rows that are not aligned to 16 bytes are read by the element, at
// a quarter of that.

#include <algorithm>

#include "cuda/device/kv_rows.cuh"
#include "cuda/grid.hpp"
#include "cuda/launch.cuh"
#include "cuda/stages.hpp"
#include "semantics/pooling.hpp"

namespace psa::cuda {
namespace {

/// Stretches of a CTA are a multiple of this: 128 tokens hold whole blocks of every size.
constexpr int kTileStretches = 8;
constexpr int kMinThreads = 128;
constexpr int kMaxThreads = 256;  // 8 stretches with 256 channels

/// K or V and what is made of it.
template <typename Element>
struct PoolSource {
  KvRows<Element> rows;
  Element* levels[kNumLevelCodes];  // [B, Hkv, level_rows, D] by code; null: not wanted
};

template <typename Element>
struct PoolParams {
  PoolSource<Element> sources[2];
  index_t level_rows[kNumLevelCodes];
  const std::int32_t* kv_lengths;  // [B] or null
  int batch, heads_kv, len_kv, head_dim, block_kv;
  int tiles;  // CTAs per head
  int threads_per_row;
  int stretches;  // of a CTA
};

/// Where a CTA works. CTAs with neighbouring indices work on neighbouring tokens.
struct Tile {
  int source, batch, head_kv;
  int begin;      // first position
  int kv_length;  // keys that exist
};

template <typename Element>
__device__ Tile tile_of(const PoolParams<Element>& p, int cta) {
  const int head = cta / p.tiles;  // of all heads of all sources
  const int batch = head / p.heads_kv % p.batch;
  return {head / p.heads_kv / p.batch, batch, head % p.heads_kv,
          cta % p.tiles * p.stretches * kStretchTokens,
          static_cast<int>(key_length(p.kv_lengths, batch, p.len_kv))};
}

struct alignas(16) Channels {
  float x[kThreadChannels];
};

template <typename Element>
__device__ Channels unpack_channels(const uint4& packed) {
  Channels c;
#pragma unroll
  for (int pair = 0; pair < kThreadChannels / 2; ++pair) {
    const float2 two = unpack_pair<Element>(packed, pair);
    c.x[2 * pair] = two.x;
    c.x[2 * pair + 1] = two.y;
  }
  return c;
}

template <typename Element>
__device__ uint4 pack_channels(const Channels& c) {
  return {pack<Element>(c.x[0], c.x[1]), pack<Element>(c.x[2], c.x[3]),
          pack<Element>(c.x[4], c.x[5]), pack<Element>(c.x[6], c.x[7])};
}

__device__ Channels average(const Channels& a, const Channels& b) {
  Channels mean;
#pragma unroll
  for (int i = 0; i < kThreadChannels; ++i) mean.x[i] = 0.5F * a.x[i] + 0.5F * b.x[i];
  return mean;
}

__device__ void scale(Channels& c, float factor) {
#pragma unroll
  for (float& x : c.x) x *= factor;
}

/// Turns sum / factor into sum / weight, where only `weight` of the `factor` tokens exist. Nothing
/// to do for whole groups and for groups without a token, whose sum is 0.
__device__ void correct_weight(Channels& mean, index_t weight, int factor) {
  if (weight == 0 || weight == factor) return;
  scale(mean, static_cast<float>(factor) / static_cast<float>(weight));
}

/// Row `row` of a level, at the channels of a thread; null if the level is not wanted.
template <typename Element>
__device__ Element* level_row(const PoolParams<Element>& p, const Tile& tile, int code, index_t row,
                              int channel) {
  Element* level = p.sources[tile.source].levels[code];
  if (level == nullptr) return nullptr;
  const index_t head = tile.batch * p.heads_kv + tile.head_kv;
  return level + (head * p.level_rows[code] + row) * p.head_dim + channel;
}

/// 8 channels of a stretch, and where their means go.
template <typename Element, bool kAligned>
struct Stretch {
  int positions;  // that lie in the tensor: the rows of the others are not in any level
  int tokens;     // that exist
  int channels;   // of the thread's 8 that exist
  int head_dim;
  Element* levels[semantics::kCoarsestLevel + 1];  // first row of the stretch, by code
  uint4 packed[kStretchTokens];

  __device__ void load(const KvHead<Element>& head, int begin, int channel) {
    if (tokens > 0) load_stretch<kAligned>(head, begin, tokens, channel, channels, packed);
    if (tokens == kStretchTokens) return;
#pragma unroll
    for (int u = 0; u < kStretchTokens; ++u) {
      if (u >= tokens) packed[u] = uint4{0, 0, 0, 0};
    }
  }

  /// Mean of the tokens from kFirst on that level kCode pools; stores it and all finer ones.
  template <int kCode, int kFirst>
  __device__ Channels pool() const {
    if constexpr (kCode == semantics::kFinestLevel) {
      return unpack_channels<Element>(packed[kFirst]);
    } else {
      constexpr int kFactor = static_cast<int>(semantics::pool_factor(kCode, 0));
      const Channels mean =
          average(pool<kCode - 1, kFirst>(), pool<kCode - 1, kFirst + kFactor / 2>());
      if (levels[kCode] != nullptr && kFirst < positions) {
        Channels stored = mean;
        if (tokens < kStretchTokens) {
          correct_weight(stored, semantics::pooled_weight(kFirst / kFactor, kFactor, tokens),
                         kFactor);
        }
        store_channels<kAligned>(levels[kCode] + kFirst / kFactor * head_dim, channels,
                                 pack_channels<Element>(stored));
      }
      return mean;
    }
  }
};

/// `parts` [stretches, threads_per_row] are means of the stretches over the stretches of a block.
template <typename Element, bool kAligned>
__device__ void store_block_means(const PoolParams<Element>& p, const Tile& tile,
                                  const Channels* parts) {
  const int block_stretches = p.block_kv / kStretchTokens;
  const int block = static_cast<int>(threadIdx.x) / p.threads_per_row;  // of the tile
  const int part = static_cast<int>(threadIdx.x) % p.threads_per_row;
  const int kv_block = tile.begin / p.block_kv + block;
  if (block >= p.stretches / block_stretches || kv_block >= p.level_rows[kBlockMean]) return;
  Channels mean = parts[block * block_stretches * p.threads_per_row + part];
  for (int s = 1; s < block_stretches; ++s) {
    const Channels& next = parts[(block * block_stretches + s) * p.threads_per_row + part];
#pragma unroll
    for (int i = 0; i < kThreadChannels; ++i) mean.x[i] += next.x[i];
  }
  correct_weight(mean, semantics::pooled_weight(kv_block, p.block_kv, tile.kv_length), p.block_kv);
  const int channel = part * kThreadChannels;
  store_channels<kAligned>(level_row(p, tile, kBlockMean, kv_block, channel), p.head_dim - channel,
                           pack_channels<Element>(mean));
}

template <typename Element, bool kAligned>
__global__ void __launch_bounds__(kMaxThreads)
    pool_tiles(const __grid_constant__ PoolParams<Element> p) {
  extern __shared__ Channels parts[];  // [stretches, threads_per_row]
  const Tile tile = tile_of(p, static_cast<int>(blockIdx.x));
  const int row = static_cast<int>(threadIdx.x) / p.threads_per_row;  // stretch of the tile
  const int channel = static_cast<int>(threadIdx.x) % p.threads_per_row * kThreadChannels;
  const index_t begin =
      index_t{tile.begin} + row * kStretchTokens;  // may lie behind the last token

  Stretch<Element, kAligned> stretch;
  stretch.positions =
      static_cast<int>(semantics::pooled_weight(begin / kStretchTokens, kStretchTokens, p.len_kv));
  stretch.tokens = static_cast<int>(
      semantics::pooled_weight(begin / kStretchTokens, kStretchTokens, tile.kv_length));
  stretch.channels = p.head_dim - channel;
  stretch.head_dim = p.head_dim;
  stretch.load(p.sources[tile.source].rows.head(tile.batch, tile.head_kv), static_cast<int>(begin),
               channel);
#pragma unroll
  for (int code = semantics::kFinestLevel + 1; code <= semantics::kCoarsestLevel; ++code) {
    stretch.levels[code] =
        level_row(p, tile, code, begin / semantics::pool_factor(code, p.block_kv), channel);
  }
  Channels part = stretch.template pool<semantics::kCoarsestLevel, 0>();

  if (p.sources[tile.source].levels[kBlockMean] == nullptr) return;
  scale(part, static_cast<float>(kStretchTokens) / static_cast<float>(p.block_kv));
  parts[threadIdx.x] = part;
  __syncthreads();
  store_block_means<Element, kAligned>(p, tile, parts);
}

// ---- launch ------------------------------------------------------------------------------------

template <typename Element>
PoolSource<Element> make_source(const core::PyramidParams& params, bool is_key) {
  PoolSource<Element> source{};
  source.rows =
      kv_rows<Element>(is_key ? params.inputs.k : params.inputs.v, params.inputs.kv_order);
  for (int code = semantics::kFinestLevel + 1; code < kNumLevelCodes; ++code) {
    const core::PyramidLevel& level = params.pyramid[static_cast<std::size_t>(code)];
    source.levels[code] = static_cast<Element*>(is_key ? level.k : level.v);
  }
  return source;
}

template <typename Element>
bool is_wanted(const PoolSource<Element>& source) {
  for (const Element* level : source.levels) {
    if (level != nullptr) return true;
  }
  return false;
}

/// Whether input and levels of a source can be moved 16 bytes at a time.
template <typename Element>
bool is_aligned(const PoolSource<Element>& source, const TensorView& tensor) {
  for (const Element* level : source.levels) {
    if (!is_aligned_to_16(level)) return false;
  }
  return has_aligned_rows(tensor);
}

template <typename Element>
void launch(const StageContext& context, const core::PyramidParams& params) {
  const core::Geometry& g = context.geometry;
  PoolParams<Element> p{};
  int num_sources = 0;
  bool aligned = true;
  for (const bool is_key : {true, false}) {
    const PoolSource<Element> source = make_source<Element>(params, is_key);
    if (!is_wanted(source)) continue;
    p.sources[num_sources++] = source;
    aligned = aligned && is_aligned(source, is_key ? params.inputs.k : params.inputs.v);
  }
  if (num_sources == 0) return;
  for (int code = 0; code < kNumLevelCodes; ++code) {
    p.level_rows[code] = params.pyramid[static_cast<std::size_t>(code)].rows;
  }
  p.kv_lengths = params.inputs.kv_lengths;
  p.batch = static_cast<int>(g.shape.batch);
  p.heads_kv = static_cast<int>(g.shape.heads_kv);
  p.len_kv = static_cast<int>(g.shape.len_kv);
  p.head_dim = static_cast<int>(g.shape.head_dim);
  p.block_kv = g.config.block_kv;
  p.threads_per_row = threads_per_row(g.shape.head_dim);
  // Short rows: more stretches, so that a CTA has whole warps to run.
  p.stretches = kTileStretches * std::max(1, kMinThreads / (kTileStretches * p.threads_per_row));
  p.tiles = static_cast<int>(semantics::ceil_div(p.len_kv, p.stretches * kStretchTokens));

  const int threads = p.stretches * p.threads_per_row;
  const unsigned int grid = grid_of(num_sources * g.shape.batch * g.shape.heads_kv * p.tiles);
  const std::size_t shared_bytes = static_cast<std::size_t>(threads) * sizeof(Channels);
  const auto kernel = aligned ? pool_tiles<Element, true> : pool_tiles<Element, false>;
  kernel<<<grid, threads, shared_bytes, stream_of(context.stream)>>>(p);
  check_launch("pool_tiles");
}

}  // namespace

void pyramid(const StageContext& context, const core::PyramidParams& params) {
  if (context.geometry.shape.dtype_kv == DType::kF16) {
    launch<__half>(context, params);
  } else {
    launch<__nv_bfloat16>(context, params);
  }
}

}  // namespace psa::cuda
