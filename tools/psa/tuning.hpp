// SPDX-License-Identifier: Apache-2.0
#pragma once

// What psa tune found, beside the configuration that it began with.

#include <map>
#include <optional>
#include <vector>

#include "tuning_budgets.hpp"
#include "tuning_search.hpp"
#include "tuning_videos.hpp"

namespace psa::cli {

struct ErrorPair {
  double before = 0;
  double after = 0;
};

/// One way of reading all captures that were held out.
struct MethodTotal {
  double density = 0;  ///< mean of the captures
  double selection_cost = 0;
  double error = 0;
  double ms = 0;  ///< of one call for each capture, together
};

struct StepErrors {
  int captures = 0;
  ErrorPair errors;
};

struct Tuning {
  TuneTarget target;
  TuningSearch search;
  Budgets budgets;
  std::optional<VideoSearch> videos;  ///< with a model
  std::vector<std::optional<ErrorPair>>
      heads;  ///< of budgets.heads; nothing if no capture of the layer was held out
  std::map<index_t, StepErrors> steps;
  double dense_ms = 0;
  MethodTotal before;   ///< the base configuration at the density of `after`
  MethodTotal uniform;  ///< the choice at one density for all heads
  MethodTotal after;

  /// What the totals and errors are of: held out, or if there was too little, what was tuned on.
  [[nodiscard]] const std::vector<Capture>& judged() const {
    return search.split.held_out.empty() ? search.split.tuned : search.split.held_out;
  }
};

/// Runs the budgets and the base configuration on the captures that were held out. `options` as in
/// search_captures().
[[nodiscard]] Tuning try_out(const CallOptions& options, const TuneTarget& target,
                             TuningSearch search, Budgets budgets, bool is_quiet);

}  // namespace psa::cli
