// SPDX-License-Identifier: Apache-2.0

// The levels stage of the reference backend with compat = official, by hand (S-22b to f).

#include <gtest/gtest.h>

#include <limits>

#include "reference/backend.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

using Codes = std::vector<LevelCode>;

/// `q_blocks` x `kv_blocks` blocks of 128.
Problem official_problem(index_t q_blocks, index_t kv_blocks, LevelRule rule,
                         const std::array<float, 5>& budget) {
  Problem problem;
  problem.shape.len_q = 128 * q_blocks;
  problem.shape.len_kv = 128 * kv_blocks;
  problem.config.block_q = 128;
  problem.config.block_kv = 128;
  problem.config.rule = rule;
  problem.config.budget = budget;
  problem.config.compat = Compat::kOfficial;
  problem.config.rest = Rest::kSkip;
  return problem;
}

Codes levels_of(const Problem& problem, const std::vector<float>& importance,
                const std::vector<std::uint8_t>& caps = {}) {
  return StageRunner(reference::backend(), problem.geometry()).levels({}, importance, caps);
}

/// n, n - 1, .., 1: block j has rank j.
std::vector<float> falling(std::size_t n) {
  std::vector<float> importance(n);
  for (std::size_t j = 0; j < n; ++j) importance[j] = static_cast<float>(n - j);
  return importance;
}

TEST(ReferenceOfficialLevels, S22QuotaIsTruncatedAndFactorEightRoundedToPairs) {
  // 12 blocks: cuts 1 (1.5), 3, 3, 6; the run of factor 8 is 3..6 and becomes 3..7.
  const Problem problem =
      official_problem(1, 12, LevelRule::kQuota, {0.125F, 0.25F, 0.25F, 0.5F, 0.5F});
  EXPECT_EQ(levels_of(problem, falling(12)), (Codes{1, 2, 2, 4, 4, 4, 4, 0, 0, 0, 0, 0}));
}

TEST(ReferenceOfficialLevels, S22AnOddRunAtTheEndLosesItsLastBlock) {
  // 6 blocks: cuts 3 and 6; the run of 3 would end behind the row, so it is cut to 2.
  const Problem problem = official_problem(1, 6, LevelRule::kQuota, {0.5F, 0.5F, 0.5F, 1.0F, 1.0F});
  EXPECT_EQ(levels_of(problem, falling(6)), (Codes{1, 1, 1, 4, 4, 0}));
}

TEST(ReferenceOfficialLevels, S22QuotaHasNoMinimumOfFullBlocks) {
  Problem problem = official_problem(1, 4, LevelRule::kQuota, {0.2F, 0.5F, 0.5F, 0.5F, 0.5F});
  problem.config.min_full_blocks = 1;
  EXPECT_EQ(levels_of(problem, falling(4)), (Codes{2, 2, 0, 0})) << "0.8 is truncated to 0";
}

TEST(ReferenceOfficialLevels, S22ThresholdTakesTheCrossingBlockUnlessItIsTheFirst) {
  // Shares 0.5, 0.25, 0.125, 0.0625, 0.0625; cumulative 0.5, 0.75, 0.875, 0.9375, 1.
  const std::vector<float> importance{8, 4, 2, 1, 1};
  EXPECT_EQ(levels_of(official_problem(1, 5, LevelRule::kThreshold, {0.5F, 0.8F, 0.9F, 1, 1}),
                      importance),
            (Codes{1, 1, 2, 3, 0}))
      << "cuts 2, 3, 4, then a single last block of factor 8 is left over";
  EXPECT_EQ(levels_of(official_problem(1, 5, LevelRule::kThreshold, {0.4F, 0.4F, 0.6F, 0.8F, 1}),
                      importance),
            (Codes{1, 3, 4, 4, 0}))
      << "level 1 from the six per cent, level 2 empty, the run of factor 8 rounded up";
}

TEST(ReferenceOfficialLevels, S22ThresholdReadsSixPerCentAndOneInFull) {
  std::vector<float> importance(40, 0.001F);
  importance[7] = 100.0F;
  const Codes codes = levels_of(
      official_problem(1, 40, LevelRule::kThreshold, {0.5F, 0.5F, 0.5F, 0.5F, 0.5F}), importance);
  // floor(0.06 * 40) + 1 = 3: block 7, then ties by index.
  EXPECT_EQ(std::count(codes.begin(), codes.end(), LevelCode{1}), 3);
  EXPECT_EQ(codes[7], 1);
  EXPECT_EQ(codes[0], 1);
  EXPECT_EQ(codes[1], 1);
}

TEST(ReferenceOfficialLevels, S22CausalQuotaIsAFloorWithoutAlignment) {
  // Last row: 4 visible blocks; cuts 1, 2, 2, 3: rank 2 alone has factor 8. Diagonal and block 0
  // are overwritten with level 1.
  Problem problem = official_problem(4, 4, LevelRule::kQuota, {0.25F, 0.5F, 0.5F, 0.75F, 1});
  problem.config.causal = true;
  std::vector<float> importance(16, 0.0F);
  const float last_row[] = {1, 4, 2, 3};
  std::copy(std::begin(last_row), std::end(last_row), importance.begin() + 12);
  const Codes codes = levels_of(problem, importance);
  EXPECT_EQ(Codes(codes.begin(), codes.begin() + 4), (Codes{1, 0, 0, 0}));
  EXPECT_EQ(Codes(codes.begin() + 12, codes.end()), (Codes{1, 1, 4, 1}));
}

TEST(ReferenceOfficialLevels, S22CausalBandsGiveTheCrossingBlockToTheCoarserLevel) {
  // Last row, shares by rank 0.5, 0.25, 0.125, 0.125 for blocks 1, 2, 0, 3.
  Problem problem = official_problem(4, 4, LevelRule::kThreshold, {0.4F, 0.75F, 0.8F, 0.9F, 1});
  problem.config.causal = true;
  std::vector<float> importance(16, 0.0F);
  const float last_row[] = {1, 4, 2, 1};
  std::copy(std::begin(last_row), std::end(last_row), importance.begin() + 12);
  const Codes codes = levels_of(problem, importance);
  EXPECT_EQ(Codes(codes.begin() + 12, codes.end()), (Codes{1, 2, 2, 1}));
  problem.config.budget = {0.5F, 0.7F, 0.8F, 0.8F, 1};
  const Codes others = levels_of(problem, importance);
  EXPECT_EQ(Codes(others.begin() + 12, others.end()), (Codes{1, 1, 3, 1}))
      << "0.5 is in the first band, 0.75 in the third";
}

TEST(ReferenceOfficialLevels, S22ADiagonalBlockOfOneTokenIsLevelOne) {
  Problem problem = official_problem(3, 3, LevelRule::kQuota, {0, 0, 0, 0, 0});
  problem.shape.len_q = problem.shape.len_kv = 257;
  problem.config.causal = true;
  EXPECT_EQ(levels_of(problem, {}), (Codes{1, 0, 0,  //
                                           1, 1, 0,  //
                                           1, 0, 1}));
}

TEST(ReferenceOfficialLevels, S22ForcedBlocksDoNotCountAgainstTheBudget) {
  Problem problem = official_problem(1, 4, LevelRule::kQuota, {0.25F, 0.25F, 0.25F, 0.25F, 1});
  problem.config.sink_blocks = 2;
  EXPECT_EQ(levels_of(problem, {1, 2, 3, 4}), (Codes{1, 1, 0, 1}));
}

TEST(ReferenceOfficialLevels, S22TextIsTheLastBlocksOnEitherSide) {
  for (const TextSide side : {TextSide::kFront, TextSide::kBack}) {
    Problem problem = official_problem(4, 4, LevelRule::kQuota, {0, 0, 0, 0, 0});
    problem.layout.text_tokens = 129;
    problem.layout.text_side = side;
    EXPECT_EQ(levels_of(problem, {}), (Codes{0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1}));
    problem.config.text_keys_full = false;
    EXPECT_EQ(levels_of(problem, {}), Codes(16, 0)) << "text queries only in causal calls";
  }
}

TEST(ReferenceOfficialLevels, S22CausalTextQueriesReadEverythingTheySee) {
  Problem problem = official_problem(4, 4, LevelRule::kQuota, {0, 0, 0, 0, 0});
  problem.config.causal = true;
  problem.layout.text_tokens = 200;
  EXPECT_EQ(levels_of(problem, {}), (Codes{1, 0, 0, 0,  //
                                           1, 1, 0, 0,  //
                                           1, 1, 1, 0,  //
                                           1, 1, 1, 1}));
}

TEST(ReferenceOfficialLevels, S16CapsApplyToo) {
  const Problem problem = official_problem(1, 6, LevelRule::kQuota, {0.5F, 0.5F, 0.5F, 1.0F, 1.0F});
  EXPECT_EQ(levels_of(problem, falling(6), {4, 4, 4, 2, 3, 1}), (Codes{1, 1, 1, 2, 3, 0}));
}

TEST(ReferenceOfficialLevels, WithoutAPositiveImportanceNoShareIsReached) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Problem problem = official_problem(4, 4, LevelRule::kThreshold, {0.5F, 0.5F, 0.5F, 1, 1});
  problem.config.causal = true;
  for (const float x : {0.0F, nan}) {
    EXPECT_EQ(levels_of(problem, std::vector<float>(16, x)), (Codes{1, 0, 0, 0,  //
                                                                    1, 1, 0, 0,  //
                                                                    1, 0, 1, 0,  //
                                                                    1, 0, 0, 1}));
  }
}

}  // namespace
}  // namespace psa::testing
