// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the sm_80 attention kernel (kernel_sm80.cuh) keeps in shared memory and in registers, and
// how rows come from global to shared memory.

#include <cstdint>

#include "cuda/attention/kv_stream.cuh"
#include "cuda/attention/params.hpp"
#include "cuda/device/copy.cuh"
#include "cuda/device/shared_rows.cuh"

namespace psa::cuda::sm80 {

/// A variant of the kernel. `kColumns` >= head_dim: columns in shared memory, zero from head_dim
/// on.
template <typename ElementType, int kColumnsValue, int kRowsValue, bool kFirstOrder>
struct Variant {
  using Element = ElementType;
  static constexpr int kColumns = kColumnsValue;       // 64, 128, 256
  static constexpr int kRows = kRowsValue;             // of q in a CTA: 64, 128
  static constexpr bool kHasFirstOrder = kFirstOrder;  // rest = linear
  // Stream rows of a tile: as many as registers (S) and 99 KB of shared memory have room for.
  static constexpr int kTileKeys = kColumns == 256 ? 32 : kColumns == 64 && kRows == 128 ? 128 : 64;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kWarpRows = kRows / kWarps;
  static constexpr int kRowTiles = kWarpRows / 16;  // m16 tiles of a warp
  static constexpr int kRowBytes = kColumns * static_cast<int>(sizeof(Element));
  static constexpr int kCtasPerSm = kRows == 128 || kColumns == 256 ? 2 : kColumns == 128 ? 3 : 4;
  static_assert(kRowTiles >= 1 && kRowTiles <= 2 && kThreads % kTileKeys == 0);
};

struct KernelParams {
  AttentionParams attention;
  bool has_aligned_rows;  // rows of all tensors are whole, aligned pieces of 16 bytes
};

/// Position that no query sees, and one that sees every key.
inline constexpr int kNever = 0x7FFFFFFF;
inline constexpr int kSeesAll = kNever - 1;

/// The stream rows of one tile.
template <int kKeys>
struct TileRows {
  const std::byte* k[kKeys];  // padding: zero_row()
  const std::byte* v[kKeys];
  float bias_log2[kKeys];  // log2(weight)
  float adjust[kKeys];     // what is added to logits, before they are scaled
  int last[kKeys];         // a query sees the row from this position on; padding: kNever
  // Of 32 rows that have one bias, are seen by all and are not adjusted; else NaN.
  float run_bias[kKeys / 32];
};

template <typename V>
struct SharedMemory {
  alignas(128) std::byte q[V::kRows * V::kRowBytes];
  alignas(128) std::byte k[V::kTileKeys * V::kRowBytes];
  alignas(128) std::byte v[V::kTileKeys * V::kRowBytes];
  TileRows<V::kTileKeys> rows[2];  // of tile t: [t % 2]
  KvWindow window;
  KvStream stream;  // of the window
  QueryBlock query;
  int end_block;  // KV blocks before it can be read
};

template <typename V>
using Scores = float[V::kRowTiles][V::kTileKeys / 8][4];

/// What a warp keeps of its query rows. Element [m][half] stands for row 16·m + 8·half + lane / 4.
template <typename V>
struct WarpRows {
  float out[V::kRowTiles][V::kColumns / 8][4] = {};  // not normalised
  float reference[V::kRowTiles][2];                  // largest logit so far, unscaled
  float sum[V::kRowTiles][2] = {};                   // this lane's columns only
  float rest_sum[V::kRowTiles][2] = {};  // of the block means, part of sum; with a first-order term
};

__device__ inline int lane_id() { return static_cast<int>(threadIdx.x % 32); }
__device__ inline int warp_id() { return static_cast<int>(threadIdx.x / 32); }

/// 2^x; 0 for -inf. Relative error 2^-22.
__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- global to shared memory --------------------------------------------------------------------

/// What padding rows are copied from: a row of the largest head_dim.
const __device__ uint4 kZeroRow[32] = {};

__device__ inline const std::byte* zero_row() {
  return reinterpret_cast<const std::byte*>(kZeroRow);
}

/// Eight elements from `channel` on, zeros behind head_dim, of a row of any alignment.
__device__ inline uint4 load_piece(const std::byte* row, int channel, int head_dim) {
  const auto* elements = reinterpret_cast<const std::uint16_t*>(row);
  std::uint32_t word[4] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const std::uint32_t bits = channel + i < head_dim ? elements[channel + i] : 0;
    word[i / 2] |= bits << (16 * (i % 2));
  }
  return {word[0], word[1], word[2], word[3]};
}

/// Copies kCount rows to a tile, with zeros from head_dim on; all threads of the CTA. `row_at(r)`
/// is the address of row r. The caller commits, waits and synchronises.
template <typename V, int kCount, typename RowAt>
__device__ __forceinline__ void copy_rows(const KernelParams& params, std::byte* tile,
                                          const RowAt& row_at) {
  constexpr int kLanes = 8;  // per row
  constexpr int kPieces = V::kRowBytes / 16;
  constexpr int kStep = V::kThreads / kLanes;
  const int head_dim = params.attention.head_dim;
  const int first_row = static_cast<int>(threadIdx.x) / kLanes;
  const int first_piece = static_cast<int>(threadIdx.x) % kLanes;
  const std::uint32_t target = piece_address<V::kRowBytes>(tile, first_row, first_piece);
  if (params.has_aligned_rows) {
#pragma unroll
    for (int r = 0; r < kCount; r += kStep) {
      const std::byte* row = row_at(first_row + r);
#pragma unroll
      for (int piece = 0; piece < kPieces; piece += kLanes) {
        const bool is_real = (first_piece + piece) * 8 < head_dim;
        const unsigned offset = is_real ? static_cast<unsigned>((first_piece + piece) * 16) : 0;
        copy_async_16(advance<V::kRowBytes>(target, r, piece), row + offset, is_real);
      }
    }
    return;
  }
#pragma unroll 1
  for (int r = 0; r < kCount; r += kStep) {
    const std::byte* row = row_at(first_row + r);
#pragma unroll 1
    for (int piece = 0; piece < kPieces; piece += kLanes) {
      store_shared(advance<V::kRowBytes>(target, r, piece),
                   load_piece(row, (first_piece + piece) * 8, head_dim));
    }
  }
}

/// Part of a query block that a CTA works on; q_rows may be 0.
template <typename V>
__device__ inline QueryBlock query_part(const AttentionParams& p, int cta) {
  const int parts = (p.block_q + V::kRows - 1) / V::kRows;
  QueryBlock q = query_block_of(p, cta / parts);
  const int skipped = cta % parts * V::kRows;
  q.q_begin += skipped;
  q.q_rows = max(0, min(q.q_rows - skipped, V::kRows));
  q.first_position += skipped;
  return q;
}

template <typename V>
__device__ inline void copy_queries(const KernelParams& params, SharedMemory<V>& shared) {
  const AttentionParams& p = params.attention;
  const QueryBlock& q = shared.query;
  copy_rows<V, V::kRows>(params, shared.q, [&](int r) {
    if (r >= q.q_rows) return zero_row();
    const index_t element = q.batch * p.q.batch_stride + q.head * p.q.head_stride +
                            query_token(p, q, q.q_begin + r) * p.q.token_stride;
    return static_cast<const std::byte*>(p.q.data) +
           element * static_cast<index_t>(sizeof(typename V::Element));
  });
}

/// Lists the rows of a tile, one thread per row; the warps take turns. Called by all threads.
template <typename V>
__device__ inline void list_rows(const AttentionParams& p, SharedMemory<V>& shared, int tile) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread / V::kTileKeys != tile % (V::kThreads / V::kTileKeys)) return;
  const int r = thread % V::kTileKeys;
  const QueryBlock& q = shared.query;
  const KvRow row = shared.stream.at(p, q, shared.window, tile * V::kTileKeys + r);
  KvAddress address{zero_row(), zero_row()};
  float bias = 0.0F;
  float mass = 0.0F;
  if (row.is_real) {
    address = address_of(p, q, row, sizeof(typename V::Element));
    bias = log2_weight(row.weight);
    mass = log2_rest_mass(p, q, row);
  }
  TileRows<V::kTileKeys>& rows = shared.rows[tile % 2];
  rows.k[r] = address.k;
  rows.v[r] = address.v;
  rows.bias_log2[r] = bias;
  rows.adjust[r] = mass == 0.0F ? 0.0F : mass / p.scale_log2;
  rows.last[r] = row.is_real ? row.last : kNever;
  const bool is_plain =
      row.is_real && mass == 0.0F && semantics::is_visible(p.is_causal, row.last, q.first_position);
  const bool has_same_bias = bias == __shfl_sync(0xFFFFFFFFU, bias, 0);
  const bool is_run = __all_sync(0xFFFFFFFFU, is_plain && has_same_bias) != 0;
  if (lane_id() == 0) rows.run_bias[r / 32] = is_run ? bias : nanf("");
}

/// Whether all rows of a tile have the bias run_bias[0], are seen by all queries and not adjusted.
template <int kKeys>
__device__ inline bool is_one_run(const TileRows<kKeys>& rows) {
  bool is_one = rows.run_bias[0] == rows.run_bias[0];
#pragma unroll
  for (int i = 1; i < kKeys / 32; ++i) is_one = is_one && rows.run_bias[i] == rows.run_bias[0];
  return is_one;
}

}  // namespace psa::cuda::sm80
