// SPDX-License-Identifier: Apache-2.0
#pragma once

// From the importance of a row's blocks to their levels (docs/semantics.md S-13 to S-18).
// Everything is exact: integers, single IEEE operations and comparisons, so that each backend gives
// the same level map for the same importance whatever order or algorithm it uses.

#include <cmath>
#include <cstdint>
#include <limits>

#include "semantics/blocks.hpp"
#include "semantics/hd.hpp"
#include "semantics/pooling.hpp"

namespace psa::semantics {

/// S-18. What can force a block to level 1.
struct ForcedRule {
  Range text_q;   ///< positions of text queries that read everything; empty: none
  Range text_kv;  ///< positions of text keys that are read in full; empty: none
  index_t sink_blocks;
  bool own_blocks = false;  ///< S-22(d): blocks with a position of the queries; needs Lq = Lk
};

/// S-18. Whether a block that is not hidden must be read at level 1.
PSA_HD constexpr bool is_forced(const ForcedRule& rule, Range queries, Range keys, index_t kv_block,
                                Visibility visibility) {
  return visibility == Visibility::kStraddling || kv_block < rule.sink_blocks ||
         overlaps(queries, rule.text_q) || overlaps(keys, rule.text_kv) ||
         (rule.own_blocks && overlaps(queries, keys));
}

inline constexpr float kLargestFloat = 3.402823466e+38F;

/// S-13. Importance as it is ranked: NaN counts as minus infinity.
PSA_HD inline float ranked_importance(float importance) {
  return importance == importance ? importance : -std::numeric_limits<float>::infinity();
}

/// S-28. Importance counts times this where query blocks share a budget and the rest is linear:
/// `value_weight` of a KV block and the mean squared distance of its keys from their mean.
PSA_HD inline float error_weight(float value_weight, float key_spread) {
  const float weight = value_weight * key_spread;
  return weight <= kLargestFloat ? weight : kLargestFloat;
}

/// S-27. Weight of a KV block whose values lie this far, squared, from the average on average; what
/// is not finite becomes the largest weight.
PSA_HD inline float value_weight(float mean_square) {
  const float weight = std::sqrt(mean_square);
  return weight <= kLargestFloat ? weight : kLargestFloat;
}

/// S-27. What stands for the importance of a block where it is ranked.
PSA_HD inline float weighed_importance(float importance, float weight) {
  return importance * weight;
}

/// A block of one row with what its rank depends on.
struct RankKey {
  bool forced;       ///< must be read at level 1 (S-18)
  float importance;  ///< ranked_importance
  index_t kv_block;
};

/// S-13. Whether `a` comes before `b`: forced blocks first, then by falling importance, ties (and
/// forced blocks among themselves) to the lower index. A total order.
PSA_HD inline bool ranks_before(const RankKey& a, const RankKey& b) {
  if (a.forced != b.forced) return a.forced;
  if (!a.forced && a.importance != b.importance) return a.importance > b.importance;
  return a.kv_block < b.kv_block;
}

/// S-14. Candidates of the query blocks of a batch element. In causal calls they grow by about the
/// same number from one query block to the next, in all others `first` = `last`.
struct CandidateSpan {
  index_t first;  ///< of the first query block that has candidates
  index_t last;   ///< of the last query block: all KV blocks
};

/// S-14. `len_kv`: valid keys of the batch element.
PSA_HD constexpr CandidateSpan candidate_span(bool causal, index_t block_q, index_t block_kv,
                                              index_t len_q, index_t len_kv) {
  const index_t last = ceil_div(len_kv, block_kv);
  if (!causal) return {last, last};
  const index_t first_row = max_of(0, len_q - len_kv);  // of those that see a key
  const Range queries = block_range(first_row / block_q, block_q, len_q);
  return {visible_blocks(causal, queries, block_kv, len_q, len_kv), last};
}

/// Fractions of multiples of the golden ratio, times 2^32: they spread evenly over any run of n.
PSA_HD constexpr std::uint32_t golden_bits(std::uint32_t n) { return n * 0x9E3779B9U; }

/// S-14, S-26. What is added to a count of a query block before it is rounded down.
PSA_HD constexpr double golden_fraction(index_t q_block) {
  return static_cast<double>(golden_bits(static_cast<std::uint32_t>(q_block)) + 0x80000000U) *
         0x1p-32;
}

/// S-14. One half for all would move the density of a causal call, whose rows have one count.
PSA_HD constexpr double rounding_offset(CandidateSpan rows, index_t q_block) {
  return rows.first == rows.last ? 0.5 : golden_fraction(q_block);
}

/// S-14. The count of blocks, equal for all query blocks that have as many candidates, that a
/// cumulative share of the candidates comes to. Every product that something is added to is exact
/// (two block counts sum to less than 2^28, a share has 24 bits), so that a fused multiply-add does
/// not change a bit.
PSA_HD inline double exact_equal_count(CandidateSpan rows, float share) {
  const auto upto = static_cast<double>(share);
  const double count = 0.5 * (upto * static_cast<double>(rows.first + rows.last));
  if (!(count > static_cast<double>(rows.first))) return count;
  // The first query blocks have fewer.
  const auto squares = static_cast<double>(rows.last * rows.last - rows.first * rows.first);
  return static_cast<double>(rows.last) - std::sqrt((1.0 - upto) * squares);
}

/// The same, rounded for a query block.
PSA_HD inline index_t equal_count(CandidateSpan rows, index_t q_block, float share) {
  return static_cast<index_t>(
      std::floor(exact_equal_count(rows, share) + rounding_offset(rows, q_block)));
}

/// S-14. Number of blocks of a query block, of its `count` candidates, that a share covers, `equal`
/// being the equal_count of the share.
PSA_HD constexpr index_t quota_cut(index_t count, index_t equal) { return min_of(count, equal); }

PSA_HD inline index_t quota_cut(index_t count, CandidateSpan rows, index_t q_block, float share) {
  return quota_cut(count, equal_count(rows, q_block, share));
}

/// S-15. Importance as an integer in 0..2^24, relative to the largest of the row, so that sums do
/// not depend on their order. `largest` <= 0 (no information): every block weighs 1.
PSA_HD inline std::uint64_t threshold_mass(float importance, float largest) {
  if (!(largest > 0.0F)) return 1;
  if (!(importance > 0.0F)) return 0;
  const float bounded = importance < kLargestFloat ? importance : kLargestFloat;
  const float bound = largest < kLargestFloat ? largest : kLargestFloat;
  return static_cast<std::uint64_t>(bounded / bound * 16777216.0F);
}

/// S-15. Whether the blocks ranked so far, of mass `mass`, already hold the share.
PSA_HD inline bool threshold_reached(std::uint64_t mass, std::uint64_t total, float share) {
  return static_cast<double>(mass) >= static_cast<double>(share) * static_cast<double>(total);
}

/// S-14, S-18. Blocks read at level 1, given the rule's cut, the number of forced blocks and the
/// configured minimum.
PSA_HD constexpr index_t full_cut(index_t cut, index_t forced, index_t min_full, index_t count) {
  return min_of(count, max_of(cut, max_of(forced, min_full)));
}

/// S-26. The least importance, not weighed, with which a block is read as its mean. `least`: that
/// of the blocks which the rule gives a level and which are not forced or, if there are none, the
/// largest of those that are not forced. Without information every mean is read.
PSA_HD inline float least_of_means(float least, float cutoff, index_t block_kv) {
  if (!(cutoff > 0.0F && least > 0.0F)) return -std::numeric_limits<float>::infinity();
  return least * (cutoff / static_cast<float>(block_kv));
}

/// S-26. Blocks that a row of `count` candidates reads at level 1 for what the means of those
/// which are not among the `kept` that are read at all would have cost. `last_cut`: candidates that
/// the rule gives a level, of which `share` is the budget.
PSA_HD inline index_t freed_blocks(index_t count, index_t kept, index_t last_cut,
                                   CandidateSpan rows, float share, index_t block_kv,
                                   index_t q_block) {
  if (kept >= count || last_cut >= count) return 0;
  // A block that is read in full needs no mean, which leaves block_kv - 1 columns to pay; when no
  // mean is left, what all of them would have cost has been spent.
  const auto own = static_cast<double>(count - kept) / static_cast<double>(block_kv - 1);
  const auto most = static_cast<double>(count - last_cut) / static_cast<double>(block_kv);
  const double blocks = own < most ? own : most;
  if (rows.first == rows.last) {
    return static_cast<index_t>(std::floor(blocks + golden_fraction(q_block)));
  }
  // Means cost late rows more, but these blocks, too, are of equal counts. No product here, which a
  // fused multiply-add might round otherwise.
  const float with_means = share + (1.0F - share) / static_cast<float>(block_kv);
  const double before = exact_equal_count(rows, share);
  const double gain = (exact_equal_count(rows, with_means) - before) / (most / blocks);
  const auto cut = static_cast<index_t>(std::floor(before + gain + golden_fraction(q_block)));
  return max_of(index_t{0}, cut - last_cut);
}

/// S-16. Level of a block after the similarity cap: never coarser than `cap`; skip and block mean
/// are not chosen by the rule and stay.
PSA_HD constexpr int capped_level(int code, int cap) {
  return code >= kFinestLevel && code <= kCoarsestLevel && code > cap ? cap : code;
}

/// S-16. Coarsest level whose group similarity exceeds its threshold; the tests are independent.
/// `similarity[l-2]`, `min_cosine[l-2]` for l = 2..num_levels.
PSA_HD inline int similarity_cap(const float* similarity, const float* min_cosine, int num_levels) {
  int cap = kFinestLevel;
  for (int level = 2; level <= num_levels; ++level) {
    if (similarity[level - 2] > min_cosine[level - 2]) cap = level;
  }
  return cap;
}

}  // namespace psa::semantics
