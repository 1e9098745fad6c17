// SPDX-License-Identifier: Apache-2.0
#pragma once

// The keys and values that one query block reads, as a stream of rows that kernels cut into tiles.
//
// A row of the level map names KV blocks; a block at level code c is a piece of block_kv /
// factor(c) rows of the pyramid. The pieces of a window of kWindowBlocks KV blocks follow each
// other by rising level code, then rising block, and the run of each level starts at a multiple of
// 8 rows:
//
//   stream row   0 ............. | begin[2] ........ | ... | begin[6] ... | rows()
//                level 1 pieces  pad  level 2 pieces  pad       block means  pad
//
// So 8 stream rows (a granule) always share one level and one bias, whatever the size of the
// pieces, and tiles need not know about pieces at all: a thread asks for the row that it loads.
// Rising blocks inside a level keep neighbouring query blocks on the same lines of L2.
//
// S-3 to S-5 and S-8 say what a row is; semantics:: decides it.

#include <cstdint>

#include "cuda/attention/params.hpp"
#include "semantics/blocks.hpp"
#include "semantics/pooling.hpp"

namespace psa::cuda {

/// The query block that a CTA works on.
struct QueryBlock {
  int batch, head, head_kv;
  int q_block;
  int q_begin, q_rows;  // rows of q in working order
  int len_kv;           // valid keys of this batch element
  /// Position of the first row on the axis of the keys (S-8); later rows follow one by one.
  int first_position;
};

/// `item` counts from the launch's first KV head on; query heads of one KV head lie side
/// by side, because they tend to read the same keys. Long rows come first, so that none is left
/// when the others end: the full ones of all heads, in causal calls the last ones of each.
__device__ inline QueryBlock query_block_of(const AttentionParams& p, int item) {
  const int group = p.heads_q / p.heads_kv;
  const int full_items = p.heads.count * group * p.full_q_blocks;
  const bool is_full = item < full_items;
  const int ranks = is_full ? p.full_q_blocks : p.num_q_blocks - p.full_q_blocks;
  if (!is_full) item -= full_items;
  QueryBlock q{};
  const int member = item % group;
  item /= group;
  const int rank = item % ranks;
  item /= ranks;
  const int head = p.heads.first + item;
  q.head_kv = head % p.heads_kv;
  q.batch = head / p.heads_kv;
  q.head = q.head_kv * group + member;
  if (p.is_causal) {
    q.q_block = p.num_q_blocks - 1 - rank;
  } else if (is_full) {
    q.q_block = p.full_q_begin + rank;
  } else {
    q.q_block = rank < p.full_q_begin ? rank : rank + p.full_q_blocks;
  }
  const semantics::Range rows = semantics::block_range(q.q_block, p.block_q, p.len_q);
  q.q_begin = static_cast<int>(rows.begin);
  q.q_rows = static_cast<int>(rows.size());
  const int given = p.kv_lengths == nullptr ? p.len_kv : p.kv_lengths[q.batch];
  q.len_kv = max(0, min(given, p.len_kv));
  q.first_position = static_cast<int>(semantics::causal_position(q.q_begin, p.len_q, q.len_kv));
  return q;
}

/// Row of a level map.
__device__ inline index_t map_row_of(const AttentionParams& p, const QueryBlock& q) {
  return (static_cast<index_t>(q.batch) * p.heads_q + q.head) * p.num_q_blocks + q.q_block;
}

/// Query block among those of the launch's heads, as first_order.hpp counts them.
__device__ inline index_t first_order_block_of(const AttentionParams& p, const QueryBlock& q) {
  const index_t heads_before = index_t{p.heads.first} * (p.heads_q / p.heads_kv);
  return map_row_of(p, q) - heads_before * p.num_q_blocks;
}

/// Row `channel` of the query block's map (first_order.hpp).
__device__ inline const std::byte* first_order_row(const AttentionParams& p, const QueryBlock& q,
                                                   int channel, int element_bytes) {
  return p.map + (first_order_block_of(p, q) * p.head_dim + channel) * p.map_row * element_bytes;
}

/// KV blocks before this one can be read by the query block; the others are hidden or empty.
__device__ inline int readable_blocks(const AttentionParams& p, const QueryBlock& q) {
  return static_cast<int>(semantics::visible_blocks(p.is_causal, {q.q_begin, q.q_begin + q.q_rows},
                                                    p.block_kv, p.len_q, q.len_kv));
}

/// A scaled logit is rounded where it becomes the reference of a row, but not inside the exponents,
/// which fuse its product with the sum. Above this size the two may differ by more than 1, so that
/// e^(logit - reference) would overflow: logits are then made relative before they are scaled.
inline constexpr float kLargestShift = 0x1p24F;

inline constexpr int kWindowBlocks = 1024;

/// KV blocks of a window by level code. In shared memory.
struct KvWindow {
  int first_block;
  int count[kNumLevelCodes];
  std::uint16_t block[kNumLevelCodes - 1][kWindowBlocks];  // [code - 1]: block - first_block
};

/// Fills `window` with blocks [first_block, min(first_block + kWindowBlocks, end_block)). Called by
/// all lanes of `warps` warps; warp w lists level codes w + 1, w + 1 + warps, ... The caller
/// synchronises before and after.
__device__ inline void list_window(const AttentionParams& p, const QueryBlock& q, int first_block,
                                   int end_block, KvWindow& window, int warp, int warps) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const std::uint8_t* codes = p.levels + map_row_of(p, q) * p.num_kv_blocks + first_block;
  const int blocks = min(kWindowBlocks, end_block - first_block);
  int count[kNumLevelCodes] = {};
  constexpr int kBatch = 8;  // loads under way at once
  for (int base = 0; base < blocks; base += 32 * kBatch) {
    int code[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int block = base + 32 * i + lane;
      code[i] = block < blocks ? codes[block] : semantics::kSkipCode;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (base + 32 * i >= blocks) break;
#pragma unroll
      for (int c = 1; c < kNumLevelCodes; ++c) {
        if ((c - 1) % warps != warp) continue;
        const bool is_listed = code[i] == c && ((p.readable_codes >> c) & 1U) != 0;
        const unsigned listed = __ballot_sync(0xFFFFFFFFU, is_listed);
        if (is_listed) {
          window.block[c - 1][count[c] + __popc(listed & ((1U << lane) - 1U))] =
              static_cast<std::uint16_t>(base + 32 * i + lane);
        }
        count[c] += __popc(listed);
      }
    }
  }
  if (lane == 0) {
#pragma unroll
    for (int c = 1; c < kNumLevelCodes; ++c) {
      if ((c - 1) % warps == warp) window.count[c] = count[c];
    }
    if (warp == 0) window.first_block = first_block;
  }
}

/// One row of the stream.
struct KvRow {
  bool is_real;  // false: padding, or behind the last valid key
  int code;      // level code of its granule, also for padding
  int block;     // KV block that it belongs to
  int row;       // row of the pyramid level (level 1: position)
  int weight;    // tokens that it stands for (S-5)
  int last;      // last position that it stands for (S-8)
};

/// Where the runs of the levels of a window begin; the same in every thread, kept in registers.
struct KvStream {
  int begin[kNumLevelCodes + 1];  // [code]; begin[kNumLevelCodes] = rows()
  int log2_piece[kNumLevelCodes];

  __device__ KvStream(const AttentionParams& p, const KvWindow& window) {
    int at = 0;
    begin[0] = 0;
#pragma unroll
    for (int c = 1; c < kNumLevelCodes; ++c) {
      const int factor = static_cast<int>(semantics::pool_factor(c, p.block_kv));
      log2_piece[c] = max(0, 31 - __clz(p.block_kv / factor));
      begin[c] = at;
      at += ((window.count[c] << log2_piece[c]) + 7) & ~7;
    }
    begin[kNumLevelCodes] = at;
    log2_piece[0] = 0;
  }

  [[nodiscard]] __device__ int rows() const { return begin[kNumLevelCodes]; }

  /// `at` may lie behind rows(): padding.
  [[nodiscard]] __device__ KvRow at(const AttentionParams& p, const QueryBlock& q,
                                    const KvWindow& window, int at) const {
    int code = 1;
    int run = 0;
    int log2_rows = log2_piece[1];
#pragma unroll
    for (int c = 2; c < kNumLevelCodes; ++c) {
      const bool is_behind = at >= begin[c] && begin[c] < begin[c + 1];
      code = is_behind ? c : code;
      run = is_behind ? begin[c] : run;
      log2_rows = is_behind ? log2_piece[c] : log2_rows;
    }
    KvRow row{false, code, 0, 0, 0, 0};
    const int inside = at - run;
    const int piece = inside >> log2_rows;
    if (piece >= window.count[code]) return row;
    row.block = window.first_block + window.block[code - 1][piece];
    row.row = (row.block << log2_rows) + (inside & ((1 << log2_rows) - 1));
    const semantics::Range tokens =
        semantics::pooled_tokens(row.row, semantics::pool_factor(code, p.block_kv), q.len_kv);
    row.weight = static_cast<int>(tokens.size());
    row.last = static_cast<int>(tokens.end) - 1;
    row.is_real = row.weight > 0;
    return row;
  }
};

/// Where the rows of one level of a head lie. Strides are in bytes.
struct KvSource {
  const std::byte* k;
  const std::byte* v;
  index_t k_stride, v_stride;
};

__device__ inline KvSource source_of(const AttentionParams& p, const QueryBlock& q, int code,
                                     int element_bytes) {
  if (code == semantics::kFinestLevel) {
    return {p.k.data + (q.batch * p.k.batch_stride + q.head_kv * p.k.head_stride) * element_bytes,
            p.v.data + (q.batch * p.v.batch_stride + q.head_kv * p.v.head_stride) * element_bytes,
            p.k.token_stride * element_bytes, p.v.token_stride * element_bytes};
  }
  const index_t head = static_cast<index_t>(q.batch) * p.heads_kv + q.head_kv;
  const index_t row_bytes = static_cast<index_t>(p.head_dim) * element_bytes;
  const index_t offset = head * p.pooled_rows[code] * row_bytes;
  return {p.pooled_k[code] + offset, p.pooled_v[code] + offset, row_bytes, row_bytes};
}

/// Row of a source that row `row` of the level (level 1: a working position) is.
__device__ inline int source_row(const AttentionParams& p, const QueryBlock& q, int code, int row) {
  if (code != semantics::kFinestLevel || p.kv_order.index == nullptr) return row;
  return p.kv_order
      .index[q.batch * p.kv_order.batch_stride + q.head_kv * p.kv_order.head_stride + row];
}

/// Exact for powers of two, which all weights but a sequence's last are.
__device__ inline float log2_weight(int weight) {
  const bool is_power = (weight & (weight - 1)) == 0;
  return is_power ? static_cast<float>(31 - __clz(weight)) : log2f(static_cast<float>(weight));
}

/// What the logit of a real row gets beside its weight, in log2 units: the mass of block means of
/// rest = linear (S-23). It has no bound, so it belongs in front of the reference of a row.
__device__ inline float log2_rest_mass(const AttentionParams& p, const QueryBlock& q,
                                       const KvRow& row) {
  if (p.rest_mass == nullptr || row.code != semantics::kBlockMeanCode) return 0.0F;
  return p.rest_mass[first_order_block_of(p, q) * p.num_kv_blocks + row.block];
}

/// Addresses of a real row's key and value.
struct KvAddress {
  const std::byte* k;
  const std::byte* v;
};

__device__ inline KvAddress address_of(const AttentionParams& p, const QueryBlock& q,
                                       const KvRow& row, int element_bytes) {
  const KvSource source = source_of(p, q, row.code, element_bytes);
  const index_t at = source_row(p, q, row.code, row.row);
  return {source.k + at * source.k_stride, source.v + at * source.v_stride};
}

/// Row of q and of the outputs that a working position stands for.
__device__ inline index_t query_token(const AttentionParams& p, const QueryBlock& q, int position) {
  if (p.q_order.index == nullptr) return position;
  return p.q_order
      .index[q.batch * p.q_order.batch_stride + q.head * p.q_order.head_stride + position];
}

}  // namespace psa::cuda
