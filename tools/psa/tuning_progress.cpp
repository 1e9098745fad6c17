// SPDX-License-Identifier: Apache-2.0
#include "tuning_progress.hpp"

#include <algorithm>

#include "table.hpp"

namespace psa::cli {

void TuneProgress::visit(const std::string& what) {
  std::string label = what;
  if (done_ > 0) {
    const double seconds = watch_.ms() / 1000 * std::max(0.0, work_ - done_) / done_;
    label += ", about " + fixed(seconds, 0) + " s left";
  }
  progress_.step(label);
}

}  // namespace psa::cli
