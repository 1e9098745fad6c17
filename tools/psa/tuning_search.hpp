// SPDX-License-Identifier: Apache-2.0
#pragma once

// What psa tune learns from its captures: how blocks are read best (order, estimator, levels, rest,
// block size) by successive halving, and the errors of each head over densities.

#include <optional>
#include <vector>

#include "call_options.hpp"
#include "mean.hpp"
#include "tuning_candidates.hpp"
#include "tuning_captures.hpp"
#include "tuning_target.hpp"

namespace psa::cli {

/// Errors of several heads are root mean squares of their relative L2 errors.

/// A way of reading, at equal cost (density and selection together) on some of the captures.
struct CandidateResult {
  Candidate candidate;
  double density = 0;  ///< wanted
  double error = 0;
  double ms = 0;     ///< of a call, mean
  int captures = 0;  ///< that it ran on
};

/// What a ladder of densities has measured on one capture.
struct LadderErrors {
  std::optional<index_t> layer;
  std::vector<std::vector<double>> errors;  ///< [wanted][head]
};

/// The errors of a way of reading over a ladder of densities.
struct Ladder {
  Candidate candidate;
  double surcharge = 0;        ///< what its selection costs more than the cheapest candidate's
  std::vector<double> wanted;  ///< rising
  std::vector<Mean> measured;  ///< the densities that they turned out to be
  std::vector<LadderErrors> captures;  ///< in the order of split.tuned
};

struct TuningSearch {
  Problem problem;  ///< of the captures; with the base configuration
  CaptureSplit split;
  std::vector<CandidateResult> candidates;  ///< those that ran on most captures first, best first
  std::vector<Ladder> finalists;            ///< at least one
  /// The best blocks alone, read as the best candidate reads them but in the order in which that
  /// loses least: what no head should be worse than. None if no finalist reads means.
  std::optional<Ladder> binary;
};

/// As psa generate does: Gilbert order where a video allows it and neither a base configuration nor
/// a flag says another.
void apply_default_order(const CallOptions& options, Problem& problem);

/// The tensors of a capture; the configuration is the base one. Throws what load_call() throws.
[[nodiscard]] Call load_capture(const CallOptions& options, const Capture& capture);

/// Throws what search_captures() would throw for the target and the flags on captures of `problem`,
/// which has the base configuration.
void check_target(const CallOptions& options, const Problem& problem, const TuneTarget& target);

/// `options`: files ignored; base configuration, flags and machine of every call. Throws Error:
/// kInvalidArgument if captures do not fit each other or no candidate can have the density, beside
/// what reading files and Plan::create throw.
[[nodiscard]] TuningSearch search_captures(const CallOptions& options,
                                           const std::vector<Capture>& captures,
                                           const TuneTarget& target, bool is_quiet);

}  // namespace psa::cli
