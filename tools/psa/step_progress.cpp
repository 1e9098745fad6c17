// SPDX-License-Identifier: Apache-2.0
#include "step_progress.hpp"

#include "table.hpp"

namespace psa::cli {

void StepProgress::begin(const std::string& name) {
  name_ = name;
  done_ = 0;
  announce("");
}

void StepProgress::end_step(const engine::StepReport& step) {
  ++done_;
  if (done_ == steps_) return;
  const double seconds = step.total_ms / 1000;
  announce(", density " + fixed(step.density(), 3) + ", " + fixed(seconds, 1) + " s a step, " +
           fixed(seconds * (steps_ - done_), 0) + " s left");
}

void StepProgress::announce(const std::string& more) {
  progress_.step(name_ + ", step " + std::to_string(done_ + 1) + " of " + std::to_string(steps_) +
                 more);
}

}  // namespace psa::cli
