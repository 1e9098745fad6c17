// SPDX-License-Identifier: Apache-2.0
#include "density_match.hpp"

#include <algorithm>
#include <cstddef>

namespace psa::cli {

Config with_scaled_budget(const Config& config, double factor) {
  Config scaled = config;
  for (float& share : scaled.budget) {
    share = static_cast<float>(std::min(1.0, static_cast<double>(share) * factor));
  }
  return scaled;
}

DensityMatcher::DensityMatcher(const Problem& problem, const AttentionIo& io,
                               const PlanOptions& options)
    : problem_(problem), io_(io), options_(options) {
  // The budget does not matter here, but a plan that reads everything at level 1 has no importance.
  const Config config = with_scaled_budget(problem.config, 0);
  const Plan plan = Plan::create(problem.shape, problem.layout, config, {}, options);
  importance_.resize(static_cast<std::size_t>(plan.level_map_size()));
  Workspace workspace(plan.workspace_bytes());
  stages::estimate_importance(plan, io, importance_, workspace.bytes());
}

double DensityMatcher::density_of(const Config& config) const {
  const Plan plan = Plan::create(problem_.shape, problem_.layout, config, {}, options_);
  Workspace workspace(plan.workspace_bytes());
  std::vector<LevelCode> codes(importance_.size());
  const LevelMapView levels = plan.level_map(codes);
  stages::assign_levels(plan, io_, importance_, levels, workspace.bytes());
  return stages::measure_levels(plan, levels, io_.kv_lengths).density;
}

Config DensityMatcher::match(const Config& config, double density) const {
  // Twenty halvings place a cut exactly in rows of up to a million blocks.
  constexpr int kHalvings = 20;
  const auto first_share = static_cast<double>(config.budget[0]);
  double low = 0;
  double high = first_share > 0 ? 1 / first_share : 1;  // all blocks at level 1
  if (density_of(with_scaled_budget(config, low)) >= density) {
    return with_scaled_budget(config, low);
  }
  for (int i = 0; i < kHalvings; ++i) {
    const double middle = (low + high) / 2;
    if (density_of(with_scaled_budget(config, middle)) >= density) {
      high = middle;
    } else {
      low = middle;
    }
  }
  return with_scaled_budget(config, high);
}

}  // namespace psa::cli
