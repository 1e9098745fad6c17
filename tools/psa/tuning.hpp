// SPDX-License-Identifier: Apache-2.0
#pragma once

// Finds the configuration that reads given captures best: how blocks are read (order, estimator,
// levels, rest, block size) by successive halving, then how a density is spent over layers and
// heads.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "call_options.hpp"
#include "engine/tuning/density_allocation.hpp"
#include "tuning_candidates.hpp"
#include "tuning_captures.hpp"

namespace psa::cli {

/// Errors of several heads are root mean squares of their relative L2 errors.
struct TuneTarget {
  enum class Kind { kDensity, kError };
  Kind kind = Kind::kDensity;
  double value = 0;  ///< above 0; a density is below 1
};
/// "density=.10" or "error=.05". Throws Error(kInvalidArgument).
[[nodiscard]] TuneTarget parse_target(const std::string& text);

/// A way of reading, at equal cost (density and selection together) on some of the captures.
struct CandidateResult {
  Candidate candidate;
  double density = 0;  ///< wanted
  double error = 0;
  double ms = 0;     ///< of a call, mean
  int captures = 0;  ///< that it ran on
};

struct LayerCurves {
  std::optional<index_t> layer;
  std::vector<engine::ErrorCurve> heads;
};

struct ErrorPair {
  double before = 0;
  double after = 0;
};

/// A head of a layer: its part of the density, and its errors on the captures that were held out.
struct HeadResult {
  std::optional<index_t> layer;
  index_t head = 0;
  double density = 0;               ///< to ask for
  double expected_density = 0;      ///< what it comes to, rounded to blocks
  std::optional<ErrorPair> errors;  ///< nothing if no capture of the layer was held out
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
  Problem problem;  ///< of the captures; with the base configuration
  CaptureSplit split;
  std::vector<CandidateResult> candidates;  ///< those that ran on most captures first, best first
  Config config;                            ///< the choice, at one density for all
  std::map<std::optional<index_t>, Config> layers;  ///< the choice, layer by layer
  std::vector<LayerCurves> curves;
  double uniform_density = 0;  ///< of `config`, as wanted
  double predicted_density = 0;
  double predicted_error = 0;
  std::vector<HeadResult> heads;
  std::map<index_t, StepErrors> steps;
  double dense_ms = 0;
  MethodTotal before;   ///< the base configuration at the density of `after`
  MethodTotal uniform;  ///< the choice at one density for all heads
  MethodTotal after;

  /// What the totals and errors are of: held out, or if there was too little, what was tuned on.
  [[nodiscard]] const std::vector<Capture>& judged() const {
    return split.held_out.empty() ? split.tuned : split.held_out;
  }
};

/// `options`: files ignored; base configuration, flags and machine of every call. Throws Error:
/// kInvalidArgument if captures do not fit each other or the target cannot be met, beside what
/// reading files and Plan::create throw.
[[nodiscard]] Tuning tune(const CallOptions& options, const std::vector<Capture>& captures,
                          const TuneTarget& target, bool is_quiet);

}  // namespace psa::cli
