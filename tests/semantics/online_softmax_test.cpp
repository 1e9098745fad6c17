// SPDX-License-Identifier: Apache-2.0
#include "semantics/online_softmax.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace psa::semantics {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

void add_piece(SoftmaxState<double>& state, const std::vector<double>& logits) {
  double largest = state.max;
  for (const double s : logits) largest = std::max(largest, s);
  state.sum *= rescale_factor(state.max, largest);
  for (const double s : logits) state.sum += std::exp(s - largest);
  state.max = largest;
}

TEST(OnlineSoftmax, S6PiecesGiveTheSumOfAll) {
  std::mt19937 generator(1);
  std::normal_distribution<double> normal(0.0, 5.0);
  SoftmaxState<double> state;
  double sum = 0.0;
  for (int piece = 0; piece < 10; ++piece) {
    std::vector<double> logits(7);
    for (double& s : logits) {
      s = normal(generator);
      sum += std::exp(s);
    }
    add_piece(state, logits);
  }
  EXPECT_NEAR(log_sum_exp(state), std::log(sum), 1e-12);
  EXPECT_NEAR(normaliser(state) * std::exp(-state.max), 1.0 / sum, 1e-12 / sum);
}

TEST(OnlineSoftmax, S6LargeLogitsDoNotOverflow) {
  SoftmaxState<double> state;
  add_piece(state, {1000.0, 1000.0});
  EXPECT_NEAR(log_sum_exp(state), 1000.0 + std::log(2.0), 1e-12);
}

TEST(OnlineSoftmax, S7NothingReadGivesZeroAndMinusInfinity) {
  const SoftmaxState<double> empty;
  EXPECT_EQ(log_sum_exp(empty), -kInf);
  EXPECT_EQ(normaliser(empty), 0.0);
  const SoftmaxState<float> empty_float;
  EXPECT_EQ(log_sum_exp(empty_float), -std::numeric_limits<float>::infinity());
  EXPECT_EQ(normaliser(empty_float), 0.0F);
}

TEST(OnlineSoftmax, S7RescalingAnEmptyRowIsNotNan) {
  EXPECT_EQ(rescale_factor(-kInf, -kInf), 1.0);
  EXPECT_EQ(rescale_factor(-kInf, 3.0), 0.0);
  EXPECT_EQ(rescale_factor(3.0, 3.0), 1.0);
  EXPECT_NEAR(rescale_factor(1.0, 3.0), std::exp(-2.0), 1e-15);
}

}  // namespace
}  // namespace psa::semantics
