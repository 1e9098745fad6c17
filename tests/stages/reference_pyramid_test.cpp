// SPDX-License-Identifier: Apache-2.0

// The pyramid stage of the reference backend against means written out in the test (S-4, S-22a).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "psa/half.hpp"
#include "reference/backend.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

class ReferencePyramid : public ::testing::TestWithParam<ProblemCase> {};

index_t factor_of(int code, index_t block_kv) { return code == 6 ? block_kv : 1 << (code - 1); }

/// Mean of positions [begin, end) of one channel, as the storage type of `like` holds it.
float stored_mean(const Tensor& tokens, const std::vector<index_t>& members, index_t b, index_t h,
                  index_t c, DType dtype) {
  double sum = 0.0;
  for (const index_t token : members) sum += static_cast<double>(tokens.get(b, h, token, c));
  Tensor one({1, 1, 1, 1}, dtype);
  one.set(0, 0, 0, 0, static_cast<float>(sum / static_cast<double>(members.size())));
  return one.get(0, 0, 0, 0);
}

TEST_P(ReferencePyramid, S4RowsAreMeansOfTheirRealPositions) {
  const ProblemCase& param = GetParam();
  const core::Geometry g = param.problem.geometry();
  QkvTensors in = param.make_inputs(11);
  Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(in.inputs());
  const ProblemShape& s = g.shape;
  for (int code = 2; code <= 6; ++code) {
    const index_t f = factor_of(code, g.config.block_kv);
    for (index_t b = 0; b < s.batch; ++b) {
      const index_t n = in.inputs().kv_length(b);
      for (index_t h = 0; h < s.heads_kv; ++h) {
        for (index_t row = 0; row * f < n; ++row) {
          std::vector<index_t> members;
          for (index_t w = row * f; w < std::min((row + 1) * f, n); ++w) {
            const std::int32_t* order = in.inputs().kv_order.of(b, h);
            members.push_back(order == nullptr ? w : order[w]);
          }
          for (index_t c = 0; c < s.head_dim; ++c) {
            ASSERT_EQ(pyramid.k(code).get(b, h, row, c),
                      stored_mean(in.k, members, b, h, c, s.dtype_kv))
                << "level " << code << " row " << row;
            ASSERT_EQ(pyramid.v(code).get(b, h, row, c),
                      stored_mean(in.v, members, b, h, c, s.dtype_kv))
                << "level " << code << " row " << row;
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, ReferencePyramid, ::testing::ValuesIn(problem_cases()),
                         [](const auto& test) { return test.param.name; });

/// One head of one channel that holds `values`, as keys and as values.
QkvTensors line(const Problem& problem, const std::vector<float>& values) {
  QkvTensors in = random_qkv(problem, 1);
  for (std::size_t l = 0; l < values.size(); ++l) {
    in.k.set(0, 0, static_cast<index_t>(l), 0, values[l]);
    in.v.set(0, 0, static_cast<index_t>(l), 0, -values[l]);
  }
  return in;
}

Problem line_problem(index_t len_kv, DType dtype_kv) {
  Problem problem;
  problem.shape.len_kv = len_kv;
  problem.shape.head_dim = 1;
  problem.shape.dtype_kv = dtype_kv;
  return problem;
}

TEST(ReferencePyramidByHand, S4TailCountsRealPositionsOnly) {
  const Problem problem = line_problem(7, DType::kF32);
  QkvTensors in = line(problem, {0, 1, 2, 3, 4, 5, 6});
  Pyramid pyramid = StageRunner(reference::backend(), problem.geometry()).pyramid(in.inputs());
  EXPECT_EQ(pyramid.k(2).get(0, 0, 2, 0), 4.5F);
  EXPECT_EQ(pyramid.k(2).get(0, 0, 3, 0), 6.0F) << "one position";
  EXPECT_EQ(pyramid.k(3).get(0, 0, 1, 0), 5.0F) << "three positions";
  EXPECT_EQ(pyramid.v(6).get(0, 0, 0, 0), -3.0F) << "block mean";
}

TEST(ReferencePyramidByHand, S4IsRoundedOnce) {
  // In units of 2^-7 above 1: mean of 0, 1, 1, 1 = 0.75, which rounds to 1. Rounded after each pair
  // it would be 0.5 -> 0 (even), then 0.5 -> 0.
  const Problem problem = line_problem(4, DType::kBF16);
  const float u = 0x1p-7F;
  QkvTensors in = line(problem, {1.0F, 1.0F + u, 1.0F + u, 1.0F + u});
  Pyramid pyramid = StageRunner(reference::backend(), problem.geometry()).pyramid(in.inputs());
  EXPECT_EQ(pyramid.k(3).get(0, 0, 0, 0), 1.0F + u);
}

TEST(ReferencePyramidByHand, S4NanStaysInTheRowsThatCoverIt) {
  const Problem problem = line_problem(32, DType::kF32);
  std::vector<float> values(32, 1.0F);
  values[5] = std::numeric_limits<float>::quiet_NaN();
  QkvTensors in = line(problem, values);
  Pyramid pyramid = StageRunner(reference::backend(), problem.geometry()).pyramid(in.inputs());
  for (int code = 2; code <= 6; ++code) {
    const index_t f = factor_of(code, 16);
    for (index_t row = 0; row < 32 / f; ++row) {
      EXPECT_EQ(std::isnan(pyramid.k(code).get(0, 0, row, 0)), row == 5 / f);
    }
  }
}

TEST(ReferencePyramidByHand, LevelsThatAreNullAreLeftOut) {
  const Problem problem = line_problem(32, DType::kF32);
  QkvTensors in = line(problem, std::vector<float>(32, 2.0F));
  const core::Geometry g = problem.geometry();
  Pyramid pyramid(g);
  core::KvPyramid wanted{};
  wanted[4] = pyramid.levels()[4];
  wanted[4].v = nullptr;
  const core::Executor executor(1);
  reference::backend().pyramid({g, executor}, {in.inputs(), wanted});
  EXPECT_EQ(pyramid.k(4).get(0, 0, 1, 0), 2.0F);
  EXPECT_TRUE(std::isnan(pyramid.v(4).get(0, 0, 1, 0)));
  EXPECT_TRUE(std::isnan(pyramid.k(3).get(0, 0, 1, 0)));
}

Problem official_line_problem(index_t len_kv, DType dtype_kv) {
  Problem problem = line_problem(len_kv, dtype_kv);
  problem.config.block_q = 128;
  problem.config.block_kv = 128;
  problem.config.compat = Compat::kOfficial;
  problem.config.rest = Rest::kSkip;
  return problem;
}

TEST(ReferencePyramidOfficial, S22LevelsArePairwiseMeansOfRoundedLevels) {
  const Problem problem = official_line_problem(128, DType::kBF16);
  const float u = 0x1p-7F;
  std::vector<float> values(128, 1.0F);
  values[1] = values[2] = values[3] = 1.0F + u;
  QkvTensors in = line(problem, values);
  Pyramid pyramid = StageRunner(reference::backend(), problem.geometry()).pyramid(in.inputs());
  EXPECT_EQ(pyramid.k(2).get(0, 0, 0, 0), 1.0F) << "half a unit rounds to even";
  EXPECT_EQ(pyramid.k(2).get(0, 0, 1, 0), 1.0F + u);
  EXPECT_EQ(pyramid.k(3).get(0, 0, 0, 0), 1.0F) << "not the rounded mean of the four tokens";
}

TEST(ReferencePyramidOfficial, S22TailIsPaddedWithItsLastToken) {
  const Problem problem = official_line_problem(131, DType::kF32);
  std::vector<float> values(131, 0.0F);
  values[128] = 8.0F;
  values[129] = 16.0F;
  values[130] = 4.0F;
  QkvTensors in = line(problem, values);
  Pyramid pyramid = StageRunner(reference::backend(), problem.geometry()).pyramid(in.inputs());
  EXPECT_EQ(pyramid.k(2).get(0, 0, 64, 0), 12.0F);
  EXPECT_EQ(pyramid.k(2).get(0, 0, 65, 0), 4.0F) << "last token and a copy";
  EXPECT_EQ(pyramid.k(3).get(0, 0, 32, 0), 8.0F);
  EXPECT_EQ(pyramid.k(4).get(0, 0, 16, 0), 6.0F);
  EXPECT_EQ(pyramid.k(4).get(0, 0, 31, 0), 4.0F) << "a row of copies only, the last of its block";
}

}  // namespace
}  // namespace psa::testing
