// SPDX-License-Identifier: Apache-2.0

// Importance of the CPU backend on every instruction set of this machine, each estimator.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "cpu/backend.hpp"
#include "reference/backend.hpp"
#include "support/compare.hpp"
#include "support/formulas.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

Values importance_values(const core::Geometry& g, const std::vector<float>& importance) {
  return values_of({g.shape.batch, g.shape.heads_q, g.num_q_blocks, g.num_kv_blocks}, importance);
}

/// Each estimator with each of its settings.
std::vector<Config> estimator_configs(const Config& base) {
  std::vector<Config> configs;
  for (const Importance importance : {Importance::kSampledMax, Importance::kSampledMass}) {
    Config config = base;
    config.importance = importance;
    config.seed = 99;
    configs.push_back(config);
    config.samples_q = 5;
    config.samples_kv = 3;
    configs.push_back(config);
    config.samples_q = config.block_q;
    config.samples_kv = config.block_kv;
    configs.push_back(config);
  }
  for (const std::int32_t stride : {4, 8, 16}) {
    Config config = base;
    config.importance = Importance::kAntidiagonal;
    config.antidiagonal_stride = stride;
    configs.push_back(config);
  }
  for (const std::int32_t tokens : {8, 16}) {
    Config config = base;
    config.importance = Importance::kPooledLse;
    config.pooled_tokens = tokens;
    configs.push_back(config);
  }
  return configs;
}

class CpuImportance : public ::testing::TestWithParam<ProblemCase> {};

TEST_P(CpuImportance, IsWithinBudget) {
  Problem problem = GetParam().problem;
  QkvTensors tensors = GetParam().make_inputs(71);
  for (const Config& config : estimator_configs(problem.config)) {
    problem.config = config;
    const core::Geometry g = problem.geometry();
    const core::Inputs inputs = tensors.inputs();
    Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(inputs);
    const Values exact = exact_importance(g, inputs, pyramid.levels());
    const Values plain = plain_importance(g, inputs, pyramid.levels());
    for (const core::Backend& backend : cpu::all_backends()) {
      SCOPED_TRACE(std::string(backend.isa) + ", estimator " +
                   std::to_string(static_cast<int>(config.importance)));
      const auto whole = StageRunner(backend, g).importance(inputs, pyramid);
      EXPECT_TRUE(is_within_budget(importance_values(g, whole), plain, exact, 2e-6));
      const auto chunked =
          StageRunner(backend, g, {.threads = 3, .chunk_q_blocks = 2}).importance(inputs, pyramid);
      EXPECT_TRUE(is_within_budget(importance_values(g, chunked), plain, exact, 2e-6));
    }
  }
}

TEST_P(CpuImportance, GivesTheSameBitsOnAnyNumberOfThreads) {
  Problem problem = GetParam().problem;
  QkvTensors tensors = GetParam().make_inputs(72);
  for (const Config& config : estimator_configs(problem.config)) {
    problem.config = config;
    const core::Geometry g = problem.geometry();
    Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(tensors.inputs());
    const auto one = StageRunner(cpu::backend(), g).importance(tensors.inputs(), pyramid);
    const auto four =
        StageRunner(cpu::backend(), g, {.threads = 4}).importance(tensors.inputs(), pyramid);
    EXPECT_EQ(std::memcmp(one.data(), four.data(), one.size() * sizeof(float)), 0);
  }
}

TEST_P(CpuImportance, IsSharedLikeThatOfTheReference) {
  Problem problem = GetParam().problem;
  problem.config.share_group_map = true;
  const core::Geometry g = problem.geometry();
  QkvTensors tensors = GetParam().make_inputs(73);
  const core::Inputs inputs = tensors.inputs();
  Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(inputs);
  const auto expected = StageRunner(reference::backend(), g).importance(inputs, pyramid);
  for (const core::Backend& backend : cpu::all_backends()) {
    const auto shared = StageRunner(backend, g, {.threads = 2}).importance(inputs, pyramid);
    EXPECT_TRUE(is_close(importance_values(g, shared), importance_values(g, expected), 1e-5))
        << backend.isa;
  }
}

TEST_P(CpuImportance, OfHiddenBlocksIsZeroInUserScores) {
  Problem problem = GetParam().problem;
  problem.config.importance = Importance::kUserScores;
  const core::Geometry g = problem.geometry();
  QkvTensors tensors = GetParam().make_inputs(74);
  Pyramid pyramid(g);
  const std::vector<float> scores(uniform_levels(g, 1).size(), 2.5F);
  const auto kept = StageRunner(cpu::backend(), g, {.threads = 2, .chunk_q_blocks = 2})
                        .importance(tensors.inputs(), pyramid, scores);
  std::size_t at = 0;
  for (index_t row = 0; row < g.shape.batch * g.shape.heads_q * g.num_q_blocks; ++row) {
    const index_t n = tensors.inputs().kv_length(row / g.num_q_blocks / g.shape.heads_q);
    const auto queries =
        semantics::block_range(row % g.num_q_blocks, g.config.block_q, g.shape.len_q);
    for (index_t j = 0; j < g.num_kv_blocks; ++j, ++at) {
      const index_t begin = j * g.config.block_kv;
      const bool hidden =
          begin >= n || (g.config.causal && begin > queries.end - 1 + n - g.shape.len_q);
      EXPECT_EQ(kept[at], hidden ? 0.0F : 2.5F) << "row " << row << " block " << j;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuImportance, ::testing::ValuesIn(problem_cases()),
                         [](const auto& tested) { return tested.param.name; });

TEST(CpuImportanceNan, InAQueryLeavesTheImportanceOfItsBlockToTheOthers) {
  Problem problem;
  problem.shape = {.len_q = 64, .len_kv = 96, .head_dim = 16};
  for (const Config& config : estimator_configs(problem.config)) {
    problem.config = config;
    const core::Geometry g = problem.geometry();
    QkvTensors tensors = random_qkv(problem, 75);
    tensors.q.set(0, 0, 20, 5, std::numeric_limits<float>::quiet_NaN());  // in query block 1
    Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(tensors.inputs());
    const auto expected =
        StageRunner(reference::backend(), g).importance(tensors.inputs(), pyramid);
    for (const core::Backend& backend : cpu::all_backends()) {
      const auto importance = StageRunner(backend, g).importance(tensors.inputs(), pyramid);
      EXPECT_TRUE(is_close(importance_values(g, importance), importance_values(g, expected), 1e-5))
          << backend.isa << " estimator " << static_cast<int>(config.importance);
      EXPECT_TRUE(std::none_of(importance.begin(), importance.end(),
                               [](float x) { return std::isnan(x); }));
    }
  }
}

}  // namespace
}  // namespace psa::testing
