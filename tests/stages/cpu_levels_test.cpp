// SPDX-License-Identifier: Apache-2.0

// The level maps of the CPU backend are bit-equal to the reference's, for the same importance.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpu/backend.hpp"
#include "reference/backend.hpp"
#include "support/level_cases.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

/// One problem with the CPU backend, cut in chunks and spread over threads, and the reference.
void expect_equal_levels(const Problem& problem, const std::vector<std::int32_t>& kv_lengths) {
  const core::Geometry g = problem.geometry();
  const StageRunner reference(reference::backend(), g);
  const StageRunner whole(cpu::backend(), g);
  const StageRunner chunked(cpu::backend(), g, {.threads = 3, .chunk_q_blocks = 2});
  for (const ImportanceKind kind : kImportanceKinds) {
    const auto importance = random_importance(g, kind, 11);
    for (const bool is_full : {false, true}) {
      const auto caps = is_full ? random_caps(g, 12) : std::vector<std::uint8_t>();
      const auto weights = is_full ? random_weights(g, 13) : std::vector<float>();
      SCOPED_TRACE(describe(problem) + ", kind " + std::to_string(static_cast<int>(kind)));
      const auto expected = reference.levels(kv_lengths, importance, caps, weights);
      EXPECT_EQ(whole.levels(kv_lengths, importance, caps, weights), expected);
      if (core::shares_budget(g.config)) continue;  // chunks are whole heads
      EXPECT_EQ(chunked.levels(kv_lengths, importance, caps, weights), expected);
    }
  }
  EXPECT_EQ(whole.levels(kv_lengths, {}), reference.levels(kv_lengths, {})) << describe(problem);
}

class CpuLevels : public ::testing::TestWithParam<ProblemCase> {};

TEST_P(CpuLevels, AreThoseOfTheReference) {
  Problem problem = GetParam().problem;
  for (const Config& config : level_configs(problem.config)) {
    problem.config = config;
    expect_equal_levels(problem, GetParam().kv_lengths);
  }
}

TEST_P(CpuLevels, S24AreThoseOfTheReferenceWithADensityPerHead) {
  Problem problem = GetParam().problem;
  for (const Config& config : head_density_configs(problem.config, problem.shape.heads_q)) {
    problem.config = config;
    expect_equal_levels(problem, GetParam().kv_lengths);
  }
}

TEST_P(CpuLevels, S28AreThoseOfTheReferenceWithASharedBudget) {
  Problem problem = GetParam().problem;
  for (const Config& config : shared_budget_configs(problem.config, problem.shape.heads_q)) {
    problem.config = config;
    expect_equal_levels(problem, GetParam().kv_lengths);
  }
}

TEST_P(CpuLevels, AreThoseOfTheReferenceWithText) {
  Problem problem = GetParam().problem;
  problem.layout.text_tokens = std::min<index_t>(problem.shape.len_kv, 18);
  for (const TextSide side : {TextSide::kFront, TextSide::kBack}) {
    problem.layout.text_side = side;
    expect_equal_levels(problem, GetParam().kv_lengths);
  }
}

INSTANTIATE_TEST_SUITE_P(LongCausal, CpuLevels, ::testing::ValuesIn(long_causal_cases()),
                         [](const auto& tested) { return tested.param.name; });
INSTANTIATE_TEST_SUITE_P(Cases, CpuLevels, ::testing::ValuesIn(problem_cases()),
                         [](const auto& tested) { return tested.param.name; });

TEST(CpuLevelsOfficial, AreThoseOfTheReference) {
  for (const bool causal : {false, true}) {
    for (const LevelRule rule : {LevelRule::kQuota, LevelRule::kThreshold}) {
      for (const std::array<float, 5>& budget :
           {std::array<float, 5>{0.1F, 0.15F, 0.15F, 0.35F, 0.35F},
            std::array<float, 5>{0.4F, 0.5F, 0.6F, 0.8F, 0.8F},
            std::array<float, 5>{0.0F, 0.3F, 0.3F, 1.0F, 1.0F}}) {
        Problem problem;
        problem.shape = {.heads_q = 2, .heads_kv = 1, .len_q = 1800, .len_kv = 2500, .head_dim = 4};
        problem.layout.text_tokens = 200;
        problem.config.block_q = 128;
        problem.config.block_kv = 128;
        problem.config.rule = rule;
        problem.config.budget = budget;
        problem.config.rest = Rest::kSkip;
        problem.config.compat = Compat::kOfficial;
        problem.config.causal = causal;
        expect_equal_levels(problem, {});
        expect_equal_levels(problem, {2100});
        problem.shape.len_q = problem.shape.len_kv = 1793;  // a last block of one token
        expect_equal_levels(problem, {});
      }
    }
  }
}

}  // namespace
}  // namespace psa::testing
