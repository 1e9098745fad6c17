// SPDX-License-Identifier: Apache-2.0
#pragma once

// Blocks, ragged tails and causal visibility (docs/semantics.md S-1, S-2, S-8).
// A position is an index in the working order, i.e. after the reorder stage.

#include <cstdint>

#include "semantics/hd.hpp"

namespace psa::semantics {

using index_t = std::int64_t;

/// Half-open range of positions.
struct Range {
  index_t begin;
  index_t end;
  [[nodiscard]] PSA_HD constexpr index_t size() const { return end - begin; }
};

PSA_HD constexpr index_t ceil_div(index_t a, index_t b) { return (a + b - 1) / b; }
PSA_HD constexpr index_t min_of(index_t a, index_t b) { return a < b ? a : b; }
PSA_HD constexpr index_t max_of(index_t a, index_t b) { return a > b ? a : b; }

/// S-2. Allowed values of block_q and block_kv.
PSA_HD constexpr bool is_block_size(index_t size) {
  return size == 16 || size == 32 || size == 64 || size == 128;
}

/// S-2. Real tokens of block `block`; empty when the block lies behind `len`.
PSA_HD constexpr Range block_range(index_t block, index_t block_size, index_t len) {
  const index_t begin = min_of(block * block_size, len);
  return {begin, min_of(begin + block_size, len)};
}

/// S-18, S-19. Positions of the text tokens. Only an identity order keeps text at the front.
PSA_HD constexpr Range text_positions(index_t text, bool at_front, index_t len) {
  return at_front ? Range{0, text} : Range{len - text, len};
}

/// An empty range overlaps nothing.
PSA_HD constexpr bool overlaps(Range a, Range b) {
  return max_of(a.begin, b.begin) < min_of(a.end, b.end);
}

/// S-8. Position of query row `row` on the axis of the keys: queries are aligned to the end of the
/// `len_kv` valid keys.
PSA_HD constexpr index_t causal_position(index_t row, index_t len_q, index_t len_kv) {
  return row + (len_kv - len_q);
}

/// S-8. A (pooled) key is visible to a query only if the last token that it stands for is.
PSA_HD constexpr bool is_visible(bool causal, index_t last_token, index_t query_position) {
  return !causal || last_token <= query_position;
}

/// How a KV block lies to the causal diagonal of a query block.
enum class Visibility : std::uint8_t { kHidden, kStraddling, kFull };

/// S-8. `queries` are rows of q, `keys` positions of real tokens. An empty block is hidden.
PSA_HD constexpr Visibility block_visibility(bool causal, Range queries, Range keys, index_t len_q,
                                             index_t len_kv) {
  if (keys.size() <= 0 || queries.size() <= 0) return Visibility::kHidden;
  if (!causal) return Visibility::kFull;
  const index_t first = causal_position(queries.begin, len_q, len_kv);
  const index_t last = causal_position(queries.end - 1, len_q, len_kv);
  if (keys.begin > last) return Visibility::kHidden;
  return keys.end - 1 <= first ? Visibility::kFull : Visibility::kStraddling;
}

/// S-8. Leading KV blocks of which a query block may see something: the others are hidden.
PSA_HD constexpr index_t visible_blocks(bool causal, Range queries, index_t block_kv, index_t len_q,
                                        index_t len_kv) {
  if (queries.size() <= 0) return 0;
  const index_t last = causal_position(queries.end - 1, len_q, len_kv);
  const index_t seen = causal ? max_of(0, min_of(last + 1, len_kv)) : len_kv;
  return ceil_div(seen, block_kv);
}

}  // namespace psa::semantics
