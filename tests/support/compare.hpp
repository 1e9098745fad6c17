// SPDX-License-Identifier: Apache-2.0
#pragma once

// Comparison of floating-point results with an exact one. Positions where the exact result is NaN
// or infinite must hold the same there; all others count by their absolute error. Failures name the
// worst index and the values there.

#include <gtest/gtest.h>

#include <vector>

#include "support/tensors.hpp"

namespace psa::testing {

/// Contiguous numbers of a [.,.,.,.] tensor.
struct Values {
  Shape shape{};
  std::vector<double> data;
};

[[nodiscard]] Values values_of(const Tensor& tensor);
[[nodiscard]] Values values_of(const Shape& shape, const std::vector<float>& data);

/// Whether all channels of a row of the first head are finite.
[[nodiscard]] bool is_finite_row(const Tensor& out, index_t row);

/// The values as `dtype` stores them.
[[nodiscard]] Values rounded_to(const Values& values, DType dtype);

/// Every |actual - exact| <= tolerance.
[[nodiscard]] ::testing::AssertionResult is_close(const Values& actual, const Values& exact,
                                                  double tolerance);

/// Largest error of `actual` <= 2 x the largest error of `plain`, a plain evaluation in the same
/// precision, + floor.
[[nodiscard]] ::testing::AssertionResult is_within_budget(const Values& actual, const Values& plain,
                                                          const Values& exact, double floor);

}  // namespace psa::testing
