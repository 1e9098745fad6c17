// SPDX-License-Identifier: Apache-2.0
#include "density_match.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace psa::cli {

Config with_scaled_budget(const Config& config, double factor) {
  Config scaled = config;
  if (config.head_density.empty()) {
    for (float& share : scaled.budget) {
      share = static_cast<float>(std::min(1.0, static_cast<double>(share) * factor));
    }
    return scaled;
  }
  const float least = reads_means(config.rest) ? 1.0F / static_cast<float>(config.block_kv) : 0.0F;
  for (float& density : scaled.head_density) {
    density = std::clamp(static_cast<float>(static_cast<double>(density) * factor),
                         std::nextafter(least, 1.0F), 1.0F);
  }
  return scaled;
}

DensityMatcher::DensityMatcher(const Problem& problem, const PlacedInputs& inputs,
                               const std::int32_t* kv_lengths, const PlanOptions& options)
    : problem_(problem), inputs_(inputs), kv_lengths_(kv_lengths), options_(options) {
  // The budget does not matter here, but a plan that reads everything at level 1 has no importance.
  Problem estimated = problem;
  estimated.config = with_scaled_budget(problem.config, 0);
  const Plan plan = make_plan(estimated, options);
  host_importance_.resize(static_cast<std::size_t>(plan.level_map_size()));
  importance_.emplace(inputs.device(), std::span(host_importance_));
  PlacedWorkspace workspace(inputs.device());
  stages::estimate_importance(
      plan, inputs.io(), {importance_->data<float>(), host_importance_.size()}, workspace.of(plan));
}

double DensityMatcher::density_of(const Config& config) const {
  Problem problem = problem_;
  problem.config = config;
  const Plan plan = make_plan(problem, options_);
  PlacedWorkspace workspace(inputs_.device());
  std::vector<LevelCode> codes(host_importance_.size());
  const Placed placed(inputs_.device(), std::span(codes));
  stages::assign_levels(
      plan, inputs_.io(), {importance_->data<const float>(), host_importance_.size()},
      plan.level_map({placed.data<LevelCode>(), codes.size()}), workspace.of(plan));
  placed.copy_to_host();
  return stages::measure_levels(plan, plan.level_map(codes), kv_lengths_).density;
}

Config DensityMatcher::match(const Config& config, double density) const {
  // Twenty halvings place a cut exactly in rows of up to a million blocks.
  constexpr int kHalvings = 20;
  const auto least_share = static_cast<double>(
      config.head_density.empty() ? config.budget[0]
                                  : *std::ranges::min_element(config.head_density));
  double low = 0;
  double high = least_share > 0 ? 1 / least_share : 1;  // all blocks at level 1
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
