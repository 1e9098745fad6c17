// SPDX-License-Identifier: Apache-2.0

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
// Cost: 6 D flops per probe row and key on the tensor cores: 1.5 · 64 / Lq of dense attention.

#include <cstddef>
#include <cstdint>

#include "cuda/device/copy.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/device/shared_rows.cuh"
#include "cuda/first_order/rest_probes.cuh"
#include "cuda/launch.cuh"

namespace psa::cuda {
namespace {

constexpr int kWarps = kProbes / 16;
constexpr int kThreads = 32 * kWarps;
constexpr int kValueChannels = 128;  // of a CTA: two sums of 16 rows fill the registers of a warp

__device__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <typename ElementType, int kDim>
struct KeyTraits {
  using Element = ElementType;
  static constexpr int kHeadDim = kDim;  // in shared memory; channels behind head_dim are 0
  static constexpr int kValues = kDim < kValueChannels ? kDim : kValueChannels;
  static constexpr int kTile = kDim > 128 ? 32 : 64;  // keys
  static constexpr int kKeyBytes = kDim * 2;
  static constexpr int kValueBytes = kValues * 2;

  struct Shared {
    alignas(128) std::byte q[kProbes * kKeyBytes];
    alignas(128) std::byte k[2][kTile * kKeyBytes];
    alignas(128) std::byte v[2][kTile * kValueBytes];
    int token[2][kTile];  // source rows of the tiles
    // Of a tile of block means: what their logits get beside the product; -inf outside of rest
    // sets.
    float bias[kProbes][kTile];
  };
  static_assert(kTile <= kThreads);
};

/// 8 channels of a row from `channel` on, or zeros, on their way to shared memory.
template <typename Element>
__device__ void load_piece(const ProbeParams& p, std::uint32_t to, const std::byte* row,
                           int channel, bool is_real) {
  const int channels = p.call.head_dim - channel;
  const bool is_there = is_real && channels > 0;
  const auto* from = reinterpret_cast<const Element*>(row) + (is_there ? channel : 0);
  if (p.is_aligned) {
    copy_async_16(to, from, is_there);
  } else {
    store_shared(to, is_there ? load_channels<false>(from, channels) : uint4{});
  }
}

/// A CTA of probe_keys: the probe rows of a head and a chunk of its keys or, as `means`, its block
/// means.
template <typename Traits>
struct KeySweep {
  using Element = typename Traits::Element;
  static constexpr int kElementBytes = 2;
  static constexpr int kKeyPieces = Traits::kHeadDim / 8;
  static constexpr int kValuePieces = Traits::kValues / 8;

  const ProbeParams& p;
  typename Traits::Shared& shared;
  int head, chunk, first_channel;  // the last of the values
  bool is_means;
  QueryBlock any;  // of the head
  KvSource source;
  int rows;  // keys or block means that exist

  // Of the lane's two rows.
  int q_begin[2];                // of the query block
  const std::uint8_t* codes[2];  // [Nk]
  int limit[2];                  // keys before this one are seen; 0: no such probe
  float shift[2] = {-INFINITY, -INFINITY};
  float all_sum[2] = {};
  float read_sum[2] = {};
  float all[Traits::kValues / 8][4] = {};
  float read[Traits::kValues / 8][4] = {};

  __device__ KeySweep(const ProbeParams& params, typename Traits::Shared& memory, int of_head,
                      int of_chunk, int of_channel)
      : p(params),
        shared(memory),
        head(of_head),
        chunk(of_chunk),
        first_channel(of_channel),
        is_means(of_chunk == params.work.probe.chunks),
        any(probe_block(params, of_head, 0)) {
    const int code = is_means ? semantics::kBlockMeanCode : semantics::kFinestLevel;
    source = source_of(p.call, any, code, kElementBytes);
    rows =
        is_means ? static_cast<int>(semantics::ceil_div(any.len_kv, p.call.block_kv)) : any.len_kv;
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
      limit[r] = !exists ? 0 : p.call.is_causal && !is_means ? min(rows, position + 1) : rows;
    }
  }

  static __device__ int warp() { return static_cast<int>(threadIdx.x) / 32; }
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ int own_probe(int r) const { return 16 * warp() + 8 * r + lane() / 4; }

  __device__ void load_queries() {
    for (int i = static_cast<int>(threadIdx.x); i < kProbes * kKeyPieces; i += kThreads) {
      const int probe = i / kKeyPieces;
      const int piece = i % kKeyPieces;
      const bool exists = probe < p.probes;
      const auto row = static_cast<int>(semantics::probe_row(exists ? probe : 0, p.call.len_q));
      const index_t at = any.batch * p.call.q.batch_stride + any.head * p.call.q.head_stride +
                         query_token(p.call, any, row) * p.call.q.token_stride;
      load_piece<Element>(p, piece_address<Traits::kKeyBytes>(shared.q, probe, piece),
                          p.call.q.data + at * kElementBytes, piece * 8, exists);
    }
  }

  /// Source row of a tile's row, of the thread; looked up a tile ahead of the copies.
  __device__ int token_of(int tile) const {
    const int at = tile * Traits::kTile + static_cast<int>(threadIdx.x) % Traits::kTile;
    const int code = is_means ? semantics::kBlockMeanCode : semantics::kFinestLevel;
    return at < rows ? source_row(p.call, any, code, at) : 0;
  }

  __device__ void note_token(int stage, int token) {
    if (threadIdx.x < Traits::kTile) shared.token[stage][threadIdx.x] = token;
  }

  /// Its tokens are noted.
  __device__ void load_tile(int tile, int stage) {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < Traits::kTile * kKeyPieces; i += kThreads) {
      const int row = i / kKeyPieces;
      const int piece = i % kKeyPieces;
      load_piece<Element>(p, piece_address<Traits::kKeyBytes>(shared.k[stage], row, piece),
                          source.k + shared.token[stage][row] * source.k_stride, piece * 8,
                          tile * Traits::kTile + row < rows);
    }
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < Traits::kTile * kValuePieces; i += kThreads) {
      const int row = i / kValuePieces;
      const int piece = i % kValuePieces;
      load_piece<Element>(p, piece_address<Traits::kValueBytes>(shared.v[stage], row, piece),
                          source.v + shared.token[stage][row] * source.v_stride,
                          first_channel + piece * 8, tile * Traits::kTile + row < rows);
    }
  }

  static constexpr int kTileGroups = Traits::kTile / 8;
  using Logits = float[kTileGroups][4];

  __device__ void multiply_keys(int stage, Logits& s) const {
    constexpr int kBytes = Traits::kKeyBytes;
    const std::uint32_t q = piece_address<kBytes>(shared.q, 16 * warp() + lane() % 16, lane() / 16);
    const std::uint32_t k =
        piece_address<kBytes>(shared.k[stage], lane() / 16 * 8 + lane() % 8, lane() / 8 % 2);
#pragma unroll
    for (int step = 0; step < Traits::kHeadDim / 16; ++step) {
      std::uint32_t a[4];
      load_matrices(a, advance<kBytes>(q, 0, 2 * step));
#pragma unroll
      for (int pair = 0; pair < kTileGroups / 2; ++pair) {
        std::uint32_t b[4];
        load_matrices(b, advance<kBytes>(k, 16 * pair, 2 * step));
        mma_16x8x16<Element>(s[2 * pair], a, b[0], b[1]);
        mma_16x8x16<Element>(s[2 * pair + 1], a, b[2], b[3]);
      }
    }
  }

  /// Bit 2 · group + r: row r reads the keys of the group. Looked up a tile ahead.
  __device__ unsigned read_groups(int tile) const {
    if (is_means) return 0;
    const int groups_per_block = min(p.call.block_kv / 8, kTileGroups);
    const unsigned every = 0x55555555U & ((1ULL << (2 * groups_per_block)) - 1U);
    unsigned found = 0;
    for (int group = 0; group < kTileGroups; group += groups_per_block) {
      const int first = tile * Traits::kTile + 8 * group;
      if (first >= rows) break;
      const int block = first / p.call.block_kv;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int code = codes[r][block];
        if (!semantics::is_unread(code, is_rest(p, q_begin[r], any.len_kv, code, block))) {
          found |= every << (2 * group + r);
        }
      }
    }
    return found;
  }

  /// Keys of a tile that a row of the lane sees, less the first one that the lane has.
  __device__ int seen_keys(int tile, int r) const {
    return limit[r] - tile * Traits::kTile - lane() % 4 * 2;
  }

  /// Logits in log2 units, -inf where nothing is seen.
  __device__ void finish_logits(int tile, Logits& s) const {
    const int seen[2] = {seen_keys(tile, 0), seen_keys(tile, 1)};
#pragma unroll
    for (int group = 0; group < kTileGroups; ++group) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = i / 2;
        const float bias =
            is_means ? shared.bias[own_probe(r)][8 * group + lane() % 4 * 2 + i % 2] : 0.0F;
        const float logit = fmaf(s[group][i], p.call.scale_log2, bias);
        s[group][i] = 8 * group + i % 2 < seen[r] ? logit : -INFINITY;
      }
    }
  }

  /// Fills shared.bias. A warp takes rows in turns, its lanes block means.
  __device__ void list_biases(int tile) {
    for (int probe = warp(); probe < p.probes; probe += kWarps) {
      const QueryBlock q = probe_block(p, head, probe);
      const index_t row = first_order_block_of(p.call, q) * p.call.num_kv_blocks;
      const std::uint8_t* levels = p.call.levels + map_row_of(p.call, q) * p.call.num_kv_blocks;
#pragma unroll
      for (int i = lane(); i < Traits::kTile; i += 32) {
        const int at = min(tile * Traits::kTile + i, rows - 1);
        const auto tokens = semantics::block_range(at, p.call.block_kv, q.len_kv).size();
        const float own = p.work.mass[row + at] + log2_weight(static_cast<int>(tokens));
        shared.bias[probe][i] = is_rest(p, q.q_begin, q.len_kv, levels[at], at) ? own : -INFINITY;
      }
    }
    __syncthreads();
  }

  /// Logits become exponentials; sums go over to the new reference.
  __device__ void exponentiate(Logits& s, unsigned is_read) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = shift[r];
#pragma unroll
      for (int group = 0; group < kTileGroups; ++group) {
        top = fmaxf(top, fmaxf(s[group][2 * r], s[group][2 * r + 1]));
      }
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      const float reference = top == -INFINITY ? 0.0F : top;
      const float factor = exp2_approximate(shift[r] - reference);
      shift[r] = top;
      all_sum[r] *= factor;
      read_sum[r] *= factor;
      if (__any_sync(kAllLanes, factor != 1.0F)) {
#pragma unroll
        for (int n = 0; n < Traits::kValues / 8; ++n) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            all[n][2 * r + c] *= factor;
            read[n][2 * r + c] *= factor;
          }
        }
      }
#pragma unroll
      for (int group = 0; group < kTileGroups; ++group) {
        const bool reads = (is_read >> (2 * group + r) & 1U) != 0;
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& x = s[group][2 * r + c];
          x = exp2_approximate(x - reference);
          all_sum[r] += x;
          if (reads) read_sum[r] += x;
        }
      }
    }
  }

  __device__ void multiply_values(int stage, const Logits& s, unsigned is_read) {
    constexpr int kBytes = Traits::kValueBytes;
    const bool reads = __any_sync(kAllLanes, is_read != 0);
    const std::uint32_t v = piece_address<kBytes>(shared.v[stage], lane() % 16, lane() / 16);
#pragma unroll
    for (int step = 0; step < Traits::kTile / 16; ++step) {
      std::uint32_t weights[4];
      std::uint32_t of_read[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int group = 2 * step + i / 2;
        weights[i] = pack<Element>(s[group][i % 2 * 2], s[group][i % 2 * 2 + 1]);
        of_read[i] = (is_read >> (2 * group + i % 2) & 1U) != 0 ? weights[i] : 0U;
      }
#pragma unroll
      for (int pair = 0; pair < Traits::kValues / 16; ++pair) {
        std::uint32_t b[4];
        load_matrices_transposed(b, advance<kBytes>(v, 16 * step, 2 * pair));
        mma_16x8x16<Element>(all[2 * pair], weights, b[0], b[1]);
        mma_16x8x16<Element>(all[2 * pair + 1], weights, b[2], b[3]);
        if (!reads) continue;
        mma_16x8x16<Element>(read[2 * pair], of_read, b[0], b[1]);
        mma_16x8x16<Element>(read[2 * pair + 1], of_read, b[2], b[3]);
      }
    }
  }

  __device__ void run() {
    const int tiles = (rows + Traits::kTile - 1) / Traits::kTile;
    const int chunks = p.work.probe.chunks;
    const int begin = is_means ? 0 : static_cast<int>(index_t{tiles} * chunk / chunks);
    const int end = is_means ? tiles : static_cast<int>(index_t{tiles} * (chunk + 1) / chunks);
    load_queries();
    note_token(0, token_of(begin));
    note_token(1, token_of(begin + 1));
    unsigned is_read = read_groups(begin);
    __syncthreads();
    if (begin < end) load_tile(begin, 0);
    commit_copies();
    for (int tile = begin; tile < end; ++tile) {
      const int stage = (tile - begin) % 2;
      wait_copies<0>();
      __syncthreads();  // the tile is there, and nobody reads the one before
      if (tile + 1 < end) load_tile(tile + 1, 1 - stage);
      commit_copies();
      const int next_token = token_of(tile + 2);
      const unsigned next_is_read = read_groups(tile + 1);
      if (is_means) list_biases(tile);
      if (__any_sync(kAllLanes, seen_keys(tile, 0) > 0 || seen_keys(tile, 1) > 0)) {
        Logits s = {};
        multiply_keys(stage, s);
        finish_logits(tile, s);
        exponentiate(s, is_read);
        multiply_values(stage, s, is_read);
      }
      note_token(stage, next_token);
      is_read = next_is_read;
    }
    wait_copies<0>();
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
      for (int n = 0; n < Traits::kValues / 8; ++n) {
        const int channel = first_channel + 8 * n + lane() % 4 * 2;
        if (channel >= p.work.row) break;
        *reinterpret_cast<float2*>(values + channel) = {all[n][2 * r], all[n][2 * r + 1]};
        *reinterpret_cast<float2*>(values + p.work.row + channel) = {read[n][2 * r],
                                                                     read[n][2 * r + 1]};
      }
    }
  }
};

template <typename Traits>
__global__ void __launch_bounds__(kThreads) probe_keys(const __grid_constant__ ProbeParams p) {
  extern __shared__ __align__(128) std::byte dynamic[];
  const int chunks = p.work.probe.chunks + 1;
  const auto cta = static_cast<int>(blockIdx.x);
  KeySweep<Traits> sweep(p, *reinterpret_cast<typename Traits::Shared*>(dynamic), cta / chunks,
                         cta % chunks, static_cast<int>(blockIdx.y) * kValueChannels);
  sweep.run();
}

template <typename Traits>
void launch_keys(const ProbeParams& p, unsigned int ctas, cudaStream_t stream) {
  constexpr std::size_t kBytes = sizeof(typename Traits::Shared);
  static_assert(kBytes <= 99 * 1024, "must fit devices with 100 KB per SM");
  constexpr unsigned kParts = (Traits::kHeadDim + kValueChannels - 1) / kValueChannels;
  allow_shared_memory(probe_keys<Traits>, kBytes);
  probe_keys<Traits><<<dim3(ctas, kParts), kThreads, kBytes, stream>>>(p);
  check_launch("probe_keys");
}

}  // namespace

template <typename Element>
void meet_probe_keys(const ProbeParams& p, unsigned int heads, cudaStream_t stream) {
  const unsigned int ctas = heads * static_cast<unsigned>(p.work.probe.chunks + 1);
  if (p.call.head_dim > 128) {
    launch_keys<KeyTraits<Element, 256>>(p, ctas, stream);
  } else if (p.call.head_dim > 64) {
    launch_keys<KeyTraits<Element, 128>>(p, ctas, stream);
  } else {
    launch_keys<KeyTraits<Element, 64>>(p, ctas, stream);
  }
}

template void meet_probe_keys<__half>(const ProbeParams&, unsigned int, cudaStream_t);
template void meet_probe_keys<__nv_bfloat16>(const ProbeParams&, unsigned int, cudaStream_t);

}  // namespace psa::cuda
