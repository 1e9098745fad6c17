// SPDX-License-Identifier: Apache-2.0
#pragma once

// Which tokens the estimators compare: probe rows of q and probe columns of k.
//
//                 row of q                      column of k                    parts
//   sampled_*     a sampled token               a sampled token                1
//   antidiagonal  a group of t tokens, in       a group of t tokens            t, one token each
//                 reversed order
//   pooled_lse    the mean of g tokens          a pyramid row of factor g      1
//
// All rows of a query block follow each other, as do the columns of a KV block; there the number is
// rounded up to a power of two, so that blocks tile a tile of columns. Rows and columns that do not
// exist read as zeros and are taken out afterwards.

#include <cstdint>

#include "cuda/device/kv_rows.cuh"
#include "cuda/importance/params.cuh"
#include "semantics/blocks.hpp"
#include "semantics/importance.hpp"
#include "semantics/pooling.hpp"

namespace psa::cuda::estimation {

using semantics::Range;

inline constexpr int kNoToken = -1;

/// Consecutive query blocks of one head.
struct Item {
  int head;  // of the chunk's
  int batch;
  int head_q;
  int head_kv;
  int first_block;
  int blocks;
  int key_count;       // S-1
  int first_position;  // of the item's queries, on the axis of the keys
  int tiles;           // of columns: the others are hidden from all blocks
};

__device__ inline Range block_queries(const Params& p, index_t block) {
  return semantics::block_range(block, p.block_q, p.len_q);
}

/// KV blocks that a query block can read, counted from the first (S-8).
__device__ inline int visible_blocks(const Params& p, const Item& item, Range queries) {
  return static_cast<int>(
      semantics::visible_blocks(p.is_causal, queries, p.block_kv, p.len_q, item.key_count));
}

/// Item `index` of the call. Without a causal rule heads come one after the other, so that CTAs
/// that run at the same time share keys in L2. With it items differ in length: the longest first.
__device__ inline Item item_at(const Params& p, index_t index) {
  Item item{};
  index_t place = 0;  // among the items of the head
  if (p.is_causal) {
    item.head = p.first_head + static_cast<int>(index % p.heads);
    place = p.items_per_head - 1 - index / p.heads;
  } else {
    item.head = p.first_head + static_cast<int>(index / p.items_per_head);
    place = index % p.items_per_head;
  }
  item.batch = p.batch_begin + item.head / p.heads_q;
  item.head_q = item.head % p.heads_q;
  item.head_kv = item.head_q / p.heads_per_kv;
  const index_t first = p.q_block_begin + place * p.blocks_per_item;
  const index_t end = semantics::min_of(first + p.blocks_per_item, p.q_block_end);
  item.first_block = static_cast<int>(first);
  item.blocks = static_cast<int>(end - first);
  item.key_count = static_cast<int>(key_length(p.kv_lengths, item.batch, p.len_kv));
  const Range queries{block_queries(p, first).begin, block_queries(p, end - 1).end};
  item.first_position =
      static_cast<int>(semantics::causal_position(queries.begin, p.len_q, item.key_count));
  item.tiles =
      static_cast<int>(semantics::ceil_div(visible_blocks(p, item, queries), p.blocks_per_tile()));
  return item;
}

/// Token at a position of the working order.
__device__ inline index_t token_at(const KvHead<Bits>& head, index_t position) {
  return head.order == nullptr ? position : __ldg(head.order + position);
}

// ---- rows ---------------------------------------------------------------------------------------

/// Positions of q that row `row` of an item stands for; none: there is no such row.
__device__ inline Range row_queries(const Params& p, const Item& item, int row) {
  const int block = row / p.rows_per_block;
  const int place = row % p.rows_per_block;
  if (block >= item.blocks) return {0, 0};
  const index_t q_block = item.first_block + block;
  if (p.takes_samples()) {
    const int offset = p.q_offsets[static_cast<index_t>(item.head) * kMaxBlock + place];
    const index_t position = semantics::sample_position(block_queries(p, q_block), offset);
    return {position, position + 1};
  }
  return semantics::pooled_tokens(q_block * p.rows_per_block + place, p.group_tokens, p.len_q);
}

/// A row as a CTA lists it.
struct ProbeRow {
  int begin, end;  // positions of q
  int position;    // of its last query, which decides what it sees, on the axis of the keys

  [[nodiscard]] __device__ bool exists() const { return begin < end; }
};

__device__ inline ProbeRow row_at(const Params& p, const Item& item, int row) {
  const Range queries = row_queries(p, item, row);
  const index_t position = semantics::causal_position(queries.end - 1, p.len_q, item.key_count);
  return {static_cast<int>(queries.begin), static_cast<int>(queries.end),
          static_cast<int>(position)};
}

/// Token of q that a row holds in part `part` of the dot products.
__device__ inline int row_token(const Params& p, const KvHead<Bits>& q, const ProbeRow& row,
                                int part) {
  const index_t offset =
      p.takes_samples() ? 0 : semantics::antidiagonal_query_offset(part, p.parts);
  const index_t position = row.begin + offset;
  return position < row.end ? static_cast<int>(token_at(q, position)) : kNoToken;
}

// ---- columns ------------------------------------------------------------------------------------

/// Positions of k that column `column` of an item stands for; none: there is no such column.
__device__ inline Range column_keys(const Params& p, const Item& item, int column) {
  const index_t block = column >> p.log2_columns;
  const int place = column & ((1 << p.log2_columns) - 1);
  if (place >= p.columns_per_block) return {0, 0};
  if (p.takes_samples()) {
    const Range keys = semantics::block_range(block, p.block_kv, item.key_count);
    if (keys.size() <= 0) return {0, 0};
    const int head = item.head / p.heads_per_kv;  // of the chunk's
    const int offset = p.kv_offsets[static_cast<index_t>(head) * kMaxBlock + place];
    const index_t position = semantics::sample_position(keys, offset);
    return {position, position + 1};
  }
  return semantics::pooled_tokens(block * p.columns_per_block + place, p.group_tokens,
                                  item.key_count);
}

/// Row of k, or of the pyramid, that a column holds in part `part` of the dot products.
__device__ inline int column_token(const Params& p, const KvHead<Bits>& k, const Item& item,
                                   int column, int part) {
  const Range keys = column_keys(p, item, column);
  if (p.estimator == Importance::kPooledLse) return keys.size() > 0 ? column : kNoToken;
  const index_t position = keys.begin + part;
  return position < keys.end ? static_cast<int>(token_at(k, position)) : kNoToken;
}

/// What decides over the logits of a column.
struct alignas(8) ColumnRule {
  float bias_log2;  // -inf: there is no such column
  int key;          // rows see it from this position on

  [[nodiscard]] __device__ bool hides_from(bool is_causal, int position) const {
    return bias_log2 == -INFINITY || !semantics::is_group_visible(is_causal, key, position);
  }
};

__device__ inline ColumnRule column_rule(const Params& p, const Item& item, int column) {
  const Range keys = column_keys(p, item, column);
  if (keys.size() <= 0) return {-INFINITY, 0};
  index_t weight = keys.size();
  if (p.takes_samples()) {
    const index_t block = column >> p.log2_columns;
    weight = semantics::block_range(block, p.block_kv, item.key_count).size();
  }
  const bool by_last = p.estimator == Importance::kPooledLse;
  return {p.bias_log2[weight], static_cast<int>(by_last ? keys.end - 1 : keys.begin)};
}

/// Tiles, from the first one on, whose columns all have the same bias and are hidden from no row.
__device__ inline int tiles_alike(const Params& p, const Item& item) {
  if (p.is_causal || p.columns_per_block != 1 << p.log2_columns) return 0;
  return item.key_count / p.block_kv / p.blocks_per_tile();
}

}  // namespace psa::cuda::estimation
