// SPDX-License-Identifier: Apache-2.0

// The importance stage of the reference backend against formulas written out independently
// (support/formulas.hpp), against masses of dense attention, and by hand (S-9 to S-13).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "reference/backend.hpp"
#include "support/compare.hpp"
#include "support/formulas.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

struct Estimator {
  const char* name;
  Importance importance;
  std::int32_t tokens;  // samples per block, stride or sub-block
};

constexpr Estimator kEstimators[] = {{"SampledMax", Importance::kSampledMax, 5},
                                     {"SampledMass", Importance::kSampledMass, 5},
                                     {"Antidiagonal4", Importance::kAntidiagonal, 4},
                                     {"Antidiagonal8", Importance::kAntidiagonal, 8},
                                     {"Antidiagonal16", Importance::kAntidiagonal, 16},
                                     {"PooledLse8", Importance::kPooledLse, 8},
                                     {"PooledLse16", Importance::kPooledLse, 16}};

Problem with_estimator(Problem problem, const Estimator& estimator) {
  problem.config.importance = estimator.importance;
  problem.config.seed = 99;
  switch (estimator.importance) {
    case Importance::kAntidiagonal:
      problem.config.antidiagonal_stride = estimator.tokens;
      break;
    case Importance::kPooledLse:
      problem.config.pooled_tokens = estimator.tokens;
      break;
    default:
      problem.config.samples_q = estimator.tokens;
      problem.config.samples_kv = estimator.tokens + 2;
  }
  return problem;
}

Shape map_shape(const core::Geometry& g) {
  return {g.shape.batch, g.shape.heads_q, g.num_q_blocks, g.num_kv_blocks};
}

class ReferenceImportance : public ::testing::TestWithParam<std::tuple<ProblemCase, Estimator>> {
 protected:
  [[nodiscard]] core::Geometry geometry() const {
    return with_estimator(std::get<0>(GetParam()).problem, std::get<1>(GetParam())).geometry();
  }
  [[nodiscard]] QkvTensors make_inputs(std::uint64_t seed) const {
    return std::get<0>(GetParam()).make_inputs(seed);
  }
};

TEST_P(ReferenceImportance, S9ToS12FollowTheFormulas) {
  const core::Geometry g = geometry();
  QkvTensors in = make_inputs(21);
  const StageRunner runner(reference::backend(), g);
  Pyramid pyramid = runner.pyramid(in.inputs());
  const Values actual = values_of(map_shape(g), runner.importance(in.inputs(), pyramid));
  EXPECT_TRUE(is_close(actual, exact_importance(g, in.inputs(), pyramid.levels()), 1e-6));
}

TEST_P(ReferenceImportance, DoesNotDependOnTheChunks) {
  const core::Geometry g = geometry();
  QkvTensors in = make_inputs(22);
  const StageRunner whole(reference::backend(), g);
  const StageRunner rows(reference::backend(), g, {.chunk_q_blocks = 1});
  const StageRunner pairs(reference::backend(), g, {.chunk_q_blocks = 2});
  Pyramid pyramid = whole.pyramid(in.inputs());
  const std::vector<float> expected = whole.importance(in.inputs(), pyramid);
  EXPECT_EQ(rows.importance(in.inputs(), pyramid), expected);
  EXPECT_EQ(pairs.importance(in.inputs(), pyramid), expected);
}

TEST_P(ReferenceImportance, S9ToS12HiddenBlocksHaveNone) {
  const core::Geometry g = geometry();
  QkvTensors in = make_inputs(23);
  const StageRunner runner(reference::backend(), g);
  Pyramid pyramid = runner.pyramid(in.inputs());
  const std::vector<float> importance = runner.importance(in.inputs(), pyramid);
  for (std::size_t at = 0; at < importance.size(); ++at) {
    const auto flat = static_cast<index_t>(at);
    const index_t j = flat % g.num_kv_blocks;
    const index_t i = flat / g.num_kv_blocks % g.num_q_blocks;
    const index_t n =
        in.inputs().kv_length(flat / g.num_kv_blocks / g.num_q_blocks / g.shape.heads_q);
    const index_t last_query = std::min<index_t>((i + 1) * g.config.block_q, g.shape.len_q) - 1;
    const index_t first_key = j * g.config.block_kv;
    const bool hidden =
        first_key >= n || (g.config.causal && first_key > last_query + n - g.shape.len_q);
    if (hidden) {
      EXPECT_EQ(importance[at], 0.0F);
    }
    EXPECT_GE(importance[at], 0.0F);
    EXPECT_LE(importance[at], 1.0F + 1e-6F);
  }
}

INSTANTIATE_TEST_SUITE_P(, ReferenceImportance,
                         ::testing::Combine(::testing::ValuesIn(problem_cases()),
                                            ::testing::ValuesIn(kEstimators)),
                         [](const auto& test) {
                           return std::get<0>(test.param).name + std::get<1>(test.param).name;
                         });

// ---- against dense attention --------------------------------------------------------------------

/// Mean over the queries of a block of their soft-max mass in each KV block, without any estimate.
Values dense_mass(const core::Geometry& g, QkvTensors& in) {
  Values mass{map_shape(g), {}};
  const ProblemShape& s = g.shape;
  for (index_t i = 0; i < g.num_q_blocks; ++i) {
    std::vector<double> row(static_cast<std::size_t>(g.num_kv_blocks), 0.0);
    const index_t end = std::min<index_t>((i + 1) * g.config.block_q, s.len_q);
    for (index_t r = i * g.config.block_q; r < end; ++r) {
      std::vector<double> blocks(row.size(), 0.0);
      for (index_t key = 0; key < s.len_kv; ++key) {
        if (g.config.causal && key > r + s.len_kv - s.len_q) continue;
        double logit = 0.0;
        for (index_t c = 0; c < s.head_dim; ++c) {
          logit += static_cast<double>(in.q.get(0, 0, r, c)) *
                   static_cast<double>(in.k.get(0, 0, key, c));
        }
        blocks[static_cast<std::size_t>(key / g.config.block_kv)] +=
            std::exp(logit * static_cast<double>(g.scale));
      }
      const double total = std::accumulate(blocks.begin(), blocks.end(), 0.0);
      const auto rows = static_cast<double>(end - i * g.config.block_q);
      for (std::size_t j = 0; j < row.size(); ++j) row[j] += blocks[j] / total / rows;
    }
    mass.data.insert(mass.data.end(), row.begin(), row.end());
  }
  return mass;
}

Values importance_of(const core::Geometry& g, QkvTensors& in) {
  const StageRunner runner(reference::backend(), g);
  Pyramid pyramid = runner.pyramid(in.inputs());
  return values_of(map_shape(g), runner.importance(in.inputs(), pyramid));
}

TEST(ReferenceImportanceMass, S10AllSamplesGiveTheMassOfDenseAttention) {
  for (const bool causal : {false, true}) {
    Problem problem;
    problem.shape.len_q = 48;
    problem.shape.len_kv = 96;
    problem.config.causal = causal;
    problem.config.importance = Importance::kSampledMass;
    problem.config.samples_q = 16;
    problem.config.samples_kv = 16;
    const core::Geometry g = problem.geometry();
    QkvTensors in = random_qkv(problem, 24);
    EXPECT_TRUE(is_close(importance_of(g, in), dense_mass(g, in), 1e-6)) << causal;
  }
}

TEST(ReferenceImportanceMass, S11S12ConstantGroupsGiveTheMassOfDenseAttention) {
  for (const Importance importance : {Importance::kAntidiagonal, Importance::kPooledLse}) {
    Problem problem;
    problem.shape.len_q = 64;
    problem.shape.len_kv = 80;
    problem.config.importance = importance;
    problem.config.antidiagonal_stride = 8;
    problem.config.pooled_tokens = 8;
    const core::Geometry g = problem.geometry();
    QkvTensors in = random_qkv(problem, 25);
    for (Tensor* t : {&in.q, &in.k}) {
      for (index_t l = 0; l < t->shape()[2]; ++l) {
        for (index_t c = 0; c < g.shape.head_dim; ++c) {
          t->set(0, 0, l, c, t->get(0, 0, l / 8 * 8, c));
        }
      }
    }
    EXPECT_TRUE(is_close(importance_of(g, in), dense_mass(g, in), 1e-6));
  }
}

// Keys are constant in sub-blocks, with a ragged tail: the weights of S-5 make the mass exact.
TEST(ReferenceImportanceMass, S12TheTailWeighsItsRealTokens) {
  Problem problem;
  problem.shape.len_q = 16;
  problem.shape.len_kv = 37;
  problem.config.importance = Importance::kPooledLse;
  const core::Geometry g = problem.geometry();
  QkvTensors in = random_qkv(problem, 26);
  in.q.fill(0.5F);
  for (index_t l = 0; l < 37; ++l) {
    for (index_t c = 0; c < g.shape.head_dim; ++c) {
      in.k.set(0, 0, l, c, in.k.get(0, 0, l / 16 * 16, c));
    }
  }
  EXPECT_TRUE(is_close(importance_of(g, in), dense_mass(g, in), 1e-6));
}

// ---- by hand ------------------------------------------------------------------------------------

/// One head of one channel, all queries 1, scale 1.
QkvTensors line(Problem& problem, const std::vector<float>& keys) {
  problem.shape.len_kv = static_cast<index_t>(keys.size());
  problem.shape.head_dim = 1;
  problem.config.softmax_scale = 1.0F;
  QkvTensors in = random_qkv(problem, 1);
  in.q.fill(1.0F);
  for (std::size_t l = 0; l < keys.size(); ++l) {
    in.k.set(0, 0, static_cast<index_t>(l), 0, keys[l]);
  }
  return in;
}

Problem line_problem(Importance importance, index_t len_q) {
  Problem problem;
  problem.shape.len_q = len_q;
  problem.config.importance = importance;
  return problem;
}

void expect_row(const Values& importance, const std::vector<double>& expected) {
  ASSERT_GE(importance.data.size(), expected.size());
  for (std::size_t j = 0; j < expected.size(); ++j) {
    EXPECT_NEAR(importance.data[j], expected[j], 1e-6) << j;
  }
}

TEST(ReferenceImportanceByHand, S9IsTheRatioOfPeaks) {
  Problem problem = line_problem(Importance::kSampledMax, 16);
  problem.config.samples_kv = 16;
  std::vector<float> keys(48, -9.0F);
  keys[3] = 1.0F;
  keys[20] = 2.0F;
  keys[40] = 0.0F;
  QkvTensors in = line(problem, keys);
  expect_row(importance_of(problem.geometry(), in), {std::exp(-1.0), 1.0, std::exp(-2.0)});
}

TEST(ReferenceImportanceByHand, S9TakesTheBestOfTheSampledQueries) {
  Problem problem = line_problem(Importance::kSampledMax, 16);
  problem.config.samples_q = 16;
  problem.config.samples_kv = 16;
  std::vector<float> keys(32, 0.0F);
  std::fill(keys.begin() + 16, keys.end(), 3.0F);
  QkvTensors in = line(problem, keys);
  expect_row(importance_of(problem.geometry(), in), {std::exp(-3.0), 1.0});
  in.q.set(0, 0, 7, 0, -1.0F);  // prefers the first block
  expect_row(importance_of(problem.geometry(), in), {1.0, 1.0});
}

TEST(ReferenceImportanceByHand, S10AShortBlockWeighsItsRealTokens) {
  // Equal logits: each block's share is its number of tokens, though all have the same samples.
  Problem problem = line_problem(Importance::kSampledMass, 16);
  QkvTensors in = line(problem, std::vector<float>(36, 0.5F));
  expect_row(importance_of(problem.geometry(), in), {16.0 / 36.0, 16.0 / 36.0, 4.0 / 36.0});
}

TEST(ReferenceImportanceByHand, S11SumsTheAntidiagonal) {
  // Stride 4, one query group q = 1 2 3 4, three key groups in two blocks; the pair of key u is
  // query 3 - u, so key 0 meets 4 and key 3 meets 1.
  Problem problem = line_problem(Importance::kAntidiagonal, 4);
  problem.config.antidiagonal_stride = 4;
  std::vector<float> keys(20, -100.0F);
  const float first[] = {1, 0, 0, 0};   // 4 / 4
  const float second[] = {0, 0, 0, 1};  // 1 / 4
  const float third[] = {0, 1, 0, 0};   // 3 / 4
  std::copy(std::begin(first), std::end(first), keys.begin());
  std::copy(std::begin(second), std::end(second), keys.begin() + 4);
  std::copy(std::begin(third), std::end(third), keys.begin() + 16);
  QkvTensors in = line(problem, keys);
  for (index_t r = 0; r < 4; ++r) in.q.set(0, 0, r, 0, static_cast<float>(r + 1));
  const double a = std::exp(1.0);
  const double b = std::exp(0.25);
  const double c = std::exp(0.75);
  expect_row(importance_of(problem.geometry(), in), {(a + b) / (a + b + c), c / (a + b + c)});
}

TEST(ReferenceImportanceByHand, S11PositionsThatDoNotExistContributeNothing) {
  // Keys 4 and 5 of the second group exist: its sum is 2 / 4, not 4 / 4; the queries end at 2 of 4.
  Problem problem = line_problem(Importance::kAntidiagonal, 2);
  problem.config.antidiagonal_stride = 4;
  std::vector<float> keys(18, 1.0F);
  QkvTensors in = line(problem, keys);
  // Queries 0 and 1 meet keys u = 3 and u = 2: groups 0..3 have sum 2 / 4, the last group none.
  const double full = std::exp(0.5);
  expect_row(importance_of(problem.geometry(), in),
             {4 * full / (4 * full + 1.0), 1.0 / (4 * full + 1.0)});
}

TEST(ReferenceImportanceByHand, S11AGroupIsVisibleFromItsFirstPositionOn) {
  // Causal, equal logits: of queries 0..3 the last sees keys 0..3 and so one group of four; the
  // query group of block 0 at positions 12..15 sees four.
  Problem problem = line_problem(Importance::kAntidiagonal, 32);
  problem.config.antidiagonal_stride = 16;
  problem.config.causal = true;
  QkvTensors in = line(problem, std::vector<float>(32, 0.0F));
  expect_row(importance_of(problem.geometry(), in), {1.0, 0.0, 0.5, 0.5});
}

TEST(ReferenceImportanceByHand, S12ASubBlockIsVisibleFromItsLastPositionOn) {
  // Causal with 8 keys more than queries: the last of the first 8 queries stands at 15.
  Problem problem = line_problem(Importance::kPooledLse, 16);
  problem.config.pooled_tokens = 8;
  problem.config.causal = true;
  QkvTensors in = line(problem, std::vector<float>(24, 0.0F));
  // Sub-blocks 0..7, 8..15 | 16..23; the first query group sees two, the second all three.
  expect_row(importance_of(problem.geometry(), in),
             {(1.0 + 2.0 / 3.0) / 2.0, (0.0 + 1.0 / 3.0) / 2.0});
}

TEST(ReferenceImportanceByHand, S9ToS12QueriesThatSeeNothingAreLeftOut) {
  // 32 queries and 10 keys: queries before 22 stand before the first key.
  for (const Importance importance :
       {Importance::kSampledMax, Importance::kSampledMass, Importance::kAntidiagonal}) {
    Problem problem = line_problem(importance, 32);
    problem.config.samples_q = 16;
    problem.config.antidiagonal_stride = 4;
    problem.config.causal = true;
    QkvTensors in = line(problem, std::vector<float>(10, 0.0F));
    expect_row(importance_of(problem.geometry(), in), {0.0, 1.0});
  }
}

// ---- seeds --------------------------------------------------------------------------------------

TEST(ReferenceImportanceSeed, S9SameSeedSameImportanceOtherSeedOther) {
  Problem problem;
  problem.shape.len_q = 64;
  problem.shape.len_kv = 160;
  problem.config.importance = Importance::kSampledMax;
  QkvTensors in = random_qkv(problem, 27);
  const Values first = importance_of(problem.geometry(), in);
  EXPECT_EQ(importance_of(problem.geometry(), in).data, first.data);
  problem.config.seed = 1;
  EXPECT_NE(importance_of(problem.geometry(), in).data, first.data);
}

TEST(ReferenceImportanceSeed, S9EachHeadDrawsItsOwnSamples) {
  Problem problem;
  problem.shape.heads_q = 2;
  problem.shape.len_kv = 160;
  problem.config.importance = Importance::kSampledMax;
  QkvTensors in = random_qkv(problem, 28);
  for (index_t l = 0; l < 64; ++l) {
    for (index_t c = 0; c < 8; ++c) in.q.set(0, 1, l, c, in.q.get(0, 0, l, c));
  }
  const Values both = importance_of(problem.geometry(), in);
  const auto half = static_cast<std::ptrdiff_t>(both.data.size() / 2);
  EXPECT_FALSE(std::equal(both.data.begin(), both.data.begin() + half, both.data.begin() + half));
}

// ---- S-13 ---------------------------------------------------------------------------------------

Problem user_scores_problem() {
  Problem problem;
  problem.shape.heads_q = 4;
  problem.shape.heads_kv = 2;
  problem.shape.len_q = 16;
  problem.shape.len_kv = 48;
  problem.config.importance = Importance::kUserScores;
  return problem;
}

std::vector<float> stage_of_scores(const Problem& problem, const std::vector<float>& scores,
                                   const std::vector<std::int32_t>& kv_lengths = {}) {
  QkvTensors in = random_qkv(problem, 1);
  in.kv_lengths = kv_lengths;
  const core::Geometry g = problem.geometry();
  Pyramid pyramid(g);
  return StageRunner(reference::backend(), g).importance(in.inputs(), pyramid, scores);
}

TEST(ReferenceImportanceSharing, S13UserScoresAreTakenAsTheyAre) {
  const std::vector<float> scores{1, 2, 3, 4, 5, 6, -7, 8, 9, 10, 0, 12};
  EXPECT_EQ(stage_of_scores(user_scores_problem(), scores), scores);
}

TEST(ReferenceImportanceSharing, S13UserScoresOfMissingBlocksAreZero) {
  const std::vector<float> scores{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  EXPECT_EQ(stage_of_scores(user_scores_problem(), scores, {32}),
            (std::vector<float>{1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0}));
}

TEST(ReferenceImportanceSharing, S13GroupsGetTheMeanOfTheirNormalisedRows) {
  Problem problem = user_scores_problem();
  problem.config.share_group_map = true;
  const std::vector<float> shared = stage_of_scores(problem, {1, 1, 2, 0, 0, 8, 5, 0, 0, 0, 10, 0});
  EXPECT_EQ(shared, (std::vector<float>{0.125F, 0.125F, 0.75F, 0.125F, 0.125F, 0.75F,  //
                                        0.5F, 0.5F, 0.0F, 0.5F, 0.5F, 0.0F}));
}

TEST(ReferenceImportanceSharing, S13RowsWithoutAPositiveFiniteSumCountAsZero) {
  Problem problem = user_scores_problem();
  problem.config.share_group_map = true;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> shared =
      stage_of_scores(problem, {1, 1, 2, 0, nan, 8, 0, 0, 0, 0, inf, 0});
  EXPECT_EQ(shared, (std::vector<float>{0.125F, 0.125F, 0.25F, 0.125F, 0.125F, 0.25F,  //
                                        0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F}));
}

TEST(ReferenceImportanceSharing, S13EstimatesAreSharedToo) {
  Problem problem = user_scores_problem();
  problem.shape.len_kv = 100;
  problem.config.importance = Importance::kPooledLse;
  QkvTensors in = random_qkv(problem, 29);
  const Values alone = importance_of(problem.geometry(), in);
  problem.config.share_group_map = true;
  const Values shared = importance_of(problem.geometry(), in);
  const std::size_t row = 7;  // KV blocks; one query block
  for (std::size_t h = 0; h < 4; ++h) {
    for (std::size_t j = 0; j < row; ++j) {
      // Rows of pooled_lse sum to 1 already.
      const double mean =
          (alone.data[h / 2 * 2 * row + j] + alone.data[(h / 2 * 2 + 1) * row + j]) / 2.0;
      EXPECT_NEAR(shared.data[h * row + j], mean, 1e-6);
    }
  }
}

}  // namespace
}  // namespace psa::testing
