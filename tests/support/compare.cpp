// SPDX-License-Identifier: Apache-2.0
#include "support/compare.hpp"

#include <cmath>
#include <cstddef>
#include <limits>
#include <string>

#include "core/tensor.hpp"

namespace psa::testing {
namespace {

struct Worst {
  std::size_t index = 0;
  double error = 0.0;
};

/// Infinite where one is NaN and the other is not, or one is an infinity and the other is not the
/// same.
double error_of(double actual, double exact) {
  if (std::isnan(exact) && std::isnan(actual)) return 0.0;
  if (actual == exact) return 0.0;
  const double error = std::abs(actual - exact);
  return std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
}

Worst worst_of(const Values& actual, const Values& exact) {
  Worst worst;
  for (std::size_t i = 0; i < exact.data.size(); ++i) {
    const double error = error_of(actual.data[i], exact.data[i]);
    if (error > worst.error) worst = {i, error};
  }
  return worst;
}

std::string index_text(const Shape& shape, std::size_t flat) {
  auto rest = static_cast<index_t>(flat);
  std::string text = "]";
  for (std::size_t axis = 4; axis-- > 0;) {
    text = std::to_string(rest % shape[axis]) + text;
    text = (axis == 0 ? "[" : ", ") + text;
    rest /= shape[axis];
  }
  return text;
}

::testing::AssertionResult failure_at(const Worst& worst, const Values& actual,
                                      const Values& exact) {
  return ::testing::AssertionFailure()
         << "worst at " << index_text(exact.shape, worst.index) << ": " << actual.data[worst.index]
         << ", expected " << exact.data[worst.index] << ", error " << worst.error;
}

::testing::AssertionResult has_shape_of(const Values& actual, const Values& exact) {
  if (actual.data.size() == exact.data.size()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << actual.data.size() << " values, expected " << exact.data.size();
}

}  // namespace

Values values_of(const Tensor& tensor) {
  Values values{tensor.shape(), {}};
  const auto [batch, heads, tokens, channels] = tensor.shape();
  for (index_t b = 0; b < batch; ++b) {
    for (index_t h = 0; h < heads; ++h) {
      for (index_t l = 0; l < tokens; ++l) {
        for (index_t c = 0; c < channels; ++c) {
          values.data.push_back(static_cast<double>(tensor.get(b, h, l, c)));
        }
      }
    }
  }
  return values;
}

bool is_finite_row(const Tensor& out, index_t row) {
  for (index_t c = 0; c < out.shape()[3]; ++c) {
    if (!std::isfinite(out.get(0, 0, row, c))) return false;
  }
  return true;
}

Values values_of(const Shape& shape, const std::vector<float>& data) {
  return {shape, {data.begin(), data.end()}};
}

Values rounded_to(const Values& values, DType dtype) {
  Values rounded = values;
  for (double& x : rounded.data) {
    float stored = 0.0F;
    core::store_element(&stored, dtype, 0, static_cast<float>(x));
    x = static_cast<double>(core::load_element(&stored, dtype, 0));
  }
  return rounded;
}

::testing::AssertionResult is_close(const Values& actual, const Values& exact, double tolerance) {
  const auto same_shape = has_shape_of(actual, exact);
  if (!same_shape) return same_shape;
  const Worst worst = worst_of(actual, exact);
  if (worst.error <= tolerance) return ::testing::AssertionSuccess();
  return failure_at(worst, actual, exact) << ", allowed " << tolerance;
}

::testing::AssertionResult is_within_budget(const Values& actual, const Values& plain,
                                            const Values& exact, double floor) {
  for (const Values* values : {&actual, &plain}) {
    const auto same_shape = has_shape_of(*values, exact);
    if (!same_shape) return same_shape;
  }
  const Worst worst = worst_of(actual, exact);
  const double plain_error = worst_of(plain, exact).error;
  // A plain evaluation that loses an infinity or a NaN is no measure.
  const bool usable = std::isfinite(plain_error);
  if (usable && worst.error <= 2.0 * plain_error + floor) return ::testing::AssertionSuccess();
  return failure_at(worst, actual, exact)
         << ", allowed 2 x " << plain_error << " (plain) + " << floor;
}

}  // namespace psa::testing
