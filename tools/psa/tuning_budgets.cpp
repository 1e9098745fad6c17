// SPDX-License-Identifier: Apache-2.0
#include "tuning_budgets.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "psa/error.hpp"
#include "psa/presets.hpp"

namespace psa::cli {
namespace {

/// With the digits that the configuration file gives it.
double readable(double density) {
  constexpr double kDigits = 1e4;
  return std::round(density * kDigits) / kDigits;
}

/// The curve of each head, layer by layer; dense attention, without an error, is its end.
std::vector<LayerCurves> curves_of(const Ladder& ladder) {
  std::vector<LayerCurves> all;
  for (const auto& [layer, rungs] : ladder.squared) {
    LayerCurves curves{layer, std::vector<engine::ErrorCurve>(rungs.front().size())};
    for (std::size_t h = 0; h < curves.heads.size(); ++h) {
      for (std::size_t i = 0; i < rungs.size(); ++i) {
        curves.heads[h].push_back({ladder.measured[i].value(), rungs[i][h].value()});
      }
      curves.heads[h].push_back({1, 0});
    }
    all.push_back(std::move(curves));
  }
  return all;
}

/// The density to ask for in order to get `density`.
double wanted_for(const Ladder& ladder, double density) {
  const std::vector<Mean>& measured = ladder.measured;
  const std::vector<double>& wanted = ladder.wanted;
  double from = measured.front().value();
  double wanted_from = wanted.front();
  for (std::size_t i = 1; i <= measured.size(); ++i) {
    const double to = i < measured.size() ? measured[i].value() : 1;
    const double wanted_to = i < wanted.size() ? wanted[i] : 1;
    if (density <= to && to > from) {
      const double part = std::max(0.0, (density - from) / (to - from));
      return wanted_from + part * (wanted_to - wanted_from);
    }
    from = to;
    wanted_from = wanted_to;
  }
  return 1;
}

/// The mean of curves over the same densities.
engine::ErrorCurve mean_curve(std::span<const engine::ErrorCurve> curves) {
  engine::ErrorCurve mean = curves.front();
  for (std::size_t i = 0; i < mean.size(); ++i) {
    Mean squared;
    for (const engine::ErrorCurve& curve : curves) squared.add(curve[i].squared_error);
    mean[i].squared_error = squared.value();
  }
  return mean;
}

/// Query heads that must have one density: those of a level map.
std::size_t heads_of_map(const Problem& problem) {
  const ProblemShape& shape = problem.shape;
  return problem.config.share_group_map ? static_cast<std::size_t>(shape.heads_q / shape.heads_kv)
                                        : 1;
}

/// What a finalist comes to.
struct Solution {
  const Ladder* ladder;
  std::vector<LayerCurves> curves;
  engine::Allocation allocation;  ///< of each level map of each layer
};

/// Allocates by the curves of a finalist, of which heads with one level map have one together.
template <typename Allocate>
Solution solve(const Ladder& ladder, std::size_t together, const Allocate& allocate) {
  Solution solution{&ladder, curves_of(ladder), {}};
  std::vector<engine::ErrorCurve> units;
  for (const LayerCurves& layer : solution.curves) {
    const std::span<const engine::ErrorCurve> heads(layer.heads);
    for (std::size_t h = 0; h < heads.size(); h += together) {
      units.push_back(mean_curve(heads.subspan(h, together)));
    }
  }
  solution.allocation = allocate(units);
  return solution;
}

/// Of the finalists that can meet the target (a few blocks are read whatever the budget is), the
/// one that costs least.
template <typename Allocate, typename Cost>
Solution best_solution(const TuningSearch& search, const Allocate& allocate, const Cost& cost) {
  const std::size_t together = heads_of_map(search.problem);
  std::optional<Solution> best;
  std::optional<Error> refusal;
  for (const Ladder& ladder : search.finalists) {
    try {
      Solution solution =
          solve(ladder, together, [&](const auto& units) { return allocate(units, ladder); });
      if (!best || cost(solution) < cost(*best)) best = std::move(solution);
    } catch (const Error& error) {
      refusal = error;
    }
  }
  if (!best) throw Error(refusal->status(), std::string("--target: ") + refusal->what());
  return std::move(*best);
}

Budgets budgets_of(const TuningSearch& search, Solution solution) {
  const Ladder& ladder = *solution.ladder;
  const engine::Allocation& allocation = solution.allocation;
  Budgets budgets;
  budgets.predicted_density = allocation.mean_density;
  budgets.predicted_error = std::sqrt(allocation.mean_squared_error);
  budgets.uniform_density = readable(wanted_for(ladder, allocation.mean_density));
  budgets.config = with_density(ladder.candidate.config, budgets.uniform_density);
  const std::size_t together = heads_of_map(search.problem);
  std::size_t unit = 0;
  for (const LayerCurves& layer : solution.curves) {
    Config& own = budgets.layers[layer.layer] = budgets.config;
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      const double expected = allocation.density[unit + h / together];
      const double density = readable(wanted_for(ladder, expected));
      own.head_density.push_back(static_cast<float>(density));
      budgets.heads.push_back({layer.layer, static_cast<index_t>(h), density, expected});
    }
    unit += layer.heads.size() / together;
  }
  budgets.curves = std::move(solution.curves);
  return budgets;
}

}  // namespace

Budgets budgets_of_density(const TuningSearch& search, double density) {
  return budgets_of(search, best_solution(
                                search,
                                [density](const auto& units, const Ladder& ladder) {
                                  return engine::allocate_density(units,
                                                                  density - ladder.surcharge);
                                },
                                [](const Solution& s) { return s.allocation.mean_squared_error; }));
}

Budgets budgets_of_error(const TuningSearch& search, double error) {
  return budgets_of(search, best_solution(
                                search,
                                [error](const auto& units, const Ladder&) {
                                  return engine::allocate_error(units, error * error);
                                },
                                [](const Solution& s) {
                                  return s.allocation.mean_density + s.ladder->surcharge;
                                }));
}

}  // namespace psa::cli
