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
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

/// What the importance of a row can look like.
enum class Kind { kSpread, kTies, kZeros, kSpecial };

std::vector<float> random_importance(const core::Geometry& g, Kind kind, std::uint64_t seed) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const float special[] = {kNan, kInf, -kInf, -1.0F, 0.0F, -0.0F, 3.0e38F, 1.0e-40F, 1.0F};
  std::mt19937_64 generator(seed);
  std::lognormal_distribution<float> spread(0.0F, 3.0F);
  std::vector<float> importance(uniform_levels(g, 1).size());
  for (float& x : importance) {
    x = spread(generator);
    if (kind == Kind::kTies) x = std::floor(std::min(x, 4.0F));
    if (kind == Kind::kZeros) x = 0.0F;
    if (kind == Kind::kSpecial && generator() % 2 == 0) x = special[generator() % 9];
  }
  return importance;
}

std::vector<std::uint8_t> random_caps(const core::Geometry& g, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<std::uint8_t> caps(
      static_cast<std::size_t>(g.shape.batch * g.shape.heads_kv * g.num_kv_blocks));
  for (auto& cap : caps) cap = static_cast<std::uint8_t>(1 + generator() % 5);
  return caps;
}

/// Configurations that differ in the rule, in what is forced and in the rest.
std::vector<Config> level_configs(const Config& base) {
  std::vector<Config> configs;
  for (const LevelRule rule : {LevelRule::kQuota, LevelRule::kThreshold}) {
    Config config = base;
    config.rule = rule;
    configs.push_back(config);
    config.rest = Rest::kSkip;
    config.min_full_blocks = 3;
    config.sink_blocks = 1;
    config.budget = {0.0F, 0.2F, 0.2F, 0.9F, 1.0F};
    config.num_levels = 5;
    configs.push_back(config);
    config.num_levels = 1;
    config.min_full_blocks = 0;
    config.budget[0] = 0.37F;
    configs.push_back(config);
  }
  return configs;
}

/// One problem with the CPU backend, cut in chunks and spread over threads, and the reference.
void expect_equal_levels(const Problem& problem, const std::vector<std::int32_t>& kv_lengths) {
  const core::Geometry g = problem.geometry();
  const StageRunner reference(reference::backend(), g);
  const StageRunner whole(cpu::backend(), g);
  const StageRunner chunked(cpu::backend(), g, {.threads = 3, .chunk_q_blocks = 2});
  for (const Kind kind : {Kind::kSpread, Kind::kTies, Kind::kZeros, Kind::kSpecial}) {
    const auto importance = random_importance(g, kind, 11);
    for (const auto& caps : {std::vector<std::uint8_t>(), random_caps(g, 12)}) {
      SCOPED_TRACE(describe(problem) + ", kind " + std::to_string(static_cast<int>(kind)));
      const auto expected = reference.levels(kv_lengths, importance, caps);
      EXPECT_EQ(whole.levels(kv_lengths, importance, caps), expected);
      EXPECT_EQ(chunked.levels(kv_lengths, importance, caps), expected);
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

TEST_P(CpuLevels, AreThoseOfTheReferenceWithText) {
  Problem problem = GetParam().problem;
  problem.layout.text_tokens = std::min<index_t>(problem.shape.len_kv, 18);
  for (const TextSide side : {TextSide::kFront, TextSide::kBack}) {
    problem.layout.text_side = side;
    expect_equal_levels(problem, GetParam().kv_lengths);
  }
}

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
