// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <vector>

namespace psa::cli {

/// Milliseconds since construction.
class Stopwatch {
 public:
  [[nodiscard]] double ms() const {
    return std::chrono::duration<double, std::milli>(Clock::now() - start_).count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

/// Order statistics, interpolated between neighbours. All 0 for no samples.
struct Spread {
  double median = 0;
  double p10 = 0;
  double p90 = 0;
  double best = 0;
};
[[nodiscard]] Spread spread_of(std::vector<double> samples);

}  // namespace psa::cli
