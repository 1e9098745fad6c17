// SPDX-License-Identifier: Apache-2.0

// The first-order term of rest = linear in the reference backend (S-23): by hand, against the
// formula of support/formulas.hpp, and what it must leave alone.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "reference/backend.hpp"
#include "support/compare.hpp"
#include "support/formulas.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

AttentionResult run(const Problem& problem, QkvTensors& in, const std::vector<LevelCode>& levels) {
  const StageRunner runner(reference::backend(), problem.geometry());
  Pyramid pyramid = runner.pyramid(in.inputs());
  return runner.attention(in.inputs(), pyramid, levels);
}

/// One query and a few keys of one channel, logits at scale 1/2.
Problem scalar_problem(index_t len_q, index_t len_kv) {
  Problem problem;
  problem.shape = {1, 1, 1, len_q, len_kv, 1};
  problem.config.rest = Rest::kLinear;
  problem.config.softmax_scale = 0.5F;
  return problem;
}

void set(Tensor& tensor, const std::vector<float>& rows) {
  for (std::size_t r = 0; r < rows.size(); ++r) {
    tensor.set(0, 0, static_cast<index_t>(r), 0, rows[r]);
  }
}

TEST(ReferenceFirstOrder, S23TakesMassesToSecondOrderAndValuesToFirst) {
  const Problem problem = scalar_problem(1, 2);
  QkvTensors in = random_qkv(problem, 1);
  set(in.q, {2});
  set(in.k, {1, 3});
  set(in.v, {10, 30});
  const AttentionResult got = run(problem, in, {kBlockMean});
  // C = 10, v = 1/4 * 4 * 1, mass factor 3/2, M = 1/2 * 10 / (3/2).
  EXPECT_FLOAT_EQ(got.out.get(0, 0, 0, 0), 20 + 2 * 10 / 3.0F);
  EXPECT_FLOAT_EQ(got.lse[0], 0.5F * 2 * 2 + std::log(2 * 1.5F));
}

TEST(ReferenceFirstOrder, S23CountsAsMuchAsTheRestDoesInTheSoftMax) {
  const Problem problem = scalar_problem(1, 18);
  QkvTensors in = random_qkv(problem, 2);
  in.k.fill(0);
  in.v.fill(0);
  set(in.q, {2});
  set(in.k, {-1, 1});  // block 0 is the rest, block 1 the keys 16 and 17 of logit 0
  set(in.v, {-8, 8});
  const AttentionResult got = run(problem, in, {kBlockMean, 1});
  // C = 1, v = 1/4 * 4 * 1/8: the mass of the rest is 17 of 19, M = 1/2 * 16 * 1 / 17.
  EXPECT_NEAR(got.out.get(0, 0, 0, 0), 17.0 / 19 * 2 * 8 / 17, 1e-6);
}

TEST(ReferenceFirstOrder, S23RowsWithoutAFiniteLengthAreLeftOutOfTheMap) {
  const Problem problem = scalar_problem(3, 2);
  QkvTensors in = random_qkv(problem, 3);
  set(in.q, {2, kNan, 1e30F});
  set(in.k, {1, 3});
  set(in.v, {10, 30});
  const AttentionResult got = run(problem, in, {kBlockMean});
  EXPECT_FLOAT_EQ(got.out.get(0, 0, 0, 0), 20 + 2 * 10 / 3.0F);
  EXPECT_TRUE(std::isnan(got.out.get(0, 0, 1, 0)));
  EXPECT_FLOAT_EQ(got.out.get(0, 0, 2, 0), 1e31F / 3);
}

TEST(ReferenceFirstOrder, S23NothingIsAddedWhereNoRowQualifiesOrTheProductOverflows) {
  const Problem problem = scalar_problem(1, 2);
  QkvTensors in = random_qkv(problem, 4);
  set(in.k, {-1, 1});
  set(in.v, {-10, 30});
  set(in.q, {1e25F});
  EXPECT_FLOAT_EQ(run(problem, in, {kBlockMean}).out.get(0, 0, 0, 0), 10);
  Problem two_rows = scalar_problem(2, 2);
  QkvTensors wide = random_qkv(two_rows, 4);
  set(wide.k, {-1, 1});
  set(wide.v, {-1e5F, 3e5F});
  set(wide.q, {1, 3e38F});
  EXPECT_FLOAT_EQ(run(two_rows, wide, {kBlockMean}).out.get(0, 0, 1, 0), 1e5F);
}

TEST(ReferenceFirstOrder, S8S23ABlockThatStraddlesTheDiagonalGivesNoTerm) {
  Problem problem = scalar_problem(16, 32);
  problem.config.causal = true;  // block 0 is full, block 1 straddles
  QkvTensors in = random_qkv(problem, 5);
  const AttentionResult before = run(problem, in, {kBlockMean, kBlockMean});
  in.v.set(0, 0, 31, 0, 1000);
  const AttentionResult after = run(problem, in, {kBlockMean, kBlockMean});
  for (index_t r = 0; r < 15; ++r) EXPECT_EQ(before.out.get(0, 0, r, 0), after.out.get(0, 0, r, 0));
  EXPECT_NE(before.out.get(0, 0, 15, 0), after.out.get(0, 0, 15, 0));
}

TEST(ReferenceFirstOrder, S23AValueThatIsNotFiniteStaysInTheRowsThatReadItsBlock) {
  Problem problem = scalar_problem(32, 32);
  QkvTensors in = random_qkv(problem, 6);
  in.v.set(0, 0, 3, 0, kInf);  // block 0, read by query block 1
  const AttentionResult got = run(problem, in, {kSkip, kBlockMean, kBlockMean, kBlockMean});
  for (index_t r = 0; r < 32; ++r) {
    EXPECT_EQ(std::isfinite(got.out.get(0, 0, r, 0)), r < 16) << r;
  }
}

class ReferenceFirstOrderCases : public ::testing::TestWithParam<ProblemCase> {};

TEST_P(ReferenceFirstOrderCases, S23IsTheFormulaOnAnyLevelMap) {
  Problem problem = GetParam().problem;
  problem.config.rest = Rest::kLinear;
  const core::Geometry g = problem.geometry();
  QkvTensors in = GetParam().make_inputs(7);
  const StageRunner runner(reference::backend(), g);
  Pyramid pyramid = runner.pyramid(in.inputs());
  for (const auto& levels : {random_levels(g, 8), uniform_levels(g, kBlockMean)}) {
    const AttentionResult got = runner.attention(in.inputs(), pyramid, levels);
    const AttentionValues exact = exact_attention(g, in.inputs(), pyramid.levels(), levels);
    EXPECT_TRUE(is_close(values_of(got.out), rounded_to(exact.out, g.shape.dtype_out), 2e-6));
    const ProblemShape& s = g.shape;
    EXPECT_TRUE(is_close(values_of({s.batch, s.heads_q, s.len_q, 1}, got.lse), exact.lse, 2e-6));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, ReferenceFirstOrderCases, ::testing::ValuesIn(problem_cases()),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace psa::testing
