// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace psa::cli {

/// The mean of values that come one by one; 0 before the first.
struct Mean {
  double sum = 0;
  double count = 0;

  void add(double value) {
    sum += value;
    ++count;
  }
  [[nodiscard]] double value() const { return count > 0 ? sum / count : 0; }
};

}  // namespace psa::cli
