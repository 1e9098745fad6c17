// SPDX-License-Identifier: Apache-2.0

// Similarity caps of the CPU backend on every instruction set of this machine: those of the
// reference, except where a similarity lies within rounding of its threshold. The thresholds below
// are checked to keep clear of that.

#include <gtest/gtest.h>

#include "cpu/backend.hpp"
#include "reference/backend.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

/// Caps at thresholds moved by `shift`.
std::vector<std::uint8_t> caps_at(const core::Backend& backend, Problem problem,
                                  const core::Inputs& inputs, float shift) {
  for (float& cosine : *problem.config.similarity_cap) cosine += shift;
  return StageRunner(backend, problem.geometry(), {.threads = 2}).similarity(inputs);
}

class CpuSimilarity : public ::testing::TestWithParam<ProblemCase> {};

TEST_P(CpuSimilarity, CapsAreThoseOfTheReference) {
  Problem problem = GetParam().problem;
  problem.config.num_levels = 5;
  QkvTensors tensors = GetParam().make_inputs(61);
  int different = 0;
  for (const float base : {-0.3F, -0.1F, 0.03F, 0.2F, 0.6F}) {
    problem.config.similarity_cap = {base + 0.1F, base, base + 0.05F, base - 0.1F};
    const auto expected = caps_at(reference::backend(), problem, tensors.inputs(), 0.0F);
    // No similarity is so close to a threshold that rounding decides.
    ASSERT_EQ(caps_at(reference::backend(), problem, tensors.inputs(), 1e-5F), expected);
    ASSERT_EQ(caps_at(reference::backend(), problem, tensors.inputs(), -1e-5F), expected);
    for (const core::Backend& backend : cpu::all_backends()) {
      EXPECT_EQ(caps_at(backend, problem, tensors.inputs(), 0.0F), expected)
          << backend.isa << " threshold " << base;
    }
    for (const std::uint8_t cap : expected) different += cap != expected.front() ? 1 : 0;
  }
  if (problem.geometry().num_kv_blocks > 4) {
    EXPECT_GT(different, 0) << "nothing was decided";
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuSimilarity, ::testing::ValuesIn(problem_cases()),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace psa::testing
