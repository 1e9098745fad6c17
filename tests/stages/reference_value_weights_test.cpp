// SPDX-License-Identifier: Apache-2.0

// The value weights stage of the reference backend (S-27).

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "reference/backend.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

using Weights = std::vector<float>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kLargest = std::numeric_limits<float>::max();

/// Values of one channel, in blocks of 16.
Weights weights_of(const std::vector<float>& values, bool causal,
                   const std::vector<std::int32_t>& kv_lengths = {}) {
  Problem problem;
  problem.shape.len_q = problem.shape.len_kv = static_cast<index_t>(values.size());
  problem.shape.head_dim = 1;
  problem.config.block_kv = 16;
  problem.config.num_levels = 1;
  problem.config.causal = causal;
  problem.config.weigh_values = true;
  QkvTensors in = random_qkv(problem, 1);
  in.kv_lengths = kv_lengths;
  for (std::size_t l = 0; l < values.size(); ++l) {
    in.v.set(0, 0, static_cast<index_t>(l), 0, values[l]);
  }
  return StageRunner(reference::backend(), problem.geometry()).value_weights(in.inputs());
}

/// Blocks of one value each.
std::vector<float> blocks_of(const std::vector<float>& values) {
  std::vector<float> all;
  for (const float value : values) all.insert(all.end(), 16, value);
  return all;
}

TEST(ReferenceValueWeights, S27IsTheDistanceFromTheMeanOfAllValues) {
  EXPECT_EQ(weights_of(blocks_of({1, 2, 6}), false), (Weights{2, 1, 3}));
  EXPECT_EQ(weights_of(blocks_of({5, 5}), false), (Weights{0, 0}));
}

TEST(ReferenceValueWeights, S27IsTheDistanceFromEarlierValuesInCausalCalls) {
  EXPECT_EQ(weights_of(blocks_of({1, 3, 8}), true), (Weights{0, 1, 4}));
  // No weight knows of a later block.
  EXPECT_EQ(weights_of(blocks_of({1, 3, 800}), true)[1], 1.0F);
}

TEST(ReferenceValueWeights, S27IsARootMeanSquareOverTheTokens) {
  std::vector<float> values(16, 3.0F);
  for (std::size_t l = 0; l < values.size(); l += 2) values[l] = -3.0F;
  EXPECT_EQ(weights_of(values, false), Weights{3});
  // The block's own mean and what lies about it add up in squares: 16 + 9.
  for (float& value : values) value += 5.0F;
  std::vector<float> with_zeros = values;
  with_zeros.insert(with_zeros.end(), 64, 0.0F);  // the mean of all is 1
  EXPECT_EQ(weights_of(with_zeros, false), (Weights{5, 1, 1, 1, 1}));
}

TEST(ReferenceValueWeights, S27ValuesThatDoNotExistDoNotCount) {
  std::vector<float> values = blocks_of({1, 3, 100, 100});
  EXPECT_EQ(weights_of(values, false, {32}), (Weights{1, 1, 0, 0}));
  values[31] = kNan;
  EXPECT_EQ(weights_of(values, true, {31})[1], weights_of(blocks_of({1, 3}), true, {31})[1]);
}

TEST(ReferenceValueWeights, S27BlocksThatAreNotFiniteAreLeftOut) {
  std::vector<float> values = blocks_of({1, 3, 7, 3});
  values[40] = kNan;
  EXPECT_EQ(weights_of(values, false), (Weights{4.0F / 3, 2.0F / 3, kLargest, 2.0F / 3}));
  values[40] = 3e38F;  // a square beyond float
  EXPECT_EQ(weights_of(values, true), (Weights{0, 1, kLargest, 2.0F / 3}));
}

TEST(ReferenceValueWeights, S28CountTimesTheSpreadOfTheKeysWhereABudgetIsShared) {
  Problem problem;
  problem.shape.len_q = problem.shape.len_kv = 48;
  problem.shape.head_dim = 1;
  problem.config.block_kv = 16;
  problem.config.num_levels = 1;
  problem.config.weigh_values = true;
  problem.config.rest = Rest::kLinear;
  QkvTensors in = random_qkv(problem, 1);
  for (index_t l = 0; l < 48; ++l) {
    in.v.set(0, 0, l, 0, l < 16 ? 1.0F : l < 32 ? 2.0F : 6.0F);
    const float distance = l < 16 ? 0.5F : l < 32 ? 2.0F : 1e25F;
    in.k.set(0, 0, l, 0, 7.0F + (l % 2 == 0 ? distance : -distance));
  }
  const auto weights = [&] {
    return StageRunner(reference::backend(), problem.geometry()).value_weights(in.inputs());
  };
  EXPECT_EQ(weights(), (Weights{2, 1, 3}));
  problem.config.budget_scope = BudgetScope::kHead;
  EXPECT_EQ(weights(), (Weights{0.5F, 4, kLargest}));
  problem.config.rest = Rest::kMean;
  EXPECT_EQ(weights(), (Weights{2, 1, 3}));
}

class ReferenceValueWeightsCases : public ::testing::TestWithParam<ProblemCase> {};

/// Mean of |v - center|² over positions [begin, end) of a head.
double mean_square(const Tensor& v, const std::int32_t* order, index_t b, index_t h, index_t begin,
                   index_t end, index_t center_end) {
  const auto at = [&](index_t position, index_t c) {
    return static_cast<double>(v.get(b, h, order == nullptr ? position : order[position], c));
  };
  double sum = 0.0;
  for (index_t c = 0; c < v.shape()[3]; ++c) {
    double center = 0.0;
    for (index_t l = 0; l < center_end; ++l) center += at(l, c) / static_cast<double>(center_end);
    for (index_t l = begin; l < end; ++l) sum += std::pow(at(l, c) - center, 2);
  }
  return sum / static_cast<double>(end - begin);
}

TEST_P(ReferenceValueWeightsCases, S27AgreesWithItsDefinition) {
  Problem problem = GetParam().problem;
  problem.config.weigh_values = true;
  const core::Geometry g = problem.geometry();
  QkvTensors in = GetParam().make_inputs(6);
  const Weights weights = StageRunner(reference::backend(), g).value_weights(in.inputs());
  std::size_t i = 0;
  for (index_t b = 0; b < g.shape.batch; ++b) {
    const index_t n = in.inputs().kv_length(b);
    for (index_t h = 0; h < g.shape.heads_kv; ++h) {
      for (index_t j = 0; j < g.num_kv_blocks; ++j, ++i) {
        const index_t begin = j * g.config.block_kv;
        const index_t end = std::min<index_t>(begin + g.config.block_kv, n);
        const double expected =
            begin < end ? std::sqrt(mean_square(in.v, in.inputs().kv_order.of(b, h), b, h, begin,
                                                end, g.config.causal ? end : n))
                        : 0.0;
        ASSERT_NEAR(weights[i], expected, 1e-6 * (1.0 + expected)) << "block " << j;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, ReferenceValueWeightsCases, ::testing::ValuesIn(problem_cases()),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace psa::testing
