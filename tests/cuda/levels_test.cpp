// SPDX-License-Identifier: Apache-2.0

// The level maps of the CUDA backend are bit-equal to the reference's, for the same importance
// (S-13 to S-18).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cuda/cuda_test.hpp"
#include "reference/backend.hpp"
#include "support/level_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

/// One problem on the device, whole and in chunks, and with the reference.
void expect_equal_levels(const Problem& problem, const std::vector<std::int32_t>& kv_lengths) {
  const core::Geometry g = problem.geometry();
  const StageRunner reference(reference::backend(), g);
  const StageRunner whole(cuda_backend(g), g);
  const StageRunner chunked(cuda_backend(g), g, {.chunk_q_blocks = 2});
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

class CudaLevels : public CudaCases {};

TEST_P(CudaLevels, AreThoseOfTheReference) {
  Problem problem = GetParam().problem;
  for (const Config& config : level_configs(problem.config)) {
    problem.config = config;
    expect_equal_levels(problem, GetParam().kv_lengths);
  }
}

TEST_P(CudaLevels, S24AreThoseOfTheReferenceWithADensityPerHead) {
  Problem problem = GetParam().problem;
  for (const Config& config : head_density_configs(problem.config, problem.shape.heads_q)) {
    problem.config = config;
    expect_equal_levels(problem, GetParam().kv_lengths);
  }
}

TEST_P(CudaLevels, S28AreThoseOfTheReferenceWithASharedBudget) {
  Problem problem = GetParam().problem;
  for (const Config& config : shared_budget_configs(problem.config, problem.shape.heads_q)) {
    problem.config = config;
    expect_equal_levels(problem, GetParam().kv_lengths);
  }
}

TEST_P(CudaLevels, AreThoseOfTheReferenceWithText) {
  Problem problem = GetParam().problem;
  problem.layout.text_tokens = std::min<index_t>(problem.shape.len_kv, 18);
  for (const TextSide side : {TextSide::kFront, TextSide::kBack}) {
    for (const LevelRule rule : {LevelRule::kQuota, LevelRule::kThreshold}) {
      problem.layout.text_side = side;
      problem.config.rule = rule;
      expect_equal_levels(problem, GetParam().kv_lengths);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(LongCausal, CudaLevels, ::testing::ValuesIn(long_causal_cases()),
                         case_name);
INSTANTIATE_TEST_SUITE_P(Cases, CudaLevels, ::testing::ValuesIn(half_cases()), case_name);

/// Rows of `num_kv_blocks` blocks, the last one ragged.
void expect_equal_long_rows(index_t num_kv_blocks, bool causal) {
  Problem problem;
  problem.shape = {.heads_q = 2,
                   .heads_kv = 1,
                   .len_q = 30,
                   .len_kv = num_kv_blocks * 16 - 3,
                   .head_dim = 8,
                   .dtype_q = DType::kBF16,
                   .dtype_kv = DType::kBF16,
                   .dtype_out = DType::kBF16};
  problem.layout.text_tokens = 100;
  problem.config.causal = causal;
  std::vector<Config> configs = level_configs(problem.config);
  std::ranges::copy(head_density_configs(problem.config, 2), std::back_inserter(configs));
  std::ranges::copy(shared_budget_configs(problem.config, 2), std::back_inserter(configs));
  for (const Config& config : configs) {
    problem.config = config;
    expect_equal_levels(problem, {static_cast<std::int32_t>(problem.shape.len_kv - 37)});
  }
}

class CudaLevelsOfRows : public CudaTest {};

TEST_F(CudaLevelsOfRows, OfOneWarp) {
  for (const index_t blocks : {31, 32, 33, 591, 1182, 3000, 4096}) {
    expect_equal_long_rows(blocks, false);
  }
  expect_equal_long_rows(1000, true);
}

TEST_F(CudaLevelsOfRows, OfOneCta) {
  expect_equal_long_rows(4097, false);
  expect_equal_long_rows(9000, true);
}

TEST_F(CudaLevelsOfRows, OfNoSharedMemory) { expect_equal_long_rows(30000, false); }

}  // namespace
}  // namespace psa::testing
