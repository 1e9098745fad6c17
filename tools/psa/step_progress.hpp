// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "engine/generation/generation.hpp"
#include "progress.hpp"

namespace psa::cli {

/// Says which step of which video a model is at: "psa, step 4 of 30, density 0.149, 1.6 s a step,
/// 42 s left".
class StepProgress {
 public:
  StepProgress(const std::string& title, int videos, int steps, bool is_quiet)
      : progress_(title, videos * steps, is_quiet), steps_(steps) {}

  void begin(const std::string& name);
  void end_step(const engine::StepReport& step);

 private:
  void announce(const std::string& more);

  Progress progress_;
  int steps_;  ///< of a video
  int done_ = 0;
  std::string name_;
};

}  // namespace psa::cli
