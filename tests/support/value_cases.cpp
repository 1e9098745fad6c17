// SPDX-License-Identifier: Apache-2.0
#include "support/value_cases.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "reference/backend.hpp"

namespace psa::testing {
namespace {

/// Calls body(b, h) for every head.
template <typename Body>
void for_each_head(const Tensor& tensor, const Body& body) {
  for (index_t b = 0; b < tensor.shape()[0]; ++b) {
    for (index_t h = 0; h < tensor.shape()[1]; ++h) body(b, h);
  }
}

void fill_token(Tensor& tensor, index_t b, index_t h, index_t token, float value) {
  for (index_t c = 0; c < tensor.shape()[3]; ++c) tensor.set(b, h, token, c, value);
}

}  // namespace

void move_values(Tensor& v, float offset) {
  for_each_head(v, [&](index_t b, index_t h) {
    for (index_t token = 0; token < v.shape()[2]; ++token) {
      const float more = token % 7 == 0 ? offset : 0.875F * offset;
      for (index_t c = 0; c < v.shape()[3]; ++c) {
        v.set(b, h, token, c, v.get(b, h, token, c) + more);
      }
    }
  });
}

void spoil_values(Tensor& v) {
  for_each_head(v, [&](index_t b, index_t h) {
    fill_token(v, b, h, v.shape()[2] / 3, std::numeric_limits<float>::quiet_NaN());
    fill_token(v, b, h, v.shape()[2] / 2, std::numeric_limits<float>::infinity());
  });
}

void expect_weights_of_reference(const core::Backend& backend, Problem problem,
                                 const core::Inputs& inputs, const RunOptions& options) {
  problem.config.weigh_values = true;
  problem.config.rest = Rest::kLinear;
  for (const BudgetScope scope : {BudgetScope::kRow, BudgetScope::kHead}) {
    if (scope == BudgetScope::kHead && problem.config.causal) continue;
    problem.config.budget_scope = scope;
    const core::Geometry g = problem.geometry();
    const auto expected = StageRunner(reference::backend(), g).value_weights(inputs);
    const auto weights = StageRunner(backend, g, options).value_weights(inputs);
    ASSERT_EQ(weights.size(), expected.size());
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const auto want = static_cast<double>(expected[i]);
      ASSERT_NEAR(static_cast<double>(weights[i]), want, 3e-5 * want + 1e-5)
          << backend.isa << ", weight " << i;
    }
  }
}

}  // namespace psa::testing
