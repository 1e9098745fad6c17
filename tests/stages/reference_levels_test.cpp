// SPDX-License-Identifier: Apache-2.0

// The levels stage of the reference backend by hand (S-13 to S-18, S-26).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <utility>

#include "reference/backend.hpp"
#include "support/level_cases.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

using Codes = std::vector<LevelCode>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

/// One query block and `blocks` KV blocks of 16; rest = skip, no minimum.
Problem row_problem(index_t blocks, LevelRule rule, const std::array<float, 5>& budget) {
  Problem problem;
  problem.shape.len_q = 16;
  problem.shape.len_kv = 16 * blocks;
  problem.config.rule = rule;
  problem.config.budget = budget;
  problem.config.rest = Rest::kSkip;
  problem.config.min_full_blocks = 0;
  return problem;
}

Codes levels_of(const Problem& problem, const std::vector<float>& importance,
                const std::vector<std::uint8_t>& caps = {},
                const std::vector<std::int32_t>& kv_lengths = {},
                const std::vector<float>& weights = {}) {
  return StageRunner(reference::backend(), problem.geometry())
      .levels(kv_lengths, importance, caps, weights);
}

constexpr std::array<float, 5> kQuarters{0.25F, 0.5F, 0.75F, 1.0F, 1.0F};

TEST(ReferenceLevels, S14RankedBlocksFillTheLevelsInTurn) {
  const Problem problem = row_problem(8, LevelRule::kQuota, kQuarters);
  EXPECT_EQ(levels_of(problem, {8, 7, 6, 5, 4, 3, 2, 1}), (Codes{1, 1, 2, 2, 3, 3, 4, 4}));
  EXPECT_EQ(levels_of(problem, {1, 8, 2, 7, 3, 6, 4, 5}), (Codes{4, 1, 4, 1, 3, 2, 3, 2}));
}

TEST(ReferenceLevels, S13TiesGoToTheLowerBlock) {
  const Problem problem = row_problem(8, LevelRule::kQuota, kQuarters);
  EXPECT_EQ(levels_of(problem, std::vector<float>(8, 3.0F)), (Codes{1, 1, 2, 2, 3, 3, 4, 4}));
  EXPECT_EQ(levels_of(problem, {}), (Codes{1, 1, 2, 2, 3, 3, 4, 4})) << "no importance: all equal";
}

TEST(ReferenceLevels, S13NanRanksLast) {
  const Problem problem = row_problem(8, LevelRule::kQuota, kQuarters);
  EXPECT_EQ(levels_of(problem, {kNan, 0, kNan, 1, kInf, 0, 2, 3}), (Codes{4, 3, 4, 2, 1, 3, 2, 1}));
}

TEST(ReferenceLevels, S14HalvesRoundUp) {
  // 5 blocks: 0.5 -> 2.5 -> 3.
  const Problem problem = row_problem(5, LevelRule::kQuota, {0.5F, 0.5F, 0.5F, 0.5F, 0.5F});
  EXPECT_EQ(levels_of(problem, {}), (Codes{1, 1, 1, 0, 0}));
}

TEST(ReferenceLevels, S14EmptyLevelsAreLeftOut) {
  Problem problem = row_problem(4, LevelRule::kQuota, {0.25F, 0.25F, 0.25F, 0.5F, 0.75F});
  problem.config.num_levels = 5;
  EXPECT_EQ(levels_of(problem, {}), (Codes{1, 4, 5, 0}));
  problem.config.num_levels = 1;
  EXPECT_EQ(levels_of(problem, {}), (Codes{1, 0, 0, 0}));
}

TEST(ReferenceLevels, S24EachHeadHasTheBudgetOfItsDensity) {
  Problem problem = row_problem(8, LevelRule::kQuota, kQuarters);
  problem.shape.heads_q = problem.shape.heads_kv = 3;
  problem.config.head_density = {0.25F, 0.5F, 1.0F};
  // Shares .1375, .2125, .3125, .7125 (u = .25); .3204, .4951, .7282, 1 (u = .5825, where level 4
  // ends at 1); 1 for all. Of 8 blocks: 1, 2, 3, 6; 3, 4, 6, 8; 8.
  EXPECT_EQ(levels_of(problem, {}), (Codes{1, 2, 3, 4, 4, 4, 0, 0,  //
                                           1, 1, 1, 2, 3, 3, 4, 4,  //
                                           1, 1, 1, 1, 1, 1, 1, 1}));
}

TEST(ReferenceLevels, S15CutsFollowTheCumulativeShare) {
  // Shares 0.5, 0.25, 0.125, 0.125.
  const std::vector<float> importance{0.125F, 0.5F, 0.125F, 0.25F};
  EXPECT_EQ(
      levels_of(row_problem(4, LevelRule::kThreshold, {0.5F, 0.75F, 0.8F, 1.0F, 1.0F}), importance),
      (Codes{3, 1, 4, 2}))
      << "cuts 1, 2, 3 (crossing), 4";
  EXPECT_EQ(levels_of(row_problem(4, LevelRule::kThreshold, {0.51F, 0.51F, 0.51F, 0.9F, 1.0F}),
                      importance),
            (Codes{4, 1, 4, 1}));
  EXPECT_EQ(
      levels_of(row_problem(4, LevelRule::kThreshold, {0.0F, 0.1F, 0.1F, 0.1F, 1.0F}), importance),
      (Codes{0, 2, 0, 0}))
      << "a budget of 0 gives nothing, the crossing block is the first";
}

TEST(ReferenceLevels, S15WithoutImportanceSharesAreEqual) {
  const Problem problem = row_problem(4, LevelRule::kThreshold, {0.25F, 0.5F, 0.5F, 0.75F, 1.0F});
  const Codes expected{1, 2, 4, 0};
  EXPECT_EQ(levels_of(problem, {}), expected);
  EXPECT_EQ(levels_of(problem, {0, 0, 0, 0}), expected);
  EXPECT_EQ(levels_of(problem, {5, 5, 5, 5}), expected);
  EXPECT_EQ(levels_of(problem, {kNan, kNan, kNan, kNan}), expected);
}

TEST(ReferenceLevels, S15BlocksWithoutMassAreNotReadForTheSumToBeWhole) {
  const Problem problem = row_problem(4, LevelRule::kThreshold, {0.5F, 1.0F, 1.0F, 1.0F, 1.0F});
  EXPECT_EQ(levels_of(problem, {1, 0, 1, kNan}), (Codes{1, 0, 2, 0}));
}

TEST(ReferenceLevels, S16CapsRefineButDoNotFillOrSkip) {
  Problem problem = row_problem(8, LevelRule::kQuota, {0.25F, 0.5F, 0.75F, 0.875F, 1.0F});
  EXPECT_EQ(levels_of(problem, {}, {5, 1, 1, 2, 2, 3, 3, 1}), (Codes{1, 1, 1, 2, 2, 3, 3, 0}));
  problem.config.rest = Rest::kMean;
  EXPECT_EQ(levels_of(problem, {}, {1, 1, 1, 1, 1, 1, 1, 1}), (Codes{1, 1, 1, 1, 1, 1, 1, 6}));
}

TEST(ReferenceLevels, S16CapsBelongToTheKvHead) {
  Problem problem = row_problem(2, LevelRule::kQuota, {0.0F, 0.0F, 0.0F, 1.0F, 1.0F});
  problem.shape.heads_q = 4;
  problem.shape.heads_kv = 2;
  EXPECT_EQ(levels_of(problem, {}, {1, 2, 3, 5}), (Codes{1, 2, 1, 2, 3, 4, 3, 4}));
}

TEST(ReferenceLevels, S17WhatNoRuleSelectsIsTheRest) {
  Problem problem = row_problem(4, LevelRule::kQuota, {0.25F, 0.25F, 0.25F, 0.25F, 0.25F});
  EXPECT_EQ(levels_of(problem, {}), (Codes{1, 0, 0, 0}));
  problem.config.rest = Rest::kMean;
  EXPECT_EQ(levels_of(problem, {}), (Codes{1, 6, 6, 6}));
}

TEST(ReferenceLevels, S18TheMinimumOfFullBlocks) {
  Problem problem = row_problem(4, LevelRule::kQuota, {0.0F, 0.5F, 0.5F, 0.5F, 0.5F});
  problem.config.min_full_blocks = 1;
  EXPECT_EQ(levels_of(problem, {1, 2, 3, 4}), (Codes{0, 0, 2, 1}));
  problem.config.min_full_blocks = 9;
  EXPECT_EQ(levels_of(problem, {1, 2, 3, 4}), (Codes{1, 1, 1, 1}));
}

TEST(ReferenceLevels, S18SinkBlocksCountAgainstTheBudget) {
  Problem problem = row_problem(4, LevelRule::kQuota, {0.5F, 0.75F, 0.75F, 0.75F, 0.75F});
  problem.config.sink_blocks = 1;
  EXPECT_EQ(levels_of(problem, {0, 2, 3, 4}), (Codes{1, 0, 2, 1}));
  problem.config.sink_blocks = 3;
  EXPECT_EQ(levels_of(problem, {0, 2, 3, 4}), (Codes{1, 1, 1, 0})) << "more than the budget";
}

TEST(ReferenceLevels, S18TextKeysAreReadInFull) {
  Problem problem = row_problem(5, LevelRule::kQuota, {0.4F, 0.4F, 0.4F, 0.4F, 0.4F});
  problem.layout.text_tokens = 17;  // all of one block and a token of the next
  const std::vector<float> importance{0, 1, 2, 9, 3};
  EXPECT_EQ(levels_of(problem, importance), (Codes{1, 1, 0, 0, 0})) << "front";
  problem.layout.text_side = TextSide::kBack;
  EXPECT_EQ(levels_of(problem, importance), (Codes{0, 0, 0, 1, 1})) << "back";
  problem.config.text_keys_full = false;
  EXPECT_EQ(levels_of(problem, {9, 8, 2, 1, 0}), (Codes{1, 1, 0, 0, 0}));
}

TEST(ReferenceLevels, S18ATextBlockThatTheKeyLengthCutsOffIsNotForced) {
  Problem problem = row_problem(4, LevelRule::kQuota, {0.25F, 0.25F, 0.25F, 0.25F, 0.25F});
  problem.layout.text_tokens = 20;
  problem.layout.text_side = TextSide::kBack;
  EXPECT_EQ(levels_of(problem, {3, 9, 1, 2}, {}, {44}), (Codes{0, 1, 0, 0}))
      << "text begins at position 44";
  EXPECT_EQ(levels_of(problem, {3, 9, 1, 2}, {}, {45}), (Codes{0, 0, 1, 0}));
}

TEST(ReferenceLevels, S18TextQueriesReadEverything) {
  Problem problem = row_problem(3, LevelRule::kQuota, {0.0F, 0.0F, 0.0F, 0.0F, 0.0F});
  problem.shape.len_q = 48;
  problem.layout.text_tokens = 17;
  problem.config.text_keys_full = false;
  EXPECT_EQ(levels_of(problem, {}), (Codes{1, 1, 1, 1, 1, 1, 0, 0, 0}));
  problem.shape.len_q = 40;
  EXPECT_EQ(levels_of(problem, {}), (Codes(9, 0))) << "where q has its text is not known";
  problem.shape.len_q = 48;
  problem.config.text_queries_full = false;
  EXPECT_EQ(levels_of(problem, {}), (Codes(9, 0)));
}

TEST(ReferenceLevels, S19EveryOtherOrderPutsTextBehindTheVideo) {
  Problem problem = row_problem(4, LevelRule::kQuota, {0.0F, 0.0F, 0.0F, 0.0F, 0.0F});
  problem.shape.len_q = 64;
  problem.layout = {4, TextSide::kFront, {1, 6, 10}};
  problem.config.reorder = Reorder::kGilbert;
  EXPECT_EQ(levels_of(problem, {}), (Codes{0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1, 1}));
}

TEST(ReferenceLevels, S18CausalRowsForceTheDiagonalAndHideTheFuture) {
  Problem problem = row_problem(3, LevelRule::kQuota, {0.0F, 0.75F, 0.75F, 0.75F, 0.75F});
  problem.shape.len_q = 48;
  problem.config.causal = true;
  EXPECT_EQ(levels_of(problem, std::vector<float>(9, 1.0F)), (Codes{1, 0, 0,  //
                                                                    0, 1, 0,  //
                                                                    2, 0, 1}))
      << "3 - sqrt(.25 * 8) = 1.59: .12 and .74 more round down to one and two blocks, of which "
         "the "
         "diagonal is one";
}

/// What S-14 promises of a causal call, by its positions alone: every query block has the same
/// count at level 1, but for rounding, or all that it sees, and together they read the share `upto`
/// of the visible columns.
void expect_equal_counts(const Problem& problem, const Codes& codes, index_t kv_length,
                         double upto) {
  const ProblemShape& s = problem.shape;
  const auto tokens_of = [](index_t block, index_t size, index_t len) {
    return static_cast<double>(std::min(size, len - block * size));
  };
  double visible_area = 0.0;
  double area = 0.0;
  std::vector<std::pair<index_t, index_t>> rows;  // candidates, blocks at level 1
  auto code = codes.begin();
  for (index_t i = 0; i * problem.config.block_q < s.len_q; ++i) {
    const index_t end = std::min<index_t>((i + 1) * problem.config.block_q, s.len_q);
    const double height = tokens_of(i, problem.config.block_q, s.len_q);
    rows.emplace_back(0, 0);
    for (index_t j = 0; j * problem.config.block_kv < s.len_kv; ++j, ++code) {
      const index_t begin = j * problem.config.block_kv;
      if (begin >= kv_length || begin > end - 1 + kv_length - s.len_q) continue;
      const double columns = height * tokens_of(j, problem.config.block_kv, kv_length);
      visible_area += columns;
      area += *code == 1 ? columns : 0.0;
      rows.back().first += 1;
      rows.back().second += *code == 1 ? 1 : 0;
    }
  }
  index_t most = 0;
  for (const auto& [candidates, read] : rows) most = std::max(most, read);
  for (const auto& [candidates, read] : rows) {
    EXPECT_LE(std::min(candidates, most) - read, 1) << "of " << most;
  }
  EXPECT_NEAR(area, upto * visible_area, 0.005 * visible_area);
}

TEST(ReferenceLevels, S14CausalRowsReadTheShareInEqualCounts) {
  struct Sizes {
    index_t block_q, block_kv, len_q, len_kv, kv_length;
  };
  for (const Sizes& sizes : {Sizes{16, 16, 3200, 3200, 3200},  //
                             Sizes{16, 16, 3193, 3193, 3193},  // ragged
                             Sizes{32, 16, 3200, 3200, 3200},  // two more blocks from row to row
                             Sizes{16, 32, 6400, 6400, 6400},  // one more in two rows
                             Sizes{16, 16, 800, 3200, 3200},   // the last part of a long prompt
                             Sizes{16, 16, 3200, 4000, 3001},  // queries that see nothing
                             Sizes{128, 16, 90, 2400, 2400}}) {
    for (const float upto : {0.05F, 0.1F, 0.25F, 0.5F, 0.8F, 0.95F, 1.0F}) {
      SCOPED_TRACE(std::to_string(sizes.len_q) + " queries, " + std::to_string(sizes.kv_length) +
                   " keys, share " + std::to_string(upto));
      Problem problem;
      problem.shape.len_q = sizes.len_q;
      problem.shape.len_kv = sizes.len_kv;
      problem.config.block_q = static_cast<std::int32_t>(sizes.block_q);
      problem.config.block_kv = static_cast<std::int32_t>(sizes.block_kv);
      problem.config.causal = true;
      problem.config.num_levels = 1;
      problem.config.budget.fill(upto);
      const Codes codes = levels_of(problem, {}, {}, {static_cast<std::int32_t>(sizes.kv_length)});
      expect_equal_counts(problem, codes, sizes.kv_length, static_cast<double>(upto));
    }
  }
}

TEST(ReferenceLevels, S18AnOffsetDiagonalStraddlesTwoBlocks) {
  Problem problem = row_problem(4, LevelRule::kQuota, {0.0F, 0.0F, 0.0F, 0.0F, 0.0F});
  problem.shape.len_q = 16;
  problem.shape.len_kv = 56;  // queries at 40..55
  problem.config.causal = true;
  EXPECT_EQ(levels_of(problem, {}), (Codes{0, 0, 1, 1}));
}

TEST(ReferenceLevels, S1HiddenBlocksAreSkippedWhateverElseHolds) {
  Problem problem = row_problem(4, LevelRule::kQuota, {1.0F, 1.0F, 1.0F, 1.0F, 1.0F});
  problem.config.rest = Rest::kMean;
  problem.config.sink_blocks = 4;
  problem.config.min_full_blocks = 4;
  EXPECT_EQ(levels_of(problem, {1, 2, 3, 4}, {}, {17}), (Codes{1, 1, 0, 0}));
  EXPECT_EQ(levels_of(problem, {1, 2, 3, 4}, {}, {0}), (Codes{0, 0, 0, 0}));
}

TEST(ReferenceLevels, S26ReadsInFullWhatSkippedMeansWouldHaveCost) {
  Problem problem = row_problem(32, LevelRule::kQuota, {0.125F, 0.125F, 0.125F, 0.125F, 0.125F});
  problem.config.num_levels = 1;
  problem.config.rest = Rest::kMean;
  problem.config.rest_cutoff = 1.0F;
  std::vector<float> importance(32, 0.1F);
  std::fill_n(importance.begin(), 16, 1.0F);  // means from 8 / 16 on
  std::fill_n(importance.begin(), 4, 8.0F);
  Codes expected(32, 0);
  std::fill_n(expected.begin(), 16, kBlockMean);
  std::fill_n(expected.begin(), 5, LevelCode{1});  // 16 means of 1/16 are a block
  EXPECT_EQ(levels_of(problem, importance), expected);

  std::fill(importance.begin() + 4, importance.end(), 0.1F);  // no means: 28 of them
  std::fill(expected.begin() + 4, expected.end(), LevelCode{0});
  std::fill_n(expected.begin(), 6, LevelCode{1});
  EXPECT_EQ(levels_of(problem, importance), expected);
}

TEST(ReferenceLevels, S26GivesCausalRowsEqualCounts) {
  // Where no mean is left, as with the largest cutoff and importance that falls, every row reads
  // what it would without means.
  Problem problem = row_problem(64, LevelRule::kQuota, {});
  problem.shape.len_q = problem.shape.len_kv;
  problem.config.causal = true;
  problem.config.num_levels = 1;
  const core::Geometry g = problem.geometry();
  std::vector<float> importance;
  for (index_t i = 0; i < g.num_q_blocks; ++i) {
    for (index_t j = 0; j < g.num_kv_blocks; ++j) {
      importance.push_back(1.0F / static_cast<float>(1 + j));
    }
  }
  for (const float share : {0.0625F, 0.25F, 0.5F}) {
    problem.config.budget.fill(share);
    problem.config.rest = Rest::kMean;
    problem.config.rest_cutoff = static_cast<float>(problem.config.block_kv);
    const Codes with_cutoff = levels_of(problem, importance);
    problem.config.rest = Rest::kSkip;
    problem.config.rest_cutoff = 0.0F;
    const float whole = share + (1.0F - share) / static_cast<float>(problem.config.block_kv);
    problem.config.budget.fill(whole);
    EXPECT_EQ(with_cutoff, levels_of(problem, importance)) << share;
  }
}

TEST(ReferenceLevels, S26ReadsAllMeansWithoutInformation) {
  Problem problem = row_problem(8, LevelRule::kQuota, {0.25F, 0.25F, 0.25F, 0.25F, 0.25F});
  problem.config.num_levels = 1;
  problem.config.rest = Rest::kMean;
  problem.config.rest_cutoff = 16.0F;
  const Codes all{1, 1, 6, 6, 6, 6, 6, 6};
  EXPECT_EQ(levels_of(problem, {}), all);
  EXPECT_EQ(levels_of(problem, {-1, -2, -3, -4, -5, -6, -7, kNan}), all);
  problem.config.sink_blocks = 2;  // the only blocks with a level
  EXPECT_EQ(levels_of(problem, {9, 9, 0, 0, 0, 0, 0, 0}), all);
}

TEST(ReferenceLevels, S26HoldsMeansAgainstTheFirstBlockThatIsNotForced) {
  // Where only forced blocks have a level.
  Problem problem = row_problem(8, LevelRule::kQuota, {0.25F, 0.25F, 0.25F, 0.25F, 0.25F});
  problem.config.num_levels = 1;
  problem.config.rest = Rest::kMean;
  problem.config.rest_cutoff = 8.0F;  // half of its importance
  problem.config.sink_blocks = 2;
  EXPECT_EQ(levels_of(problem, {0, 0, 3, 8, 4, 2, kNan, 5}), (Codes{1, 1, 0, 6, 6, 0, 0, 6}));
  problem.config.sink_blocks = 8;
  EXPECT_EQ(levels_of(problem, {0, 0, 3, 8, 4, 2, kNan, 5}), Codes(8, 1));
}

TEST(ReferenceLevels, S26HoldsMeansAgainstImportanceThatIsNotWeighed) {
  Problem problem = row_problem(8, LevelRule::kQuota, {0.25F, 0.25F, 0.25F, 0.25F, 0.25F});
  problem.config.num_levels = 1;
  problem.config.rest = Rest::kMean;
  problem.config.rest_cutoff = 8.0F;  // half of the least importance in full, of 4
  const std::vector<float> weights{1, 5, 1, 1, 0, 1, 1, 9};
  EXPECT_EQ(levels_of(problem, {1, 4, 3, 1.5F, 8, 2, kNan, 6}, {}, {}, weights),
            (Codes{0, 1, 6, 0, 6, 6, 0, 1}));
  problem.config.sink_blocks = 2;  // no other has a level: half of the largest, of 8
  EXPECT_EQ(levels_of(problem, {0, 9, 4, 3, 8, 2, kNan, 6}, {}, {}, weights),
            (Codes{1, 1, 6, 0, 6, 0, 0, 6}));
}

TEST(ReferenceLevels, S26KeepsTheDensity) {
  Problem problem = row_problem(128, LevelRule::kQuota, {0.1F, 0.1F, 0.1F, 0.1F, 0.1F});
  problem.shape.len_q = 64 * problem.config.block_q;
  problem.config.num_levels = 1;
  problem.config.rest = Rest::kMean;
  const core::Geometry g = problem.geometry();
  const auto importance = random_importance(g, ImportanceKind::kSpread, 5);
  const auto density_with = [&](float cutoff) {
    problem.config.rest_cutoff = cutoff;
    double columns = 0.0;
    for (const LevelCode code : levels_of(problem, importance)) {
      columns += code == 1 ? 1.0 : code == kBlockMean ? 1.0 / problem.config.block_kv : 0.0;
    }
    return columns / (64.0 * 128.0);
  };
  const double all = density_with(0.0F);
  for (const float cutoff : {0.5F, 2.0F, 16.0F}) EXPECT_NEAR(density_with(cutoff), all, 5e-4);
}

}  // namespace
}  // namespace psa::testing
