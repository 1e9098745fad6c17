// SPDX-License-Identifier: Apache-2.0
#include "tuning_budgets.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "psa/error.hpp"
#include "psa/presets.hpp"

namespace psa::cli {
namespace {

/// What a head may lose more than binary blocks: half of .005, since it is on other tensors that it
/// must not lose more than that.
constexpr double kTolerance = 0.0025;

/// With the digits that the configuration file gives it.
double readable(double density) {
  constexpr double kDigits = 1e4;
  return std::round(density * kDigits) / kDigits;
}

/// The captures of each layer.
std::map<std::optional<index_t>, std::vector<std::size_t>> captures_of_layers(
    const Ladder& ladder) {
  std::map<std::optional<index_t>, std::vector<std::size_t>> layers;
  for (std::size_t c = 0; c < ladder.captures.size(); ++c) {
    layers[ladder.captures[c].layer].push_back(c);
  }
  return layers;
}

/// The curve of each head, layer by layer; dense attention, without an error, is its end.
std::vector<LayerCurves> curves_of(const Ladder& ladder) {
  std::vector<LayerCurves> all;
  const std::size_t heads = ladder.captures.front().errors.front().size();
  for (const auto& [layer, captures] : captures_of_layers(ladder)) {
    LayerCurves curves{layer, std::vector<engine::ErrorCurve>(heads)};
    for (std::size_t h = 0; h < heads; ++h) {
      for (std::size_t i = 0; i < ladder.wanted.size(); ++i) {
        Mean squared;
        for (const std::size_t c : captures) {
          const double error = ladder.captures[c].errors[i][h];
          squared.add(error * error);
        }
        curves.heads[h].push_back({ladder.measured[i].value(), squared.value()});
      }
      curves.heads[h].push_back({1, 0});
    }
    all.push_back(std::move(curves));
  }
  return all;
}

/// The densities of a ladder, with dense attention at the end.
std::vector<double> densities_of(const Ladder& ladder) {
  std::vector<double> densities;
  for (const Mean& measured : ladder.measured) densities.push_back(measured.value());
  densities.push_back(1);
  return densities;
}

/// The errors of a head of a capture at these densities.
std::vector<double> errors_of(const Ladder& ladder, std::size_t capture, std::size_t head) {
  std::vector<double> errors;
  for (const auto& rung : ladder.captures[capture].errors) errors.push_back(rung[head]);
  errors.push_back(0);
  return errors;
}

/// Between the points (x, y), whose x do not fall, at the last of those with one x; before and
/// behind all, the first and the last y.
double interpolated(std::span<const double> x, std::span<const double> y, double at) {
  const auto i = static_cast<std::size_t>(std::upper_bound(x.begin(), x.end(), at) - x.begin());
  if (i == 0) return y.front();
  if (i == x.size()) return y.back();
  return y[i - 1] + (at - x[i - 1]) / (x[i] - x[i - 1]) * (y[i] - y[i - 1]);
}

/// The least density with an error of at most `error`, which is not negative.
double density_for(std::span<const double> densities, std::span<const double> errors,
                   double error) {
  std::size_t i = 0;
  while (errors[i] > error) ++i;  // up to the 0 of dense attention
  if (i == 0) return densities.front();
  const double part = (errors[i - 1] - error) / (errors[i - 1] - errors[i]);
  return densities[i - 1] + part * (densities[i] - densities[i - 1]);
}

/// For each unit of a layer's heads, the least density at which no head of it loses `tolerance`
/// more than binary blocks do at `density`, on any capture.
std::vector<double> floors_of(const Ladder& ladder, const Ladder& binary, std::size_t together,
                              double density, double tolerance) {
  std::vector<double> floors;
  const std::vector<double> densities = densities_of(ladder);
  const std::vector<double> of_binary = densities_of(binary);
  const std::size_t heads = ladder.captures.front().errors.front().size();
  for (const auto& [layer, captures] : captures_of_layers(ladder)) {
    for (std::size_t h = 0; h < heads; ++h) {
      if (h % together == 0) floors.push_back(0);
      for (const std::size_t c : captures) {
        const double allowed =
            interpolated(of_binary, errors_of(binary, c, h), density) + tolerance;
        floors.back() =
            std::max(floors.back(), density_for(densities, errors_of(ladder, c, h), allowed));
      }
    }
  }
  return floors;
}

/// The density to ask for in order to get `density`.
double wanted_for(const Ladder& ladder, double density) {
  std::vector<double> wanted = ladder.wanted;
  wanted.push_back(1);
  return interpolated(densities_of(ladder), wanted, density);
}

double mean_of(std::span<const double> numbers) {
  Mean mean;
  for (const double number : numbers) mean.add(number);
  return mean.value();
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

/// Allocates by the curves of a finalist, of which heads with one level map have one together:
/// `allocate` gets these and what gives the floors at a density.
template <typename Allocate>
Solution solve(const TuningSearch& search, const Ladder& ladder, const Allocate& allocate) {
  const std::size_t together = heads_of_map(search.problem);
  Solution solution{&ladder, curves_of(ladder), {}};
  std::vector<engine::ErrorCurve> units;
  for (const LayerCurves& layer : solution.curves) {
    const std::span<const engine::ErrorCurve> heads(layer.heads);
    for (std::size_t h = 0; h < heads.size(); h += together) {
      units.push_back(mean_curve(heads.subspan(h, together)));
    }
  }
  const bool has_floors = search.binary && reads_means(ladder.candidate.config.rest);
  solution.allocation = allocate(units, [&](double density, double tolerance) {
    return has_floors ? floors_of(ladder, *search.binary, together, density, tolerance)
                      : std::vector<double>(units.size(), 0);
  });
  return solution;
}

/// Of the finalists that can meet the target (a few blocks are read whatever the budget is), the
/// one that costs least.
template <typename Allocate, typename Cost>
Solution best_solution(const TuningSearch& search, const Allocate& allocate, const Cost& cost) {
  std::optional<Solution> best;
  std::optional<Error> refusal;
  for (const Ladder& ladder : search.finalists) {
    try {
      Solution solution = solve(search, ladder, [&](const auto& units, const auto& floors) {
        return allocate(units, floors, ladder);
      });
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
  const auto allocate = [density](const auto& units, const auto& floors, const Ladder& ladder) {
    const double own = density - ladder.surcharge;
    // What all heads need may be more than there is: then each may lose a little more.
    constexpr double kMore = 1.25;
    std::vector<double> least;
    for (double tolerance = kTolerance; tolerance < 1; tolerance *= kMore) {
      least = floors(own, tolerance);
      if (mean_of(least) <= own) break;
      least.clear();
    }
    return engine::allocate_density(units, own, least);
  };
  return budgets_of(search, best_solution(search, allocate, [](const Solution& s) {
                      return s.allocation.mean_squared_error;
                    }));
}

Budgets budgets_of_error(const TuningSearch& search, double error) {
  const auto allocate = [error](const auto& units, const auto& floors, const Ladder&) {
    const double squared = error * error;
    const double density = engine::allocate_error(units, squared).mean_density;
    return engine::allocate_error(units, squared, floors(density, kTolerance));
  };
  return budgets_of(search, best_solution(search, allocate, [](const Solution& s) {
                      return s.allocation.mean_density + s.ladder->surcharge;
                    }));
}

}  // namespace psa::cli
