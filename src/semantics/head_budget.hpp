// SPDX-License-Identifier: Apache-2.0
#pragma once

// Levels of a head whose query blocks share one budget (docs/semantics.md S-28). A pair is a query
// block and a KV block that it sees. Pairs are ranked by classes of their importance, so that cuts
// come from a histogram: all is integers or single IEEE operations, the same on every backend.

#include <cstdint>

#include "semantics/hd.hpp"
#include "semantics/levels.hpp"
#include "semantics/pooling.hpp"

namespace psa::semantics {

/// Higher classes rank earlier. A class is what a float that is not negative has in sign, exponent
/// and the first four bits of its fraction.
inline constexpr int kRankClasses = 4096;
inline constexpr int kForcedClass = kRankClasses - 1;  ///< of pairs that level 1 must have
inline constexpr int kClassShift = 19;                 ///< bits of a float below its class
inline constexpr int kLargestClass = 0x7F7FFFFF >> kClassShift;  ///< of an importance

/// S-28. Class of a pair by its (weighed) importance; without information 0.
PSA_HD inline int rank_class(float importance) {
  if (!(importance > 0.0F)) return 0;
  const float bounded = importance < kLargestFloat ? importance : kLargestFloat;
  return static_cast<int>(__builtin_bit_cast(std::uint32_t, bounded) >> kClassShift);
}

/// S-28. Order of the pairs of a class: those with less come first.
PSA_HD constexpr std::uint32_t pair_fraction(index_t q_block, index_t kv_block,
                                             index_t num_kv_blocks) {
  return golden_bits(static_cast<std::uint32_t>(q_block * num_kv_blocks + kv_block));
}

/// The pairs of all classes above `partial`, and those of this class whose fraction is below
/// `end`.
struct ClassCut {
  std::int32_t partial = kRankClasses;  ///< of no pair; -1: all pairs are above it
  std::uint32_t end = 0;

  [[nodiscard]] PSA_HD constexpr bool covers(int rank_class, std::uint32_t fraction) const {
    return rank_class > partial || (rank_class == partial && fraction < end);
  }
};

/// What decides the level of each pair of a head.
struct HeadCuts {
  ClassCut level[kCoarsestLevel];
  std::int32_t least_mean;  ///< class from which on a block without a level is read as its mean
};

struct HeadRule {
  int num_levels;
  int block_kv;
  bool reads_means;
  float rest_cutoff;
};

/// S-28. Class from which on means are read if `last` is the last class that has a level.
PSA_HD inline int least_class_of_means(int last, const HeadRule& rule) {
  const auto bits = static_cast<std::uint32_t>(last < kLargestClass ? last : kLargestClass)
                    << kClassShift;
  const float least =
      __builtin_bit_cast(float, bits) * (rule.rest_cutoff / static_cast<float>(rule.block_kv));
  constexpr std::uint32_t kBelow = (1U << kClassShift) - 1;
  return static_cast<int>((__builtin_bit_cast(std::uint32_t, least) + kBelow) >> kClassShift);
}

/// The pairs of a head by their class.
struct ClassCounts {
  const std::uint32_t* from;  ///< [kRankClasses + 1]: pairs of this class and of all above

  [[nodiscard]] PSA_HD index_t pairs() const { return from[0]; }
  [[nodiscard]] PSA_HD index_t forced() const { return from[kForcedClass]; }

  /// The least class for which is_enough(class) holds, which does for all above it. No importance
  /// has a class above kLargestClass, so that kLargestClass + 1 stands for the forced pairs alone.
  template <typename IsEnough>
  [[nodiscard]] PSA_HD static int least_class(const IsEnough& is_enough) {
    int low = 0;
    int high = kLargestClass + 1;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (is_enough(middle)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  /// The cut with about `count` pairs, at least the forced ones.
  [[nodiscard]] PSA_HD ClassCut cut_of(index_t count) const {
    const int whole = least_class([&](int c) { return from[c] <= count; });
    if (whole == 0) return {-1, 0};
    const auto rest = static_cast<std::uint64_t>(count - from[whole]);
    const std::uint64_t pairs = from[whole - 1] - from[whole];  // more than `rest`
    return {whole - 1, static_cast<std::uint32_t>((rest << 32) / pairs)};
  }

  /// S-28. How many pairs have a level, where `last` have one before means are skipped, and from
  /// which class on means are read.
  [[nodiscard]] PSA_HD index_t cut_off(index_t last, const HeadRule& rule,
                                       std::int32_t& least_mean) const {
    const index_t columns = rule.block_kv * last + (pairs() - last);
    const auto columns_of = [&](int c) {
      return index_t{rule.block_kv - 1} * from[c] + from[least_class_of_means(c, rule)];
    };
    const int whole = least_class([&](int c) { return columns_of(c) <= columns; });
    least_mean = least_class_of_means(whole, rule);
    if (whole == 0) return pairs();
    const index_t more = (columns - columns_of(whole)) / (rule.block_kv - 1);
    return max_of(last, min_of(index_t{from[whole]} + more, index_t{from[whole - 1]}));
  }
};

/// S-28. `budget`: shares of levels 1..num_levels.
PSA_HD inline HeadCuts head_cuts(const ClassCounts& counts, const float* budget,
                                 const HeadRule& rule) {
  const auto quota = [&](int level) {
    const double blocks = static_cast<double>(counts.pairs()) * static_cast<double>(budget[level]);
    return max_of(static_cast<index_t>(blocks), counts.forced());
  };
  HeadCuts cuts{};
  cuts.least_mean = rule.reads_means ? 0 : kRankClasses;
  index_t freed = 0;
  if (rule.reads_means && rule.rest_cutoff > 0.0F) {
    const index_t last = quota(rule.num_levels - 1);
    freed = counts.cut_off(last, rule, cuts.least_mean) - last;
  }
  for (int l = 0; l < rule.num_levels; ++l) {
    cuts.level[l] = counts.cut_of(min_of(quota(l) + freed, counts.pairs()));
  }
  return cuts;
}

/// S-28. Code of a pair, before the similarity cap.
PSA_HD inline int code_of_pair(const HeadCuts& cuts, int rank_class, std::uint32_t fraction) {
  int code = rank_class >= cuts.least_mean ? kBlockMeanCode : kSkipCode;
  for (int level = kCoarsestLevel; level >= kFinestLevel; --level) {
    if (cuts.level[level - 1].covers(rank_class, fraction)) code = level;
  }
  return code;
}

}  // namespace psa::semantics
