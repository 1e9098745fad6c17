// SPDX-License-Identifier: Apache-2.0
#include "tuning_candidates.hpp"

#include <algorithm>
#include <optional>
#include <string>

#include "placement.hpp"
#include "psa/error.hpp"
#include "psa/presets.hpp"
#include "psa/stages.hpp"
#include "settings.hpp"

namespace psa::cli {
namespace {

/// Of the most expensive level map that a rule can leave to S-23: block means alone.
double selection_cost_of(const Plan& plan, const Config& config) {
  std::vector<LevelCode> codes(static_cast<std::size_t>(plan.level_map_size()),
                               reads_means(config.rest) ? kBlockMean : LevelCode{1});
  return stages::measure_levels(plan, plan.level_map(codes)).selection_cost;
}

/// Adds `config` with every way to choose the blocks that its rest allows.
void add_selections(const SearchSpace& space, Config config, std::vector<Config>& all) {
  const std::vector<float> no_cutoff{0};
  const std::vector<bool> not_weighed{false};
  const std::vector<BudgetScope> by_row{BudgetScope::kRow};
  const bool has_means = reads_means(config.rest);
  for (const float cutoff : has_means ? space.rest_cutoffs : no_cutoff) {
    config.rest_cutoff = cutoff;
    for (const bool weighs : has_means ? space.weigh_values : not_weighed) {
      config.weigh_values = weighs;
      const bool may_share = weighs && config.rest == Rest::kLinear && !config.causal;
      for (const BudgetScope scope : may_share ? space.budget_scopes : by_row) {
        config.budget_scope = scope;
        all.push_back(config);
      }
    }
  }
}

std::vector<Config> combinations(const SearchSpace& space, const Config& base) {
  std::vector<Config> all;
  for (const Reorder order : space.orders) {
    for (const Importance estimator : space.estimators) {
      for (const auto& [levels, rest] : space.splits) {
        for (const std::int32_t block_kv : space.block_kv) {
          Config config = base;
          config.reorder = order;
          config.importance = estimator;
          config.rest = rest;
          config.block_kv = block_kv;
          config.rule = LevelRule::kQuota;
          config.num_levels = levels;
          config.budget.fill(0);  // not dense, so that the estimator counts
          config.head_density.clear();
          config.compat = Compat::kNone;  // which has neither means nor densities by head
          add_selections(space, config, all);
        }
      }
    }
  }
  return all;
}

}  // namespace

std::vector<Reorder> all_orders(const Problem& base) {
  if (base.layout.grid.tokens() == 0 || base.config.causal) return {Reorder::kNone};
  return {Reorder::kNone, Reorder::kGilbert, Reorder::kTile3d};
}

SearchSpace search_space(const Problem& base, const CallOptions& flags) {
  const Config& config = base.config;
  const float usual_cutoff = find_preset("balanced").config.rest_cutoff;
  SearchSpace space{all_orders(base),
                    {Importance::kPooledLse, Importance::kSampledMass, Importance::kSampledMax},
                    {{1, Rest::kLinear},
                     {4, Rest::kLinear},
                     {4, Rest::kMean},
                     {1, Rest::kMean},
                     {4, Rest::kSkip},
                     {1, Rest::kSkip}},
                    {128, 64},
                    {0, usual_cutoff},
                    {false, true},
                    {BudgetScope::kRow, BudgetScope::kHead}};
  if (config.causal) {
    space.estimators.push_back(Importance::kAntidiagonal);
    space.rest_cutoffs.push_back(2 * usual_cutoff);
  }
  if (flags.has_flag("order")) space.orders = {config.reorder};
  if (flags.has_flag("importance")) space.estimators = {config.importance};
  if (flags.has_flag("block")) space.block_kv = {config.block_kv};
  if (flags.has_flag("rest_cutoff") || config.rest_cutoff > 0.0F) {
    space.rest_cutoffs = {config.rest_cutoff};
  }
  if (flags.has_flag("weigh_values") || config.weigh_values) {
    space.weigh_values = {config.weigh_values};
  }
  if (flags.has_flag("budget_scope") || config.budget_scope != BudgetScope::kRow) {
    space.budget_scopes = {config.budget_scope};
  }
  const auto erase_splits = [&space](const auto& is_other) {
    space.splits.erase(std::remove_if(space.splits.begin(), space.splits.end(), is_other),
                       space.splits.end());
  };
  if (flags.has_flag("levels")) {
    for (auto& [levels, rest] : space.splits) levels = config.num_levels;
    std::sort(space.splits.begin(), space.splits.end());
    space.splits.erase(std::unique(space.splits.begin(), space.splits.end()), space.splits.end());
  }
  if (flags.has_flag("rest")) {
    erase_splits([&](const auto& split) { return split.second != config.rest; });
  }
  return space;
}

std::vector<Candidate> candidates_of(const SearchSpace& space, const Problem& base,
                                     const PlanOptions& options) {
  std::vector<Candidate> candidates;
  std::optional<Error> refusal;
  for (const Config& config : combinations(space, base.config)) {
    Problem problem = base;
    problem.config = config;
    try {
      const Plan plan = make_plan(problem, options);
      candidates.push_back({config, selection_cost_of(plan, config)});
    } catch (const Error& error) {
      const bool is_refused =
          error.status() == Status::kUnsupported || error.status() == Status::kInvalidArgument;
      if (!is_refused) throw;
      refusal = error;
    }
  }
  if (candidates.empty()) throw Error(refusal->status(), refusal->what());
  std::stable_sort(
      candidates.begin(), candidates.end(),
      [](const Candidate& a, const Candidate& b) { return a.selection_cost < b.selection_cost; });
  return candidates;
}

std::string candidate_text(const Config& config) {
  // The canonical words of what differs from a configuration in which every choice is unusual.
  Problem given;
  given.config = config;
  Problem other;
  other.config.rest = config.rest == Rest::kSkip ? Rest::kMean : Rest::kSkip;
  other.config.reorder = config.reorder == Reorder::kNone ? Reorder::kGilbert : Reorder::kNone;
  other.config.importance = config.importance == Importance::kPooledLse ? Importance::kSampledMax
                                                                        : Importance::kPooledLse;
  other.config.block_kv = config.block_kv == 128 ? 64 : 128;
  std::string text;
  for (const char* name : {"order", "importance", "rest", "block"}) {
    text += *find_setting(name)->format(given, other) + " ";
  }
  text += std::to_string(config.num_levels) + (config.num_levels == 1 ? " level" : " levels");
  if (config.weigh_values) text += ", values weighed";
  if (config.budget_scope == BudgetScope::kHead) text += ", shared budget";
  if (const auto cutoff = find_setting("rest_cutoff")->format(given, Problem{})) {
    text += ", cutoff " + *cutoff;
  }
  return text;
}

}  // namespace psa::cli
