// SPDX-License-Identifier: Apache-2.0

// The levels stage of the reference backend by hand and against a second model that knows nothing
// of src/semantics (S-13 to S-18).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <utility>

#include "reference/backend.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

using Codes = std::vector<LevelCode>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// ---- by hand ------------------------------------------------------------------------------------

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
                const std::vector<std::int32_t>& kv_lengths = {}) {
  return StageRunner(reference::backend(), problem.geometry()).levels(kv_lengths, importance, caps);
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

// ---- a second model -----------------------------------------------------------------------------

struct Block {
  bool candidate = false;
  bool forced = false;
  float importance = 0.0F;  // NaN allowed
};

/// Candidates, S-8, and forced blocks, S-18, from the positions themselves.
std::vector<Block> model_blocks(const Problem& problem, index_t n, index_t i) {
  const Config& config = problem.config;
  const ProblemShape& s = problem.shape;
  const index_t text = problem.layout.text_tokens;
  const bool front = problem.layout.text_side == TextSide::kFront;
  const auto is_text = [&](index_t p) { return front ? p < text : p >= s.len_kv - text; };
  const index_t first_row = i * config.block_q;
  const index_t end_row = std::min<index_t>(first_row + config.block_q, s.len_q);
  bool text_queries = false;
  for (index_t r = first_row; s.len_q == s.len_kv && r < end_row; ++r) {
    text_queries = text_queries || (config.text_queries_full && is_text(r));
  }
  std::vector<Block> blocks;
  for (index_t begin = 0; begin < s.len_kv; begin += config.block_kv) {
    Block block;
    bool all_visible = true;
    block.forced = text_queries || begin / config.block_kv < config.sink_blocks;
    for (index_t p = begin; p < std::min<index_t>(begin + config.block_kv, n); ++p) {
      block.forced = block.forced || (config.text_keys_full && is_text(p));
      for (index_t r = first_row; r < end_row; ++r) {
        const bool visible = !config.causal || p - n <= r - s.len_q;
        block.candidate = block.candidate || visible;
        all_visible = all_visible && visible;
      }
    }
    block.forced = block.forced || !all_visible;
    blocks.push_back(block);
  }
  return blocks;
}

/// S-14. `first`, `last`: candidates of the first query block that has any and of the last one.
double model_cut(double first, double last, index_t i, double share) {
  double count = share * (first + last) / 2.0;
  if (count > first) count = last - std::sqrt((1.0 - share) * (last * last - first * first));
  const double spread = std::fmod(0.5 + static_cast<double>(i) * 2654435769.0 / 4294967296.0, 1.0);
  return std::floor(count + (first == last ? 0.5 : spread));
}

/// Level of a candidate by how many candidates come before it and how much mass they have.
int model_level(const Config& config, const std::vector<double>& row_candidates, index_t i,
                const std::vector<Block>& blocks, std::size_t j) {
  const auto before = [&](std::size_t a, std::size_t b) {  // a ranks before b
    if (blocks[a].forced != blocks[b].forced) return blocks[a].forced;
    const bool nan_a = std::isnan(blocks[a].importance);
    const bool nan_b = std::isnan(blocks[b].importance);
    if (!blocks[a].forced && nan_a != nan_b) return nan_b;
    if (!blocks[a].forced && !nan_a && blocks[a].importance != blocks[b].importance) {
      return blocks[a].importance > blocks[b].importance;
    }
    return a < b;
  };
  float largest = 0.0F;
  for (const Block& block : blocks) {
    const float bounded = std::min(block.importance, std::numeric_limits<float>::max());
    if (block.candidate && bounded > largest) largest = bounded;
  }
  const auto mass_of = [&](const Block& block) {
    if (!(largest > 0.0F)) return 1.0;
    const float bounded = std::clamp(std::isnan(block.importance) ? 0.0F : block.importance, 0.0F,
                                     std::numeric_limits<float>::max());
    return std::floor(static_cast<double>(bounded / largest * 16777216.0F));
  };
  double rank = 0.0;
  double total = 0.0;
  double mass_before = 0.0;
  double forced = 0.0;
  for (std::size_t other = 0; other < blocks.size(); ++other) {
    if (!blocks[other].candidate) continue;
    total += mass_of(blocks[other]);
    forced += blocks[other].forced ? 1.0 : 0.0;
    if (!before(other, j)) continue;
    rank += 1.0;
    mass_before += mass_of(blocks[other]);
  }
  if (rank < forced || rank < static_cast<double>(config.min_full_blocks)) return 1;
  for (int level = 1; level <= config.num_levels; ++level) {
    const auto share = static_cast<double>(config.budget[static_cast<std::size_t>(level - 1)]);
    const bool inside =
        config.rule == LevelRule::kQuota
            ? rank < model_cut(row_candidates.front(), row_candidates.back(), i, share)
            : mass_before < share * total;
    if (inside) return level;
  }
  return config.rest == Rest::kMean ? 6 : 0;
}

/// Candidates of the query blocks that have any.
std::vector<double> model_row_candidates(const Problem& problem, index_t n) {
  std::vector<double> counts;
  for (index_t i = 0; i * problem.config.block_q < problem.shape.len_q; ++i) {
    const std::vector<Block> blocks = model_blocks(problem, n, i);
    const auto count = std::ranges::count_if(blocks, &Block::candidate);
    if (count > 0) counts.push_back(static_cast<double>(count));
  }
  return counts;
}

/// [B, Hq, Nq, Nk].
Codes model_levels(const Problem& problem, const std::vector<float>& importance,
                   const std::vector<std::uint8_t>& caps,
                   const std::vector<std::int32_t>& kv_lengths) {
  const core::Geometry g = problem.geometry();
  const ProblemShape& s = problem.shape;
  const auto num_kv_blocks = static_cast<std::size_t>(g.num_kv_blocks);
  Codes codes;
  for (index_t b = 0; b < s.batch; ++b) {
    const index_t n =
        kv_lengths.empty() ? s.len_kv : index_t{kv_lengths[static_cast<std::size_t>(b)]};
    const std::vector<double> row_candidates = model_row_candidates(problem, n);
    for (index_t h = 0; h < s.heads_q; ++h) {
      const index_t kv_head = b * s.heads_kv + h * s.heads_kv / s.heads_q;
      for (index_t i = 0; i < g.num_q_blocks; ++i) {
        std::vector<Block> blocks = model_blocks(problem, n, i);
        const std::size_t row = codes.size();
        for (std::size_t j = 0; j < num_kv_blocks; ++j) {
          if (!importance.empty()) blocks[j].importance = importance[row + j];
        }
        for (std::size_t j = 0; j < num_kv_blocks; ++j) {
          int code =
              blocks[j].candidate ? model_level(problem.config, row_candidates, i, blocks, j) : 0;
          const std::size_t cap = static_cast<std::size_t>(kv_head) * num_kv_blocks + j;
          if (!caps.empty() && code <= 5) code = std::min(code, int{caps[cap]});
          codes.push_back(static_cast<LevelCode>(code));
        }
      }
    }
  }
  return codes;
}

/// Importance of few distinct values, so that ties are common, with some NaN, zeros and infinities.
std::vector<float> coarse_importance(std::size_t size, std::mt19937_64& generator) {
  std::vector<float> importance(size);
  const std::uint64_t kind = generator() % 4;
  for (float& x : importance) {
    const std::uint64_t draw = generator();
    x = static_cast<float>(draw % 7) * 0.125F;
    if (kind == 1) x = static_cast<float>(draw % 100000) * 1e-5F;
    if (kind == 2 && draw % 11 == 0) x = kNan;
    if (kind == 3 && draw % 13 == 0) x = draw % 2 == 0 ? kInf : -1.0F;
  }
  return importance;
}

Problem random_rule(Problem problem, std::mt19937_64& generator) {
  Config& config = problem.config;
  config.rule = generator() % 2 == 0 ? LevelRule::kQuota : LevelRule::kThreshold;
  config.rest = generator() % 2 == 0 ? Rest::kSkip : Rest::kMean;
  config.num_levels = static_cast<std::int32_t>(1 + generator() % 5);
  for (float& share : config.budget) share = static_cast<float>(generator() % 21) * 0.05F;
  std::sort(config.budget.begin(), config.budget.end());
  config.min_full_blocks = static_cast<std::int32_t>(generator() % 3);
  config.sink_blocks = static_cast<std::int32_t>(generator() % 3);
  config.text_keys_full = generator() % 2 == 0;
  config.text_queries_full = generator() % 2 == 0;
  const auto len_kv = static_cast<std::uint64_t>(problem.shape.len_kv);
  problem.layout.text_tokens = static_cast<index_t>(generator() % (len_kv / 3 + 1));
  problem.layout.text_side = generator() % 2 == 0 ? TextSide::kFront : TextSide::kBack;
  return problem;
}

class ReferenceLevelsCases : public ::testing::TestWithParam<ProblemCase> {};

TEST_P(ReferenceLevelsCases, S13ToS18AgreeWithASecondModel) {
  std::mt19937_64 generator(31);
  for (int round = 0; round < 40; ++round) {
    const Problem problem = random_rule(GetParam().problem, generator);
    const core::Geometry g = problem.geometry();
    const auto& kv_lengths = GetParam().kv_lengths;
    std::vector<float> importance = coarse_importance(uniform_levels(g, 0).size(), generator);
    if (round % 8 == 7) importance.clear();
    std::vector<std::uint8_t> caps;
    if (round % 3 == 0) {
      caps.resize(static_cast<std::size_t>(g.shape.batch * g.shape.heads_kv * g.num_kv_blocks));
      for (std::uint8_t& cap : caps) cap = static_cast<std::uint8_t>(1 + generator() % 5);
    }
    ASSERT_EQ(StageRunner(reference::backend(), g).levels(kv_lengths, importance, caps),
              model_levels(problem, importance, caps, kv_lengths))
        << "round " << round;
  }
}

TEST_P(ReferenceLevelsCases, DoNotDependOnTheChunks) {
  std::mt19937_64 generator(32);
  const core::Geometry g = random_rule(GetParam().problem, generator).geometry();
  const auto importance = coarse_importance(uniform_levels(g, 0).size(), generator);
  const StageRunner whole(reference::backend(), g);
  const StageRunner rows(reference::backend(), g, {.chunk_q_blocks = 1});
  EXPECT_EQ(rows.levels(GetParam().kv_lengths, importance),
            whole.levels(GetParam().kv_lengths, importance));
}

TEST_P(ReferenceLevelsCases, S14QuotaCountsAreExact) {
  Problem problem = GetParam().problem;
  problem.config.causal = false;  // forced blocks would come on top
  problem.config.budget = {0.1F, 0.3F, 0.55F, 0.8F, 0.8F};
  problem.config.min_full_blocks = 0;
  const core::Geometry g = problem.geometry();
  std::mt19937_64 generator(33);
  const Codes codes = StageRunner(reference::backend(), g)
                          .levels({}, coarse_importance(uniform_levels(g, 0).size(), generator));
  const auto n = static_cast<double>(g.num_kv_blocks);
  for (auto row = codes.begin(); row != codes.end(); row += g.num_kv_blocks) {
    for (int level = 1; level <= 4; ++level) {
      const auto upto =
          static_cast<double>(problem.config.budget[static_cast<std::size_t>(level - 1)]);
      EXPECT_EQ(
          std::count_if(row, row + g.num_kv_blocks, [&](LevelCode code) { return code <= level; }),
          static_cast<index_t>(std::floor(n * upto + 0.5)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, ReferenceLevelsCases, ::testing::ValuesIn(problem_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace psa::testing
