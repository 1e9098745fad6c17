// SPDX-License-Identifier: Apache-2.0
#pragma once

// Which tokens an estimator looks at (docs/semantics.md S-9 to S-12).

#include <cstdint>

#include "semantics/blocks.hpp"
#include "semantics/hd.hpp"

namespace psa::semantics {

/// Which side of the attention a sample belongs to; part of the hash input.
enum class Side : std::uint64_t { kQuery = 1, kKey = 2 };

/// Finaliser of splitmix64: a bijection that spreads every input bit over all output bits.
PSA_HD constexpr std::uint64_t mix_bits(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

/// S-9. Random number of item `item` of one head; a pure function of its arguments.
PSA_HD constexpr std::uint64_t sample_hash(std::uint64_t seed, Side side, index_t batch,
                                           index_t head, index_t item) {
  std::uint64_t h = mix_bits(seed ^ (static_cast<std::uint64_t>(side) << 62));
  h = mix_bits(h ^ static_cast<std::uint64_t>(batch));
  h = mix_bits(h ^ static_cast<std::uint64_t>(head));
  return mix_bits(h ^ static_cast<std::uint64_t>(item));
}

/// S-9. Whether offset `offset` of every block of this head is among its `samples` sampled ones:
/// the `samples` offsets of smallest hash, ties to the lower offset. O(block_size); call it once
/// per head and offset, not per block.
PSA_HD constexpr bool is_sampled(std::uint64_t seed, Side side, index_t batch, index_t head,
                                 index_t offset, index_t block_size, index_t samples) {
  const std::uint64_t own = sample_hash(seed, side, batch, head, offset);
  index_t before = 0;
  for (index_t other = 0; other < block_size; ++other) {
    const std::uint64_t hash = sample_hash(seed, side, batch, head, other);
    if (hash < own || (hash == own && other < offset)) ++before;
  }
  return before < samples;
}

/// S-9. Position of a sample in a block of `tokens` >= 1 real tokens: offsets behind a ragged tail
/// wrap, so that every block has the same number of samples.
PSA_HD constexpr index_t sample_position(Range block, index_t offset) {
  return block.begin + offset % block.size();
}

/// S-11. Token of q (key == false) that pairs with token u of a key group: antidiagonal.
PSA_HD constexpr index_t antidiagonal_query_offset(index_t u, index_t stride) {
  return stride - 1 - u;
}

/// S-11, S-12. Whether a group of keys counts for a group of queries under the causal rule: its
/// `key` token must not lie behind the last query of the group.
PSA_HD constexpr bool is_group_visible(bool causal, index_t key, index_t last_query_position) {
  return !causal || key <= last_query_position;
}

/// S-11. How many of `groups` groups of keys, which begin at multiples of `stride`, are visible so:
/// the first ones.
template <typename Int>
PSA_HD constexpr Int visible_groups(bool causal, Int groups, Int stride, Int last_query_position) {
  if (!causal) return groups;
  if (last_query_position < 0) return 0;
  const Int begun = last_query_position / stride + 1;
  return begun < groups ? begun : groups;
}

/// S-12. How many of the sub-blocks of `tokens` of the first `keys` keys are visible, from their
/// last position on: the first ones.
template <typename Int>
PSA_HD constexpr Int visible_sub_blocks(bool causal, Int keys, Int tokens,
                                        Int last_query_position) {
  if (!causal || last_query_position >= keys - 1) return (keys + tokens - 1) / tokens;
  return last_query_position < 0 ? 0 : (last_query_position + 1) / tokens;
}

}  // namespace psa::semantics
