// SPDX-License-Identifier: Apache-2.0
#pragma once

// Level rules of the published code, for `compat = official` (docs/semantics.md S-22). Blocks are
// in rank order (S-13 without forced blocks); `cut` and `last` count ranked blocks.

#include <cmath>
#include <cstdint>

#include "semantics/blocks.hpp"
#include "semantics/hd.hpp"

namespace psa::semantics {

/// The published kernels read 128-token blocks in compute tiles of 32 keys, and their mask builder
/// rounds the number of blocks of a level to whole tiles: two blocks at pool factor 8.
PSA_HD constexpr index_t official_alignment(index_t factor) { return factor == 8 ? 2 : 1; }

/// End of a level's run that starts at `last`, given the unaligned end `cut`: rounded up to whole
/// tiles; at the end of the row down, which can leave a block to the next level.
PSA_HD constexpr index_t official_aligned_end(index_t last, index_t cut, index_t factor,
                                              index_t count) {
  const index_t a = official_alignment(factor);
  if (a == 1 || cut <= last) return max_of(cut, last);
  const index_t end = min_of(last + ceil_div(cut - last, a) * a, count);
  return end == count ? last + (count - last) / a * a : end;
}

/// `topk`: truncated product. Shares are decimal fractions there and floats here: rounded to six
/// digits first, so that 20 blocks at .35 are 7.
PSA_HD inline index_t official_quota_cut(index_t count, double share) {
  const double decimal = std::round(share * 1e6) / 1e6;
  return min_of(count, static_cast<index_t>(static_cast<double>(count) * decimal));
}

/// `thresholdbound`: `within` blocks have a cumulative share <= upto + 1e-6; the crossing block is
/// included unless the very first block already exceeds the share.
PSA_HD constexpr bool official_is_within(double cumulative_share, double upto) {
  return cumulative_share <= upto + 1e-6;
}
PSA_HD constexpr index_t official_threshold_cut(index_t within, index_t last, index_t count) {
  return within > 0 ? min_of(within + 1, count) : last;
}

/// `thresholdbound` reads at least 6 % of the blocks, and one more, at level 1.
PSA_HD inline index_t official_min_full(index_t count) {
  return min_of(count, static_cast<index_t>(static_cast<double>(count) * 0.06) + 1);
}

/// Positions of the forced text blocks: the last ones, whatever side the text is on.
PSA_HD constexpr Range official_text_positions(index_t text, index_t block_size, index_t len) {
  const index_t first = ceil_div(len, block_size) - ceil_div(text, block_size);
  return {min_of(max_of(first, 0) * block_size, len), len};
}

/// Causal `topk`: single-precision floor over the blocks up to the diagonal, no alignment.
PSA_HD inline index_t official_causal_quota_cut(index_t visible, float share) {
  return static_cast<index_t>(std::floor(static_cast<float>(visible) * share));
}

/// Causal `energybound`: a block has level l if its cumulative share lies in (lower, upper]; the
/// crossing block goes to the coarser level.
PSA_HD constexpr bool official_is_in_band(double cumulative_share, double lower, double upper) {
  return lower < cumulative_share && cumulative_share <= upper;
}

}  // namespace psa::semantics
