// SPDX-License-Identifier: Apache-2.0

// The factors of the rest in the reference backend (S-25): against the formula of
// support/formulas.hpp, what they are for, and what they must leave alone.

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <utility>

#include "reference/backend.hpp"
#include "semantics/rest_probes.hpp"
#include "support/compare.hpp"
#include "support/formulas.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

AttentionResult run(const core::Geometry& g, QkvTensors& in, const std::vector<LevelCode>& levels) {
  const StageRunner runner(reference::backend(), g);
  Pyramid pyramid = runner.pyramid(in.inputs());
  return runner.attention(in.inputs(), pyramid, levels);
}

class ReferenceRestProbes : public ::testing::TestWithParam<ProblemCase> {};

TEST_P(ReferenceRestProbes, S25IsTheFormulaOnAnyLevelMap) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors in = GetParam().make_inputs(91);
  Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(in.inputs());
  for (const auto& levels : {random_levels(g, 92), uniform_levels(g, kBlockMean)}) {
    const AttentionResult got = run(g, in, levels);
    const AttentionValues exact = exact_attention(g, in.inputs(), pyramid.levels(), levels);
    EXPECT_TRUE(is_close(values_of(got.out), rounded_to(exact.out, g.shape.dtype_out), 2e-6));
    const ProblemShape& s = g.shape;
    EXPECT_TRUE(is_close(values_of({s.batch, s.heads_q, s.len_q, 1}, got.lse), exact.lse, 2e-6));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, ReferenceRestProbes, ::testing::ValuesIn(probed_cases()),
                         [](const auto& tested) { return tested.param.name; });

constexpr index_t kQueries = 1152;  // 9 probes
constexpr index_t kKeys = 256;

/// What the keys of a block have as logits besides small noise, [16].
using Logits = std::array<float, 16>;
constexpr Logits kFlat{};
constexpr Logits kOneFarBelow{-12};  // masses of S-23 are far too large
constexpr Logits kTwoGroups{6, -6, 6, -6, 6, -6, 6, -6, 6, -6, 6, -6, 6, -6, 6, -6};  // too small

/// Every second block of 16 keys is read as its mean.
struct HalfRead {
  Problem problem;
  QkvTensors in;
  std::vector<LevelCode> levels;

  HalfRead(index_t len_q, const Logits& logits)
      : problem(make_problem(len_q)), in(random_qkv(problem, 93)), levels(make_levels(problem)) {
    const Tensor most = random_qkv(make_problem(kQueries), 93).q;
    for (index_t r = 0; r < len_q; ++r) {
      for (index_t c = 0; c < 16; ++c) in.q.set(0, 0, r, c, most.get(0, 0, r, c) / 4);
      in.q.set(0, 0, r, 0, 1);
    }
    const QkvTensors keys = random_qkv(make_problem(kQueries), 94);
    for (index_t l = 0; l < kKeys; ++l) {
      for (index_t c = 0; c < 16; ++c) {
        in.k.set(0, 0, l, c, keys.k.get(0, 0, l, c));
        in.v.set(0, 0, l, c, keys.v.get(0, 0, l / 16 * 16, c) + keys.v.get(0, 0, l, c) / 16);
      }
      in.k.set(0, 0, l, 0,
               l / 16 % 2 == 1 ? 4 * logits.at(static_cast<std::size_t>(l % 16)) : 0.0F);
    }
  }

  static Problem make_problem(index_t len_q) {
    Problem p;
    p.shape = {1, 1, 1, len_q, kKeys, 16};
    p.config.rest = Rest::kLinear;
    return p;
  }
  static std::vector<LevelCode> make_levels(const Problem& p) {
    std::vector<LevelCode> levels = uniform_levels(p.geometry(), 1);
    for (std::size_t j = 1; j < levels.size(); j += 2) levels[j] = kBlockMean;
    return levels;
  }

  /// Squared error of the first `rows` rows against dense attention.
  [[nodiscard]] double error(index_t rows) {
    const core::Geometry g = problem.geometry();
    const Tensor dense = run(g, in, uniform_levels(g, 1)).out;
    const Tensor out = run(g, in, levels).out;
    double sum = 0;
    for (index_t r = 0; r < rows; ++r) {
      for (index_t c = 0; c < 16; ++c) {
        const double error = out.get(0, 0, r, c) - dense.get(0, 0, r, c);
        sum += error * error;
      }
    }
    return sum;
  }
};

// A call of fewer rows has no probes, and reads the same rows with the masses of S-23.
TEST(ReferenceRestProbesError, S25IsFarSmallerWhereMassesAreWrong) {
  constexpr index_t kUnprobed = 1008;
  static_assert(semantics::probe_count(kUnprobed) == 0);
  const auto errors = [](const Logits& logits) {
    return std::pair(HalfRead(kUnprobed, logits).error(kUnprobed),
                     HalfRead(kQueries, logits).error(kUnprobed));
  };
  for (const Logits& logits : {kOneFarBelow, kTwoGroups}) {
    const auto [unprobed, probed] = errors(logits);
    EXPECT_LT(1.5 * probed, unprobed) << logits[0];
  }
  const auto [unprobed, probed] = errors(kFlat);  // nothing to mend: 9 rows mislead a little
  EXPECT_LT(probed, 1.2 * unprobed);
}

TEST(ReferenceRestProbesNan, InAProbeStaysInItsRow) {
  HalfRead input(kQueries, kFlat);
  const index_t probe = semantics::probe_row(4, kQueries);
  input.in.q.set(0, 0, probe, 3, kNan);
  const Tensor out = run(input.problem.geometry(), input.in, input.levels).out;
  for (index_t r = 0; r < kQueries; ++r) EXPECT_EQ(is_finite_row(out, r), r != probe) << r;
}

// Probes meet all keys, also those of blocks that no query reads.
TEST(ReferenceRestProbesNan, InASkippedBlockLeavesAllRowsAlone) {
  HalfRead input(kQueries, kFlat);
  for (std::size_t row = 0; row < input.levels.size(); row += kKeys / 16) {
    input.levels[row + 3] = kSkip;
  }
  for (const bool is_key : {true, false}) {
    (is_key ? input.in.k : input.in.v).set(0, 0, 50, 2, kNan);
    const Tensor out = run(input.problem.geometry(), input.in, input.levels).out;
    for (index_t r = 0; r < kQueries; ++r) EXPECT_TRUE(is_finite_row(out, r)) << r;
  }
}

}  // namespace
}  // namespace psa::testing
