// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "progress.hpp"
#include "timing.hpp"

namespace psa::cli {

/// Says what psa tune does with its captures and when it will be over. Work is counted in calls of
/// dense attention.
class TuneProgress {
 public:
  TuneProgress(int visits, double work, bool is_quiet)
      : progress_("tune", visits, is_quiet), work_(work) {}

  /// Begins with the next capture.
  void visit(const std::string& what);
  /// After a call that computed this share of the logits.
  void add(double density) { done_ += density + kOverhead; }

  /// What a call costs however little it reads, in dense calls.
  static constexpr double kOverhead = 0.08;

 private:
  Progress progress_;
  Stopwatch watch_;
  double work_;
  double done_ = 0;
};

}  // namespace psa::cli
