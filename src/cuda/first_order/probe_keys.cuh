// SPDX-License-Identifier: Apache-2.0
#pragma once

// Probe rows (S-25) against all keys, and against the block means.
//
//   in   q, k, v, levels, pyramid; mass of first_order.hpp
//   out  masses and values of ProbeWork, of each chunk of keys
//
// The 64 probe rows of a head are one tile of queries, whose rows belong to 64 query blocks. Keys
// are cut into chunks, a CTA each, so that few heads fill the device; the last chunk are the block
// means, which are keys with a bias. A CTA holds two sums of values, of all keys and of those that
// are read: which these are differs from row to row, so they are products of their own.
//
// A weight of 0 times a value of NaN or Inf is NaN, in rows that do not see the value. So a CTA
// whose sums are not finite goes over its keys again, and takes such values out (clean_values).
//
// Who multiplies is a parameter, Products: mma.sync (probe_keys.cu) or wgmma (probe_keys_sm90.cu).
//
// Cost: 6 D flops per probe row and key on the tensor cores: 1.5 · 64 / Lq of dense attention.

#include <cstddef>
#include <cstdint>

#include "cuda/device/copy.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/math.cuh"
#include "cuda/device/shared_rows.cuh"
#include "cuda/first_order/rest_probes.cuh"
#include "cuda/launch.cuh"

namespace psa::cuda::probes {

constexpr int kWarps = kProbes / 16;
constexpr int kThreads = 32 * kWarps;
constexpr int kValueChannels = 128;  // of a CTA: two sums of 16 rows fill the registers of a warp

/// Tiles in shared memory: channels of a key and of a value, keys.
template <int kDim>
struct TileShape {
  static constexpr int kKeyChannels = kDim;  // channels behind head_dim are 0
  static constexpr int kValueChannels =
      kDim < probes::kValueChannels ? kDim : probes::kValueChannels;
  static constexpr int kKeys = kDim > 128 ? 32 : 64;
  static_assert(kKeys <= kThreads);
};

/// Of a row of biases, so that the rows of a group of lanes lie in several banks.
constexpr int kBiasPadding = 4;

/// Of a warp's 16 rows: lane l has rows l/4 and l/4 + 8, of these columns 8n + 2(l%4) and the next
/// one in [4n], [4n + 1] and in [4n + 2], [4n + 3].
template <int kColumns>
using Accumulators = float[kColumns / 2];

template <typename Shape>
struct SharedTiles {
  alignas(128) std::byte q[kProbes * Shape::kKeyChannels * 2];
  alignas(128) std::byte k[2][Shape::kKeys * Shape::kKeyChannels * 2];
  alignas(128) std::byte v[2][Shape::kKeys * Shape::kValueChannels * 2];
  int token[2][Shape::kKeys];  // source rows of the tiles
  // Of a tile of block means: what their logits get beside the product; -inf outside of rest sets.
  float bias[kProbes][Shape::kKeys + kBiasPadding];
  bool is_bad[Shape::kKeys];  // of a tile that was cleaned: had values that are not finite
};

/// A CTA of probe_keys: the probe rows of a head and a chunk of its keys or, with kIsMeans, its
/// block means.
template <typename Element, typename Shape, typename Products, bool kIsMeans>
struct KeySweep {
  static constexpr int kCode = kIsMeans ? semantics::kBlockMeanCode : semantics::kFinestLevel;
  static constexpr int kElementBytes = 2;
  static constexpr int kKeyPieces = Shape::kKeyChannels / 8;
  static constexpr int kTile = Shape::kKeys;
  static constexpr int kTileGroups = kTile / 8;
  using Logits = Accumulators<kTile>;

  const ProbeParams& p;
  SharedTiles<Shape>& shared;
  int head, chunk, first_channel;  // the last of the values
  QueryBlock any;                  // of the head
  KvSource source;
  int rows;  // keys or block means that exist

  // Of the lane's two rows.
  int q_begin[2];                // of the query block
  const std::uint8_t* codes[2];  // [Nk]
  int limit[2];                  // keys before this one are seen; 0: no such probe
  float shift[2];
  float all_sum[2];
  float read_sum[2];
  Accumulators<Shape::kValueChannels> all;
  Accumulators<Shape::kValueChannels> read;

  __device__ KeySweep(const ProbeParams& params, SharedTiles<Shape>& memory, int of_head,
                      int of_chunk, int of_channel)
      : p(params),
        shared(memory),
        head(of_head),
        chunk(of_chunk),
        first_channel(of_channel),
        any(probe_block(params, of_head, 0)) {
    source = source_of(p.call, any, kCode, kElementBytes);
    rows =
        kIsMeans ? static_cast<int>(semantics::ceil_div(any.len_kv, p.call.block_kv)) : any.len_kv;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int probe = own_probe(r);
      const bool exists = probe < p.probes;
      const QueryBlock q = probe_block(p, head, exists ? probe : 0);
      q_begin[r] = q.q_begin;
      codes[r] = p.call.levels + map_row_of(p.call, q) * p.call.num_kv_blocks;
      const index_t row = semantics::probe_row(exists ? probe : 0, p.call.len_q);
      const auto position =
          static_cast<int>(semantics::causal_position(row, p.call.len_q, any.len_kv));
      limit[r] = !exists ? 0 : p.call.is_causal && !kIsMeans ? min(rows, position + 1) : rows;
    }
  }

  static __device__ int warp() { return static_cast<int>(threadIdx.x) / 32; }
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ int own_probe(int r) const { return 16 * warp() + 8 * r + lane() / 4; }

  __device__ void load_queries() {
    for (int i = static_cast<int>(threadIdx.x); i < kProbes * kKeyPieces; i += kThreads) {
      const int probe = i / kKeyPieces;
      const int piece = i % kKeyPieces;
      const int channels = p.call.head_dim - 8 * piece;
      const bool exists = probe < p.probes;
      const auto row = static_cast<int>(semantics::probe_row(exists ? probe : 0, p.call.len_q));
      const index_t at = any.batch * p.call.q.batch_stride + any.head * p.call.q.head_stride +
                         query_token(p.call, any, row) * p.call.q.token_stride;
      const auto* from = reinterpret_cast<const Element*>(p.call.q.data) + at + 8 * piece;
      uint4 packed{};
      if (exists && channels > 0) {
        packed = p.is_aligned ? load_channels<true>(from, channels)
                              : load_channels<false>(from, channels);
      }
      store_shared(Products::template piece<Shape::kKeyChannels>(shared.q, probe, piece), packed);
    }
  }

  /// Source row of a tile's row, of the thread; looked up a tile ahead of the copies.
  __device__ int token_of(int tile) const {
    const int at = tile * kTile + static_cast<int>(threadIdx.x) % kTile;
    return at < rows ? source_row(p.call, any, kCode, at) : 0;
  }

  __device__ void note_token(int stage, int token) {
    if (threadIdx.x < kTile) shared.token[stage][threadIdx.x] = token;
  }

  /// Copies a tile, whose tokens are noted, to `tile` in shared memory: `from` is channel
  /// `channel` of the source's first row. A thread copies the same piece of every kApart-th row.
  template <int kChannels>
  __device__ void load_tile(std::byte* tile, const int* token, int count, const std::byte* from,
                            index_t stride, int channel) {
    constexpr int kPieces = kChannels / 8;
    constexpr int kApart = kThreads / kPieces;
    // Rows a multiple of 8 apart lie in one place of their lines, at a constant distance.
    constexpr int kPhases = kApart < 8 ? 8 / kApart : 1;
    const int first = static_cast<int>(threadIdx.x) / kPieces;
    const int piece = static_cast<int>(threadIdx.x) % kPieces;
    const int channels = p.call.head_dim - channel - 8 * piece;
    const std::byte* own = from + (channels > 0 ? 16 * piece : 0);
    const auto copy_all = [&](const auto& copy) {
#pragma unroll
      for (int i = 0; i < kTile / kApart; ++i) {
        const int row = first + i * kApart;
        const std::uint32_t to =
            Products::template piece<kChannels>(tile, first + i % kPhases * kApart, piece) +
            static_cast<std::uint32_t>(i / kPhases * kPhases * kApart * kChannels * 2);
        copy(to, token[row], row < count && channels > 0);
      }
    };
    if (p.is_aligned) {
      const auto bytes = static_cast<std::uint32_t>(stride);
      copy_all([&](std::uint32_t to, int at, bool is_there) {
        copy_async_16(to, own + std::uint64_t{bytes} * static_cast<std::uint32_t>(at), is_there);
      });
    } else {
      copy_all([&](std::uint32_t to, int at, bool is_there) {
        const auto* elements = reinterpret_cast<const Element*>(own + at * stride);
        store_shared(to, is_there ? load_channels<false>(elements, channels) : uint4{});
      });
    }
  }

  __device__ void load_tiles(int tile, int stage) {
    const int count = rows - tile * kTile;
    load_tile<Shape::kKeyChannels>(shared.k[stage], shared.token[stage], count, source.k,
                                   source.k_stride, 0);
    load_tile<Shape::kValueChannels>(shared.v[stage], shared.token[stage], count,
                                     source.v + first_channel * kElementBytes, source.v_stride,
                                     first_channel);
  }

  /// Level codes of the lane's rows for the blocks of a tile, a byte each.
  struct Codes {
    unsigned of_row[2];
  };
  /// A division; block_kv is a power of two.
  [[nodiscard]] __device__ int first_block(int tile) const {
    return tile * kTile >> (31 - __clz(p.call.block_kv));
  }
  [[nodiscard]] __device__ int blocks_per_tile() const { return max(kTile / p.call.block_kv, 1); }

  /// A tile before they are looked at: nothing waits for the loads here.
  __device__ Codes load_codes(int tile) const {
    if constexpr (kIsMeans) return {};
    const int first = first_block(tile);
    Codes found;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      found.of_row[r] = codes[r][min(first, p.call.num_kv_blocks - 1)];
      for (int i = 1; i < blocks_per_tile(); ++i) {
        found.of_row[r] |= unsigned{codes[r][min(first + i, p.call.num_kv_blocks - 1)]} << 8 * i;
      }
    }
    return found;
  }

  /// Bit 2 · group + r: row r reads the keys of the group. Codes are those of the tile.
  __device__ unsigned read_groups(int tile, const Codes& codes_of) const {
    if constexpr (kIsMeans) return 0;
    const int first = first_block(tile);
    const int groups = kTileGroups / blocks_per_tile();
    const unsigned every = 0x55555555U & ((1ULL << (2 * groups)) - 1U);
    unsigned found = 0;
    for (int i = 0; i < blocks_per_tile(); ++i) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const auto code = static_cast<int>(codes_of.of_row[r] >> 8 * i & 0xFFU);
        if (!semantics::is_unread(code, is_rest(p, q_begin[r], any.len_kv, code, first + i))) {
          found |= every << (2 * groups * i + r);
        }
      }
    }
    return found;
  }

  /// Keys of a tile that a row of the lane sees, less the first one that the lane has.
  __device__ int seen_keys(int tile, int r) const {
    return limit[r] - tile * kTile - lane() % 4 * 2;
  }

  /// Products times this are logits in log2 units. Those of block means have been multiplied.
  [[nodiscard]] __device__ float scale() const { return kIsMeans ? 1.0F : p.call.scale_log2; }

  /// Adds the biases of block means; -inf where nothing is seen.
  __device__ void finish_logits(int tile, Logits& s) const {
    const int seen[2] = {seen_keys(tile, 0), seen_keys(tile, 1)};
    if constexpr (!kIsMeans) {
      const bool sees_all = min(seen[0], seen[1]) >= kTile;
      if (__all_sync(kAllLanes, sees_all)) return;
    }
#pragma unroll
    for (int group = 0; group < kTileGroups; ++group) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float* logit = &s[4 * group + 2 * r];
        if constexpr (kIsMeans) {
          const auto bias = *reinterpret_cast<const float2*>(
              &shared.bias[own_probe(r)][8 * group + lane() % 4 * 2]);
          // A select, not a sum: what must not be seen may be NaN.
          logit[0] = bias.x > -INFINITY ? fmaf(logit[0], p.call.scale_log2, bias.x) : -INFINITY;
          logit[1] = bias.y > -INFINITY ? fmaf(logit[1], p.call.scale_log2, bias.y) : -INFINITY;
        }
#pragma unroll
        for (int c = 0; c < 2; ++c) logit[c] = 8 * group + c < seen[r] ? logit[c] : -INFINITY;
      }
    }
  }

  /// Of keys that are seen but whose values were taken out.
  __device__ void mark_bad(Logits& s) const {
#pragma unroll
    for (int i = 0; i < kTile / 2; ++i) {
      const int column = i / 4 * 8 + lane() % 4 * 2 + i % 2;
      if (shared.is_bad[column] && s[i] != -INFINITY) s[i] = NAN;
    }
  }

  /// Where the block means of a probe row are described: of row lane % 16 of the warp.
  struct RestRow {
    index_t codes, mass;
    int q_begin;
  };
  __device__ RestRow rest_row() const {
    const int probe = min(16 * warp() + lane() % 16, p.probes - 1);
    const QueryBlock q = probe_block(p, head, probe);
    return {map_row_of(p.call, q) * p.call.num_kv_blocks,
            first_order_block_of(p.call, q) * p.call.num_kv_blocks, q.q_begin};
  }

  /// Fills the warp's rows of shared.bias, a block mean by lane.
  __device__ void list_biases(int tile, const RestRow& lane_row) {
    constexpr int kRowsAtOnce = 4;
    constexpr int kOwn = kTile / 32;
    int block[kOwn];
    float log2_tokens[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      block[i] = min(tile * kTile + 32 * i + lane(), rows - 1);
      log2_tokens[i] = log2_weight(
          static_cast<int>(semantics::block_range(block[i], p.call.block_kv, any.len_kv).size()));
    }
#pragma unroll 1
    for (int first = 0; first < 16; first += kRowsAtOnce) {
      RestRow row[kRowsAtOnce];
      int code[kRowsAtOnce][kOwn];
      float mass[kRowsAtOnce][kOwn];
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r) {
        row[r] = {__shfl_sync(kAllLanes, lane_row.codes, first + r),
                  __shfl_sync(kAllLanes, lane_row.mass, first + r),
                  __shfl_sync(kAllLanes, lane_row.q_begin, first + r)};
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
          code[r][i] = p.call.levels[row[r].codes + block[i]];
          mass[r][i] = p.work.mass[row[r].mass + block[i]];
        }
      }
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r) {
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
          shared.bias[16 * warp() + first + r][32 * i + lane()] =
              is_rest(p, row[r].q_begin, any.len_kv, code[r][i], block[i])
                  ? mass[r][i] + log2_tokens[i]
                  : -INFINITY;
        }
      }
    }
    __syncwarp();  // nobody else reads these rows
  }

  /// Logits become exponentials; sums go over to the new reference.
  __device__ void exponentiate(Logits& s, unsigned is_read) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = -INFINITY;
#pragma unroll
      for (int group = 0; group < kTileGroups; ++group) {
        top = fmaxf(top, fmaxf(s[4 * group + 2 * r], s[4 * group + 2 * r + 1]));
      }
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      top = fmaxf(shift[r], top * scale());
      const float reference = top == -INFINITY ? 0.0F : top;
      const float factor = exp2_approximate(shift[r] - reference);
      shift[r] = top;
      all_sum[r] *= factor;
      read_sum[r] *= factor;
      if (__any_sync(kAllLanes, factor != 1.0F)) {
#pragma unroll
        for (int n = 0; n < Shape::kValueChannels / 8; ++n) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            all[4 * n + 2 * r + c] *= factor;
            read[4 * n + 2 * r + c] *= factor;
          }
        }
      }
#pragma unroll
      for (int group = 0; group < kTileGroups; ++group) {
        const bool reads = (is_read >> (2 * group + r) & 1U) != 0;
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& x = s[4 * group + 2 * r + c];
          x = exp2_approximate(fmaf(x, scale(), -reference));
          all_sum[r] += x;
          if (reads) read_sum[r] += x;
        }
      }
    }
  }

  __device__ void multiply_values(int stage, const Logits& s, unsigned is_read) {
    // Weights of 16 keys as operands of a product.
    const auto weights_of = [&](int step, std::uint32_t(&weights)[4], std::uint32_t(&of_read)[4]) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int group = 2 * step + i / 2;
        const float* pair = &s[4 * group + i % 2 * 2];
        weights[i] = pack<Element>(pair[0], pair[1]);
        of_read[i] = (is_read >> (2 * group + i % 2) & 1U) != 0 ? weights[i] : 0U;
      }
    };
    Products::multiply_values(shared.v[stage], __any_sync(kAllLanes, is_read != 0), weights_of, all,
                              read);
  }

  /// Puts zeros in the place of values that are not finite, and says of which keys.
  __device__ void clean_values(int stage) {
    constexpr int kLanes = kThreads / kTile;  // of a key
    const int row = static_cast<int>(threadIdx.x) / kLanes;
    const auto for_each_piece = [&](const auto& visit) {
      for (int piece = lane() % kLanes; piece < Shape::kValueChannels / 8; piece += kLanes) {
        visit(Products::template piece<Shape::kValueChannels>(shared.v[stage], row, piece));
      }
    };
    bool is_bad = false;
    for_each_piece([&](std::uint32_t at) {
      const uint4 packed = load_shared(at);
      for (int pair = 0; pair < 4; ++pair) {
        const float2 x = unpack_pair<Element>(packed, pair);
        is_bad = is_bad || !isfinite(x.x) || !isfinite(x.y);
      }
    });
    for (int lanes = 1; lanes < kLanes; lanes *= 2) {
      is_bad = __shfl_xor_sync(kAllLanes, static_cast<int>(is_bad), lanes) != 0 || is_bad;
    }
    if (is_bad) for_each_piece([](std::uint32_t at) { store_shared(at, uint4{}); });
    if (lane() % kLanes == 0) shared.is_bad[row] = is_bad;
    Products::publish();
    __syncthreads();
  }

  __device__ bool has_finite_sums() const {
    float sum = 0.0F;  // of zeros and NaN
#pragma unroll
    for (int i = 0; i < Shape::kValueChannels / 2; ++i) sum += 0.0F * all[i] + 0.0F * read[i];
    return isfinite(sum);
  }

  __device__ void sum_chunk(bool is_clean) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      shift[r] = -INFINITY;
      all_sum[r] = read_sum[r] = 0.0F;
    }
#pragma unroll
    for (int i = 0; i < Shape::kValueChannels / 2; ++i) all[i] = read[i] = 0.0F;
    const int tiles = (rows + kTile - 1) / kTile;
    const int chunks = p.work.probe.chunks;
    const int begin = kIsMeans ? 0 : static_cast<int>(index_t{tiles} * chunk / chunks);
    const int end = kIsMeans ? tiles : static_cast<int>(index_t{tiles} * (chunk + 1) / chunks);
    note_token(0, token_of(begin));
    note_token(1, token_of(begin + 1));
    unsigned is_read = read_groups(begin, load_codes(begin));
    RestRow lane_row{};
    if constexpr (kIsMeans) lane_row = rest_row();
    __syncthreads();
    if (begin < end) load_tiles(begin, 0);
    commit_copies();
    for (int tile = begin; tile < end; ++tile) {
      const int stage = (tile - begin) % 2;
      wait_copies<0>();
      Products::publish();
      __syncthreads();  // the tile is there, and nobody reads the one before
      if (tile + 1 < end) load_tiles(tile + 1, 1 - stage);
      commit_copies();
      const int next_token = token_of(tile + 2);
      const Codes next_codes = load_codes(tile + 1);
      if constexpr (kIsMeans) list_biases(tile, lane_row);
      if (is_clean) clean_values(stage);
      if (Products::kTogether ||
          __any_sync(kAllLanes, seen_keys(tile, 0) > 0 || seen_keys(tile, 1) > 0)) {
        Logits s;
        Products::multiply_keys(shared.q, shared.k[stage], s);
        finish_logits(tile, s);
        if (is_clean) mark_bad(s);
        exponentiate(s, is_read);
        multiply_values(stage, s, is_read);
      }
      note_token(stage, next_token);
      is_read = read_groups(tile + 1, next_codes);
    }
    wait_copies<0>();
  }

  __device__ void run() {
    load_queries();
#pragma unroll 1
    for (int pass = 0; pass < 2; ++pass) {
      sum_chunk(pass > 0);
      if (__syncthreads_and(static_cast<int>(has_finite_sums())) != 0) break;
    }
    store();
  }

  __device__ void store() const {
    const index_t part = index_t{head} * (p.work.probe.chunks + 1) + chunk;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sums[2] = {all_sum[r], read_sum[r]};
#pragma unroll
      for (float& sum : sums) {
        sum += __shfl_xor_sync(kAllLanes, sum, 1);
        sum += __shfl_xor_sync(kAllLanes, sum, 2);
      }
      const index_t row = part * kProbes + own_probe(r);
      if (lane() % 4 == 0 && first_channel == 0) {
        *reinterpret_cast<float4*>(p.work.probe.masses + row * 4) = {shift[r], sums[0], sums[1],
                                                                     0.0F};
      }
      float* values = p.work.probe.values + row * 2 * p.work.row;
#pragma unroll
      for (int n = 0; n < Shape::kValueChannels / 8; ++n) {
        const int channel = first_channel + 8 * n + lane() % 4 * 2;
        if (channel >= p.work.row) break;
        const int at = 4 * n + 2 * r;
        *reinterpret_cast<float2*>(values + channel) = {all[at], all[at + 1]};
        *reinterpret_cast<float2*>(values + p.work.row + channel) = {read[at], read[at + 1]};
      }
    }
  }
};

template <typename Element, typename Shape, typename Products>
__global__ void __launch_bounds__(kThreads) probe_keys(const __grid_constant__ ProbeParams p) {
  extern __shared__ std::byte dynamic[];
  constexpr std::uint32_t kAlignment = Products::kAlignment;
  const std::uint32_t misaligned = shared_address(dynamic) % kAlignment;
  auto& shared = *reinterpret_cast<SharedTiles<Shape>*>(
      dynamic + (misaligned == 0 ? 0U : kAlignment - misaligned));
  const int chunks = p.work.probe.chunks + 1;
  const auto cta = static_cast<int>(blockIdx.x);
  const auto first_channel = static_cast<int>(blockIdx.y) * kValueChannels;
  if (cta % chunks == p.work.probe.chunks) {
    KeySweep<Element, Shape, Products, true>(p, shared, cta / chunks, cta % chunks, first_channel)
        .run();
  } else {
    KeySweep<Element, Shape, Products, false>(p, shared, cta / chunks, cta % chunks, first_channel)
        .run();
  }
}

template <typename Element, typename Shape, typename Products>
void launch(const ProbeParams& p, unsigned int heads, cudaStream_t stream) {
  constexpr std::size_t kBytes = sizeof(SharedTiles<Shape>) + Products::kAlignment;
  static_assert(kBytes <= Products::kSharedBytes);
  constexpr unsigned kParts = (Shape::kKeyChannels + kValueChannels - 1) / kValueChannels;
  const unsigned int ctas = heads * static_cast<unsigned>(p.work.probe.chunks + 1);
  const auto kernel = probe_keys<Element, Shape, Products>;
  allow_shared_memory(kernel, kBytes);
  kernel<<<dim3(ctas, kParts), kThreads, kBytes, stream>>>(p);
  check_launch("probe_keys");
}

template <template <typename, typename> class Products, typename Element, int kDim>
void launch_tiles(const ProbeParams& p, unsigned int heads, cudaStream_t stream) {
  using Shape = TileShape<kDim>;
  launch<Element, Shape, Products<Element, Shape>>(p, heads, stream);
}

template <template <typename, typename> class Products, int kMostDim, typename Element>
void launch_for_dim(const ProbeParams& p, unsigned int heads, cudaStream_t stream) {
  if (p.call.head_dim <= 64) {
    launch_tiles<Products, Element, 64>(p, heads, stream);
  } else if (kMostDim == 128 || p.call.head_dim <= 128) {
    launch_tiles<Products, Element, 128>(p, heads, stream);
  } else {
    launch_tiles<Products, Element, kMostDim>(p, heads, stream);
  }
}

/// MeetProbeKeys with Products<Element, Shape>, for rows of up to kMostDim channels: 128 or 256.
template <template <typename, typename> class Products, int kMostDim>
void launch_for(const StageContext& context, const ProbeParams& p, unsigned int heads) {
  const cudaStream_t stream = stream_of(context.stream);
  if (context.geometry.shape.dtype_kv == DType::kF16) {
    launch_for_dim<Products, kMostDim, __half>(p, heads, stream);
  } else {
    launch_for_dim<Products, kMostDim, __nv_bfloat16>(p, heads, stream);
  }
}

}  // namespace psa::cuda::probes
