// SPDX-License-Identifier: Apache-2.0
#pragma once

// The configurations that psa tune tries.

#include <utility>
#include <vector>

#include "call_options.hpp"
#include "problem.hpp"

namespace psa::cli {

/// What may be chosen; the rest of a configuration stays that of the base.
struct SearchSpace {
  std::vector<Reorder> orders;
  std::vector<Importance> estimators;
  std::vector<std::pair<std::int32_t, Rest>> splits;  ///< levels in use, and the rest
  std::vector<std::int32_t> block_kv;
  std::vector<float> rest_cutoffs;  ///< where the rest is read
  std::vector<bool> weigh_values;   ///< the same; elsewhere values are not weighed
  /// Where the rest is linear, values are weighed and calls are not causal; elsewhere kRow.
  std::vector<BudgetScope> budget_scopes;
};

/// Every order that makes sense for the tokens of `base`.
[[nodiscard]] std::vector<Reorder> all_orders(const Problem& base);

/// Everything that makes sense for the tokens of `base`, less what flags have settled.
[[nodiscard]] SearchSpace search_space(const Problem& base, const CallOptions& flags);

/// One way of reading, without a budget yet.
struct Candidate {
  Config config;
  double selection_cost = 0;  ///< as in RunStats
};

/// All combinations that the backend computes, cheapest selection first. Throws what Plan::create
/// throws if it computes none.
[[nodiscard]] std::vector<Candidate> candidates_of(const SearchSpace& space, const Problem& base,
                                                   const PlanOptions& options);

/// "gilbert pooled_lse linear 128x128 1 level, values weighed, shared budget, cutoff 2".
[[nodiscard]] std::string candidate_text(const Config& config);

}  // namespace psa::cli
