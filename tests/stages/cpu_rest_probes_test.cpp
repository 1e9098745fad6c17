// SPDX-License-Identifier: Apache-2.0

// The factors of the rest (S-25) on every instruction set of this machine: the budget of the
// attention stage, the same bits on any number of threads, and inputs that are not finite; and, of
// the reference too, which probes causal rows follow.

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "cpu/backend.hpp"
#include "reference/backend.hpp"
#include "semantics/rest_probes.hpp"
#include "stages/cpu_attention_checks.hpp"
#include "support/causal_probes.hpp"
#include "support/compare.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class CpuRestProbes : public ::testing::TestWithParam<ProblemCase> {};

TEST_P(CpuRestProbes, S25StaysInTheBudgetOfAttention) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors in = GetParam().make_inputs(95);
  Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(in.inputs());
  expect_close_attention(g, in.inputs(), pyramid, random_levels(g, 96));
  expect_close_attention(g, in.inputs(), pyramid, uniform_levels(g, kBlockMean));
}

TEST_P(CpuRestProbes, GivesTheSameBitsOnAnyNumberOfThreads) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors in = GetParam().make_inputs(97);
  Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(in.inputs());
  expect_same_bits_on_threads(g, in.inputs(), pyramid, random_levels(g, 98));
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuRestProbes, ::testing::ValuesIn(probed_cases()),
                         [](const auto& tested) { return tested.param.name; });

TEST(CausalRestProbes, S25RowsFollowProbesOfEarlierBlocksAlone) {
  expect_rows_to_follow_earlier_probes(reference::backend(), DType::kF32);
  for (const core::Backend& backend : cpu::all_backends()) {
    expect_rows_to_follow_earlier_probes(backend, DType::kF32);
  }
}

TEST(CausalRestProbes, BadKeysLeaveEarlierRowsAlone) {
  expect_bad_keys_to_leave_earlier_rows_alone(reference::backend(), DType::kF32);
  for (const core::Backend& backend : cpu::all_backends()) {
    expect_bad_keys_to_leave_earlier_rows_alone(backend, DType::kF32);
  }
}

constexpr index_t kQueries = 1152;  // 9 probes

/// Query blocks that read half of the KV blocks as means, and skip block 2 of 8.
struct HalfRead {
  Problem problem;
  QkvTensors in;

  explicit HalfRead(DType dtype) : problem(make_problem(dtype)), in(random_qkv(problem, 99)) {}

  static Problem make_problem(DType dtype) {
    Problem p;
    p.shape = {1, 1, 1, kQueries, 128, 16, dtype, dtype, DType::kF32};
    p.config.rest = Rest::kLinear;
    return p;
  }

  [[nodiscard]] Tensor out(const core::Backend& backend) {
    const core::Geometry g = problem.geometry();
    std::vector<LevelCode> levels = uniform_levels(g, 1);
    for (std::size_t j = 0; j < levels.size(); ++j) {
      if (j % 2 == 0) levels[j] = j % 8 == 2 ? kSkip : kBlockMean;
    }
    const StageRunner runner(backend, g);
    Pyramid pyramid = runner.pyramid(in.inputs());
    return runner.attention(in.inputs(), pyramid, levels).out;
  }
};

TEST(CpuRestProbesNan, InAProbeStaysInItsRow) {
  const index_t probe = semantics::probe_row(4, kQueries);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const core::Backend& backend : cpu::all_backends()) {
      for (const float bad : {kNan, kInf}) {
        HalfRead run(dtype);
        run.in.q.set(0, 0, probe, 3, bad);
        const Tensor out = run.out(backend);
        for (index_t r = 0; r < kQueries; ++r) {
          ASSERT_EQ(is_finite_row(out, r), r != probe) << backend.isa << " row " << r;
        }
      }
    }
  }
}

TEST(CpuRestProbesNan, InASkippedBlockLeavesAllRowsAlone) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const core::Backend& backend : cpu::all_backends()) {
      for (const bool is_key : {true, false}) {
        HalfRead run(dtype);
        (is_key ? run.in.k : run.in.v).set(0, 0, 40, 2, kNan);
        const Tensor out = run.out(backend);
        for (index_t r = 0; r < kQueries; ++r) {
          ASSERT_TRUE(is_finite_row(out, r)) << backend.isa << " row " << r;
        }
      }
    }
  }
}

// Their products overflow, which leaves the masses of S-23 alone.
TEST(CpuRestProbesNan, NeverComesFromFiniteNumbers) {
  for (const core::Backend& backend : cpu::all_backends()) {
    for (const float magnitude : {1e-38F, 1e10F, 1e19F, 1e25F, 3e37F}) {
      HalfRead run(DType::kF32);
      for (index_t l = 0; l < 128; ++l) {
        run.in.k.set(0, 0, l, l % 16, l % 2 == 0 ? magnitude : -magnitude);
        run.in.v.set(0, 0, l, l % 16, l % 3 == 0 ? magnitude : -magnitude);
      }
      const Tensor out = run.out(backend);
      for (index_t r = 0; r < kQueries; ++r) {
        ASSERT_TRUE(is_finite_row(out, r)) << backend.isa << " row " << r << " " << magnitude;
      }
    }
  }
}

}  // namespace
}  // namespace psa::testing
