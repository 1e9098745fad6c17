// SPDX-License-Identifier: Apache-2.0

// The levels stage of the reference backend where the query blocks of a head share its budget
// (S-28): by hand, and against a second model that knows nothing of src/semantics.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "reference/backend.hpp"
#include "support/level_cases.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

using Codes = std::vector<LevelCode>;

constexpr float kLargest = std::numeric_limits<float>::max();

/// Blocks of 16 on both sides, one level, no minimum.
Problem shared_problem(index_t q_blocks, index_t kv_blocks, float share, Rest rest) {
  Problem problem;
  problem.shape.len_q = 16 * q_blocks;
  problem.shape.len_kv = 16 * kv_blocks;
  problem.config.block_q = problem.config.block_kv = 16;
  problem.config.budget_scope = BudgetScope::kHead;
  problem.config.num_levels = 1;
  problem.config.budget[0] = share;
  problem.config.rest = rest;
  problem.config.min_full_blocks = 0;
  return problem;
}

Codes levels_of(const Problem& problem, const std::vector<float>& importance,
                const std::vector<std::int32_t>& kv_lengths = {}) {
  return StageRunner(reference::backend(), problem.geometry()).levels(kv_lengths, importance);
}

TEST(ReferenceHeadLevels, S28TheBestPairsOfTheHeadHaveTheBudget) {
  const Problem problem = shared_problem(2, 4, 0.5F, Rest::kSkip);
  EXPECT_EQ(levels_of(problem, {8, 7, 1, 6, 2, 3, 4, 5}), (Codes{1, 1, 0, 1, 0, 0, 0, 1}));
  EXPECT_EQ(levels_of(problem, {8, 7, 5, 6, 1, 2, 3, 4}), (Codes{1, 1, 1, 1, 0, 0, 0, 0}));
}

TEST(ReferenceHeadLevels, S28EveryRowHasItsFirstBlock) {
  Problem problem = shared_problem(2, 4, 0.5F, Rest::kSkip);
  problem.config.min_full_blocks = 1;
  EXPECT_EQ(levels_of(problem, {8, 7, 5, 6, 1, 2, 4, 4}), (Codes{1, 1, 0, 1, 0, 0, 1, 0}));
  problem.config.budget[0] = 0.0F;
  EXPECT_EQ(levels_of(problem, {8, 7, 5, 6, 1, 2, 3, 4}), (Codes{1, 0, 0, 0, 0, 0, 0, 1}));
}

TEST(ReferenceHeadLevels, S18ForcedBlocksComeFirstAndCountAgainstTheBudget) {
  Problem problem = shared_problem(2, 4, 0.5F, Rest::kMean);
  problem.config.sink_blocks = 1;
  problem.config.min_full_blocks = 1;  // which a forced block is
  EXPECT_EQ(levels_of(problem, {1, 8, 7, 6, 1, 2, 3, 4}), (Codes{1, 1, 1, 6, 1, 6, 6, 6}));
  problem.config.budget[0] = 0.1F;
  EXPECT_EQ(levels_of(problem, {1, 8, 7, 6, 1, 2, 3, 4}), (Codes{1, 6, 6, 6, 1, 6, 6, 6}));
}

TEST(ReferenceHeadLevels, S28LevelsFollowEachOther) {
  Problem problem = shared_problem(2, 4, 0.25F, Rest::kMean);
  problem.config.num_levels = 3;
  problem.config.budget = {0.25F, 0.5F, 0.875F, 1, 1};
  EXPECT_EQ(levels_of(problem, {128, 64, 32, 16, 8, 4, 2, 1}), (Codes{1, 1, 2, 2, 3, 3, 3, 6}));
}

TEST(ReferenceHeadLevels, S28MeansThatHoldNextToNothingPayForPairs) {
  // Two blocks and 30 means are 62 columns. Without means, three blocks are 48; with those of half
  // their importance and more, all 29 others would be read.
  Problem problem = shared_problem(2, 16, 0.0625F, Rest::kMean);
  std::vector<float> importance(32, 1.0F);
  importance[0] = importance[17] = 100.0F;
  importance[4] = 90.0F;
  EXPECT_EQ(std::ranges::count(levels_of(problem, importance), LevelCode{6}), 30);
  problem.config.rest_cutoff = 8.0F;
  const Codes codes = levels_of(problem, importance);
  EXPECT_EQ(std::ranges::count(codes, LevelCode{0}), 29);
  EXPECT_EQ((Codes{codes[0], codes[4], codes[17]}), (Codes{1, 1, 1}));
}

TEST(ReferenceHeadLevels, S28EqualPairsSpreadOverTheHead) {
  const Problem problem = shared_problem(40, 50, 0.15F, Rest::kMean);
  const Codes codes = levels_of(problem, std::vector<float>(2000, 0.02F));
  EXPECT_NEAR(static_cast<double>(std::ranges::count(codes, LevelCode{1})), 300.0, 3.0);
  for (auto row = codes.begin(); row != codes.end(); row += 50) {
    EXPECT_NEAR(static_cast<double>(std::count(row, row + 50, LevelCode{1})), 7.5, 2.5);
  }
}

TEST(ReferenceHeadLevels, S28NothingFiniteOrNotBreaksTheBudget) {
  const Problem problem = shared_problem(2, 4, 0.25F, Rest::kSkip);
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(levels_of(problem, {kNan, kInf, 1, 0, -1, 0, 2, -kInf}),
            (Codes{0, 1, 0, 0, 0, 0, 1, 0}));
}

// ---- a second model -----------------------------------------------------------------------------

struct ModelPair {
  bool must_have;
  float importance;  ///< cut down to five significant bits; 0 without information
  double fraction;
  LevelCode code;
};

/// The largest float of four fraction bits that is not above x.
float floor_to_class(float x) {
  if (!(x > 0.0F)) return 0.0F;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(std::min(x, kLargest)) & 0xFFF80000U);
}

/// How many pairs rank at `importance` or above.
double count_from(const std::vector<ModelPair>& pairs, float importance) {
  return static_cast<double>(std::ranges::count_if(
      pairs, [=](const ModelPair& p) { return p.must_have || p.importance >= importance; }));
}

/// Every importance that is a class, from the largest down.
std::vector<float> all_classes() {
  std::vector<float> classes;
  for (float x = floor_to_class(kLargest);; x = floor_to_class(std::nextafter(x, 0.0F))) {
    classes.push_back(x);
    if (x == 0.0F) return classes;
  }
}

/// Gives `level` to the `count` first pairs that have none.
void fill_level(std::vector<ModelPair>& pairs, double count, LevelCode level) {
  const auto give = [=](ModelPair& pair) {
    if (pair.code == 0) pair.code = level;
  };
  double reached = 0.0;
  for (ModelPair& pair : pairs) reached += pair.must_have ? 1.0 : 0.0;
  for (ModelPair& pair : pairs) {
    if (pair.must_have) give(pair);
  }
  for (const float own : all_classes()) {
    const auto is_of_class = [=](const ModelPair& p) {
      return !p.must_have && p.importance == own;
    };
    const auto in_class = static_cast<double>(std::ranges::count_if(pairs, is_of_class));
    const double share = in_class == 0.0 ? 1.0 : (count - reached) / in_class;
    for (ModelPair& pair : pairs) {
      if (is_of_class(pair) && (share >= 1.0 || pair.fraction < share)) give(pair);
    }
    if (share < 1.0) return;
    reached += in_class;
  }
}

void assign_model(const Config& config, std::vector<ModelPair>& pairs) {
  const auto all = static_cast<double>(pairs.size());
  const double must_have = static_cast<double>(
      std::ranges::count_if(pairs, [](const ModelPair& p) { return p.must_have; }));
  const auto quota = [&](int level) {
    const auto share = static_cast<double>(config.budget[static_cast<std::size_t>(level - 1)]);
    return std::max(std::floor(all * share), must_have);
  };
  const bool has_means = config.rest != Rest::kSkip;
  float least_mean = has_means ? 0.0F : std::numeric_limits<float>::infinity();
  double freed = 0.0;
  if (has_means && config.rest_cutoff > 0.0F) {
    const double block = config.block_kv;
    const double last = quota(config.num_levels);
    const double columns = block * last + (all - last);
    const std::vector<float> classes = all_classes();
    // From the least importance up: the first that all pairs from there on may be read with.
    double whole = must_have;
    double at_least = must_have;  // pairs of the class below it included
    double spent = 0.0;
    for (std::size_t c = classes.size() + 1; c-- > 0;) {
      const float last_class = classes[c > 0 ? c - 1 : 0];  // above the largest: forced pairs alone
      whole = c > 0 ? count_from(pairs, last_class) : must_have;
      const float least = last_class * (config.rest_cutoff / static_cast<float>(config.block_kv));
      const double read = count_from(pairs, least);
      spent = block * whole + (read - whole);
      least_mean = least;
      if (spent <= columns) {
        at_least = c < classes.size() ? count_from(pairs, classes[c]) : all;
        break;
      }
    }
    const double more = std::floor((columns - spent) / (block - 1.0));
    freed = std::max(last, std::min(whole + more, at_least)) - last;
  }
  for (int level = 1; level <= config.num_levels; ++level) {
    fill_level(pairs, std::min(quota(level) + freed, all), static_cast<LevelCode>(level));
  }
  for (ModelPair& pair : pairs) {
    if (pair.code == 0 && pair.importance >= least_mean) pair.code = 6;
  }
}

/// [B, Hq, Nq, Nk] of calls without text.
Codes model_levels(const Problem& problem, const std::vector<float>& importance,
                   const std::vector<std::int32_t>& kv_lengths) {
  const core::Geometry g = problem.geometry();
  const auto num_kv_blocks = static_cast<std::size_t>(g.num_kv_blocks);
  const auto num_q_blocks = static_cast<std::size_t>(g.num_q_blocks);
  Codes codes(importance.size(), 0);
  for (std::size_t head = 0; head < importance.size() / (num_q_blocks * num_kv_blocks); ++head) {
    const std::size_t b = head / static_cast<std::size_t>(g.shape.heads_q);
    const index_t n = kv_lengths.empty() ? g.shape.len_kv : index_t{kv_lengths[b]};
    const auto blocks = static_cast<std::size_t>((n + g.config.block_kv - 1) / g.config.block_kv);
    std::vector<ModelPair> pairs;
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < num_q_blocks && blocks > 0; ++i) {
      const std::size_t row = (head * num_q_blocks + i) * num_kv_blocks;
      const auto ranked = [&](std::size_t j) {
        const float own = importance[row + j];
        return std::isnan(own) ? -std::numeric_limits<float>::infinity() : own;
      };
      std::size_t first = 0;
      for (std::size_t j = 1; j < blocks; ++j) first = ranked(j) > ranked(first) ? j : first;
      const auto sinks = static_cast<std::size_t>(g.config.sink_blocks);
      for (std::size_t j = 0; j < blocks; ++j) {
        const bool is_first = sinks == 0 && g.config.min_full_blocks == 1 && j == first;
        const double turns = static_cast<double>(i * num_kv_blocks + j) * 2654435769.0;
        pairs.push_back({j < sinks || is_first, floor_to_class(importance[row + j]),
                         std::fmod(turns, 4294967296.0) / 4294967296.0, 0});
        places.push_back(row + j);
      }
    }
    assign_model(g.config, pairs);
    for (std::size_t p = 0; p < pairs.size(); ++p) codes[places[p]] = pairs[p].code;
  }
  return codes;
}

Problem random_rule(Problem problem, std::mt19937_64& generator) {
  Config& config = problem.config;
  config.causal = false;
  config.budget_scope = BudgetScope::kHead;
  config.rest = generator() % 4 == 0 ? Rest::kSkip : Rest::kMean;
  config.rest_cutoff = static_cast<float>(generator() % 4) * 1.3F;
  config.num_levels = static_cast<std::int32_t>(1 + generator() % 5);
  for (float& share : config.budget) share = static_cast<float>(generator() % 17) * 0.0625F;
  std::sort(config.budget.begin(), config.budget.end());
  config.min_full_blocks = static_cast<std::int32_t>(generator() % 2);
  config.sink_blocks = static_cast<std::int32_t>(generator() % 3);
  return problem;
}

class ReferenceHeadLevelsCases : public ::testing::TestWithParam<ProblemCase> {};

TEST_P(ReferenceHeadLevelsCases, S28AgreesWithASecondModel) {
  std::mt19937_64 generator(34);
  for (const ImportanceKind kind : kImportanceKinds) {
    const Problem problem = random_rule(GetParam().problem, generator);
    const core::Geometry g = problem.geometry();
    const auto importance = random_importance(g, kind, generator());
    ASSERT_EQ(StageRunner(reference::backend(), g).levels(GetParam().kv_lengths, importance),
              model_levels(problem, importance, GetParam().kv_lengths))
        << "kind " << static_cast<int>(kind);
  }
}

INSTANTIATE_TEST_SUITE_P(, ReferenceHeadLevelsCases, ::testing::ValuesIn(problem_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace psa::testing
