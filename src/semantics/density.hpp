// SPDX-License-Identifier: Apache-2.0
#pragma once

// The quota budget that a density is spent as (docs/semantics.md S-24). Computed on the host, when
// a plan or a configuration is made; stages get the result.

#include <array>
#include <cmath>
#include <cstddef>

#include "semantics/pooling.hpp"

namespace psa::semantics {

/// S-14. Cumulative shares of the blocks for levels 1..5.
using Budget = std::array<float, kCoarsestLevel>;

/// S-24. What a budget's density depends on, beside its shares.
struct SplitRule {
  int num_levels;    ///< 1..5; coarser levels repeat the last share
  index_t block_kv;  ///< tokens
  bool reads_means;  ///< of the blocks beyond the last level
};

/// S-24. Cumulative shares of the blocks at levels 1, 2, 4, 8 per unit of density: the split that
/// docs/selection.md measures as best of those tried. Level 16 gets no block.
inline constexpr std::array<double, 4> kDefaultSplit{0.55, 0.85, 1.25, 2.85};

/// S-24. A density must lie above this: what is read with a budget of zeros.
[[nodiscard]] inline double least_density(const SplitRule& rule) {
  return rule.reads_means ? 1.0 / static_cast<double>(rule.block_kv) : 0.0;
}

/// S-24. The share of the columns that a budget reads, but for rounding and forced blocks.
[[nodiscard]] inline double budget_density(const Budget& budget, const SplitRule& rule) {
  double density = 0;
  double previous = 0;
  for (int level = kFinestLevel; level <= rule.num_levels; ++level) {
    const auto share = static_cast<double>(budget.at(static_cast<std::size_t>(level - 1)));
    density += (share - previous) / static_cast<double>(pool_factor(level, rule.block_kv));
    previous = share;
  }
  return density + (1.0 - previous) * least_density(rule);
}

/// S-24. The default split times `unit`.
[[nodiscard]] inline Budget split_budget(double unit, int num_levels) {
  Budget budget{};
  for (int level = kFinestLevel; level <= kCoarsestLevel; ++level) {
    const index_t last = min_of(num_levels, static_cast<index_t>(kDefaultSplit.size()));
    const double share = kDefaultSplit.at(static_cast<std::size_t>(min_of(level, last) - 1)) * unit;
    budget.at(static_cast<std::size_t>(level - 1)) = share < 1.0 ? static_cast<float>(share) : 1.0F;
  }
  return budget;
}

/// S-24. The budget in the default split that reads a density of least_density(rule) < density
/// <= 1.
[[nodiscard]] inline Budget budget_of_density(double density, const SplitRule& rule) {
  double low = 0.0;
  double high = 1.0 / kDefaultSplit[0];  // everything at level 1
  for (int step = 0; step < 60; ++step) {
    const double middle = (low + high) / 2;
    (budget_density(split_budget(middle, rule.num_levels), rule) < density ? low : high) = middle;
  }
  Budget budget = split_budget(high, rule.num_levels);
  for (float& share : budget) {  // five digits, so that configurations stay readable
    share = static_cast<float>(std::round(static_cast<double>(share) * 1e5) / 1e5);
  }
  return budget;
}

}  // namespace psa::semantics
