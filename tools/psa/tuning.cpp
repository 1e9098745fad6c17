// SPDX-License-Identifier: Apache-2.0
#include "tuning.hpp"

#include <cmath>
#include <cstddef>
#include <utility>

#include "capture_runner.hpp"
#include "mean.hpp"
#include "psa/presets.hpp"
#include "tuning_progress.hpp"

namespace psa::cli {
namespace {

/// One way of reading while it runs on all captures.
struct Trial {
  Mean density, selection_cost, squared;
  double ms = 0;

  void add(const CaptureResult& result) {
    density.add(result.density);
    selection_cost.add(result.selection_cost);
    for (const double error : result.errors) squared.add(error * error);
    ms += result.ms;
  }
  [[nodiscard]] MethodTotal total() const {
    return {density.value(), selection_cost.value(), std::sqrt(squared.value()), ms};
  }
};

/// Mean squared errors of one head or step.
struct MeanPair {
  Mean before, after;

  void add(double error_before, double error_after) {
    before.add(error_before * error_before);
    after.add(error_after * error_after);
  }
  [[nodiscard]] ErrorPair errors() const {
    return {std::sqrt(before.value()), std::sqrt(after.value())};
  }
};

/// Calls of dense attention that trying out costs.
double work_of(std::size_t captures, double density) {
  constexpr double kWays = 3;  // before, uniform, after
  return static_cast<double>(captures) * (1 + kWays * (density + TuneProgress::kOverhead));
}

}  // namespace

Tuning try_out(const CallOptions& options, const TuneTarget& target, TuningSearch search,
               Budgets budgets, bool is_quiet) {
  Tuning tuning;
  tuning.target = target;
  tuning.search = std::move(search);
  tuning.budgets = std::move(budgets);
  const Config base = with_density(tuning.search.problem.config, tuning.budgets.uniform_density);
  Trial before, uniform, after;
  std::map<std::pair<std::optional<index_t>, index_t>, MeanPair> heads;
  std::map<index_t, MeanPair> steps;
  TuneProgress progress(static_cast<int>(tuning.judged().size()),
                        work_of(tuning.judged().size(), tuning.budgets.uniform_density), is_quiet);
  for (const Capture& capture : tuning.judged()) {
    progress.visit("before and after, " + place_of(capture));
    const Call call = load_capture(options, capture);
    CaptureRunner runner(call);
    progress.add(1);
    tuning.dense_ms += runner.dense_ms();
    const auto run = [&](const Config& config, Trial& trial) {
      const CaptureResult result = runner.run(config);
      progress.add(result.density);
      trial.add(result);
      return result.errors;
    };
    const std::vector<double> old_errors = run(base, before);
    const std::vector<double> new_errors = run(tuning.budgets.layers.at(capture.layer), after);
    run(tuning.budgets.config, uniform);
    ++tuning.steps[capture.step].captures;
    for (std::size_t h = 0; h < new_errors.size(); ++h) {
      heads[{capture.layer, static_cast<index_t>(h)}].add(old_errors[h], new_errors[h]);
      steps[capture.step].add(old_errors[h], new_errors[h]);
    }
  }
  for (const HeadBudget& head : tuning.budgets.heads) {
    const auto found = heads.find({head.layer, head.head});
    tuning.heads.push_back(found == heads.end() ? std::nullopt
                                                : std::optional(found->second.errors()));
  }
  for (const auto& [step, pair] : steps) tuning.steps[step].errors = pair.errors();
  tuning.before = before.total();
  tuning.uniform = uniform.total();
  tuning.after = after.total();
  return tuning;
}

}  // namespace psa::cli
