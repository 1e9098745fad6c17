// SPDX-License-Identifier: Apache-2.0

// The attention stage of the reference backend against formulas written out independently
// (support/formulas.hpp), against dense attention written out here, and its properties (S-5 to
// S-8).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "reference/backend.hpp"
#include "support/compare.hpp"
#include "support/formulas.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

Values lse_values(const core::Geometry& g, const std::vector<float>& lse) {
  return values_of(Shape{g.shape.batch, g.shape.heads_q, g.shape.len_q, 1}, lse);
}

/// Soft-max attention of the textbook, in the caller's order of tokens.
AttentionValues dense_attention(const core::Geometry& g, QkvTensors& in) {
  const ProblemShape& s = g.shape;
  AttentionValues result{{{s.batch, s.heads_q, s.len_q, s.head_dim}, {}},
                         {{s.batch, s.heads_q, s.len_q, 1}, {}}};
  for (index_t b = 0; b < s.batch; ++b) {
    const index_t n = in.inputs().kv_length(b);
    for (index_t h = 0; h < s.heads_q; ++h) {
      const index_t kv_head = h * s.heads_kv / s.heads_q;
      for (index_t r = 0; r < s.len_q; ++r) {
        std::vector<double> sum(static_cast<std::size_t>(s.head_dim), 0.0);
        double total = 0.0;
        for (index_t key = 0; key < n; ++key) {
          if (g.config.causal && key - n > r - s.len_q) continue;
          double logit = 0.0;
          for (index_t c = 0; c < s.head_dim; ++c) {
            logit += static_cast<double>(in.q.get(b, h, r, c)) *
                     static_cast<double>(in.k.get(b, kv_head, key, c));
          }
          const double p = std::exp(logit * static_cast<double>(g.scale));
          total += p;
          for (index_t c = 0; c < s.head_dim; ++c) {
            sum[static_cast<std::size_t>(c)] +=
                p * static_cast<double>(in.v.get(b, kv_head, key, c));
          }
        }
        for (const double x : sum) result.out.data.push_back(total == 0.0 ? 0.0 : x / total);
        result.lse.data.push_back(std::log(total));
      }
    }
  }
  return result;
}

void expect_attention(const core::Geometry& g, const AttentionResult& actual,
                      const AttentionValues& exact, double tolerance = 2e-6) {
  const Values out = rounded_to(exact.out, g.shape.dtype_out);
  EXPECT_TRUE(is_close(values_of(actual.out), out, tolerance));
  EXPECT_TRUE(is_close(lse_values(g, actual.lse), exact.lse, 4e-6));
}

class ReferenceAttention : public ::testing::TestWithParam<ProblemCase> {};

TEST_P(ReferenceAttention, S6AnyLevelMapGivesOneSoftMaxOverAllLevels) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors in = GetParam().make_inputs(3);
  const StageRunner runner(reference::backend(), g);
  Pyramid pyramid = runner.pyramid(in.inputs());
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    const auto levels = random_levels(g, seed);
    expect_attention(g, runner.attention(in.inputs(), pyramid, levels),
                     exact_attention(g, in.inputs(), pyramid.levels(), levels));
  }
}

TEST_P(ReferenceAttention, S5EachLevelAlone) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors in = GetParam().make_inputs(4);
  const StageRunner runner(reference::backend(), g);
  Pyramid pyramid = runner.pyramid(in.inputs());
  for (LevelCode code = 1; code < kNumLevelCodes; ++code) {
    const auto levels = uniform_levels(g, code);
    expect_attention(g, runner.attention(in.inputs(), pyramid, levels),
                     exact_attention(g, in.inputs(), pyramid.levels(), levels));
  }
}

TEST_P(ReferenceAttention, S6LevelOneEverywhereIsDenseAttention) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors in = GetParam().make_inputs(5);
  const StageRunner runner(reference::backend(), g);
  Pyramid pyramid(g);  // NaN: level 1 must not read it
  expect_attention(g, runner.attention(in.inputs(), pyramid, uniform_levels(g, 1)),
                   dense_attention(g, in));
}

/// Whether causal queries of block i see a part of KV block j only.
bool sees_part(const core::Geometry& g, index_t n, index_t i, index_t j) {
  const index_t last_key = std::min<index_t>((j + 1) * g.config.block_kv, n) - 1;
  return g.config.causal && last_key > i * g.config.block_q + n - g.shape.len_q;
}

/// Random levels from 1 on; level 1 where a pooled row could be hidden from one query and not from
/// another.
std::vector<LevelCode> lossless_levels(const core::Geometry& g, const core::Inputs& inputs) {
  std::vector<LevelCode> levels = random_levels(g, 7);
  for (std::size_t at = 0; at < levels.size(); ++at) {
    const auto flat = static_cast<index_t>(at);
    const index_t i = flat / g.num_kv_blocks % g.num_q_blocks;
    const index_t b = flat / g.num_kv_blocks / g.num_q_blocks / g.shape.heads_q;
    const bool part = sees_part(g, inputs.kv_length(b), i, flat % g.num_kv_blocks);
    levels[at] = part ? LevelCode{1} : std::max<LevelCode>(levels[at], 1);
  }
  return levels;
}

// With equal keys and equal values inside each block, means change nothing and weights count the
// tokens: any level map that skips nothing is dense attention, whatever the tails.
TEST_P(ReferenceAttention, S4S5ConstantBlocksGiveDenseAttentionAtAnyLevel) {
  ProblemCase constant = GetParam();
  constant.problem.shape.dtype_kv = DType::kF32;
  const core::Geometry g = constant.problem.geometry();
  QkvTensors in = constant.make_inputs(6);
  for (index_t b = 0; b < g.shape.batch; ++b) {
    for (index_t h = 0; h < g.shape.heads_kv; ++h) {
      const std::int32_t* order = in.inputs().kv_order.of(b, h);
      for (index_t w = 0; w < g.shape.len_kv; ++w) {
        const index_t first = w / g.config.block_kv * g.config.block_kv;
        const index_t token = order == nullptr ? w : order[w];
        const index_t source = order == nullptr ? first : order[first];
        for (index_t c = 0; c < g.shape.head_dim; ++c) {
          in.k.set(b, h, token, c, in.k.get(b, h, source, c));
          in.v.set(b, h, token, c, in.v.get(b, h, source, c));
        }
      }
    }
  }
  const StageRunner runner(reference::backend(), g);
  Pyramid pyramid = runner.pyramid(in.inputs());
  const auto levels = lossless_levels(g, in.inputs());
  expect_attention(g, runner.attention(in.inputs(), pyramid, levels), dense_attention(g, in), 1e-5);
}

TEST_P(ReferenceAttention, ValuesOfOneGiveOne) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors in = GetParam().make_inputs(8);
  in.v.fill(1.0F);
  const StageRunner runner(reference::backend(), g);
  Pyramid pyramid = runner.pyramid(in.inputs());
  const AttentionResult result = runner.attention(in.inputs(), pyramid, random_levels(g, 9));
  const Values out = values_of(result.out);
  for (std::size_t i = 0; i < out.data.size(); ++i) {
    const float lse = result.lse[i / static_cast<std::size_t>(g.shape.head_dim)];
    ASSERT_NEAR(out.data[i], std::isinf(lse) ? 0.0 : 1.0, 1e-6);
  }
}

TEST_P(ReferenceAttention, S7SkippingEverythingGivesZeroAndMinusInfinity) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors in = GetParam().make_inputs(10);
  Pyramid pyramid(g);
  const AttentionResult result =
      StageRunner(reference::backend(), g).attention(in.inputs(), pyramid, uniform_levels(g, 0));
  for (const double x : values_of(result.out).data) ASSERT_EQ(x, 0.0);
  for (const float x : result.lse) ASSERT_EQ(static_cast<double>(x), -kInf);
}

TEST_P(ReferenceAttention, LayoutOfTheOutputDoesNotMatter) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors in = GetParam().make_inputs(12);
  const StageRunner runner(reference::backend(), g);
  Pyramid pyramid = runner.pyramid(in.inputs());
  const auto levels = random_levels(g, 13);
  const AttentionResult plain = runner.attention(in.inputs(), pyramid, levels);
  for (const MemoryLayout layout : {MemoryLayout::kBlhd, MemoryLayout::kPadded}) {
    const StageRunner other(reference::backend(), g, {.out_layout = layout});
    const AttentionResult result = other.attention(in.inputs(), pyramid, levels);
    EXPECT_EQ(values_of(result.out).data, values_of(plain.out).data);
    EXPECT_EQ(result.lse, plain.lse);
  }
}

INSTANTIATE_TEST_SUITE_P(, ReferenceAttention, ::testing::ValuesIn(problem_cases()),
                         [](const auto& test) { return test.param.name; });

// ---- by hand ------------------------------------------------------------------------------------

/// One head of one channel: all queries 1, scale 1.
struct Line {
  Problem problem;
  QkvTensors in;
};

Line make_line(index_t len_q, const std::vector<float>& keys, const std::vector<float>& values,
               bool causal = false) {
  Problem problem;
  problem.shape.len_q = len_q;
  problem.shape.len_kv = static_cast<index_t>(keys.size());
  problem.shape.head_dim = 1;
  problem.config.causal = causal;
  problem.config.softmax_scale = 1.0F;
  QkvTensors in = random_qkv(problem, 1);
  in.q.fill(1.0F);
  for (std::size_t l = 0; l < keys.size(); ++l) {
    in.k.set(0, 0, static_cast<index_t>(l), 0, keys[l]);
    in.v.set(0, 0, static_cast<index_t>(l), 0, values[l]);
  }
  return {problem, std::move(in)};
}

AttentionResult run(Line& line, const std::vector<LevelCode>& levels) {
  const StageRunner runner(reference::backend(), line.problem.geometry());
  Pyramid pyramid = runner.pyramid(line.in.inputs());
  return runner.attention(line.in.inputs(), pyramid, levels);
}

TEST(ReferenceAttentionByHand, S5APooledRowCountsAsManyTimesAsItHasTokens) {
  // Four equal keys with values 1 2 3 6 (mean 3) in one pooled row, and one key of the same logit
  // with value 8 in a second block: (4 * 3 + 8) / 5 = 4.
  std::vector<float> keys(17, 0.0F);
  std::vector<float> values(17, 3.0F);
  values[16] = 20.0F;
  Line line = make_line(1, keys, values);
  const AttentionResult result = run(line, {5, 1});
  EXPECT_NEAR(result.out.get(0, 0, 0, 0), (16.0 * 3.0 + 20.0) / 17.0, 1e-6);
  EXPECT_NEAR(result.lse[0], std::log(17.0), 1e-6) << "biases included";
}

TEST(ReferenceAttentionByHand, S5TheWeightOfATailIsItsLength) {
  const float ln3 = std::log(3.0F);
  Line line = make_line(1, {ln3, ln3, ln3}, {1.0F, 2.0F, 6.0F});
  const AttentionResult result = run(line, {6});
  EXPECT_NEAR(result.out.get(0, 0, 0, 0), 3.0, 1e-6);
  EXPECT_NEAR(result.lse[0], std::log(9.0), 1e-6);
}

TEST(ReferenceAttentionByHand, S6LogitsOfAnySizeDoNotOverflow) {
  Line line = make_line(1, {-3000.0F, 3000.0F, 3000.0F}, {100.0F, 1.0F, 2.0F});
  const AttentionResult result = run(line, {1});
  EXPECT_NEAR(result.out.get(0, 0, 0, 0), 1.5, 1e-6);
  EXPECT_NEAR(result.lse[0], 3000.0 + std::log(2.0), 1e-3);
}

TEST(ReferenceAttentionByHand, S8QueriesAreAlignedToTheEndOfTheKeys) {
  // Keys of equal logit with values 0 1 2 3 4: query r sees keys up to r + 2, the mean is half.
  Line line = make_line(3, std::vector<float>(5, 0.0F), {0, 1, 2, 3, 4}, true);
  const AttentionResult result = run(line, {1});
  for (index_t r = 0; r < 3; ++r) {
    EXPECT_NEAR(result.out.get(0, 0, r, 0), (static_cast<double>(r) + 2.0) / 2.0, 1e-6);
  }
}

TEST(ReferenceAttentionByHand, S8QueriesBeforeTheFirstKeyAreEmpty) {
  Line line = make_line(5, std::vector<float>(2, 0.0F), {3, 5}, true);
  const AttentionResult result = run(line, {1});
  for (index_t r = 0; r < 3; ++r) {
    EXPECT_EQ(result.out.get(0, 0, r, 0), 0.0F);
    EXPECT_EQ(static_cast<double>(result.lse[static_cast<std::size_t>(r)]), -kInf);
  }
  EXPECT_EQ(result.out.get(0, 0, 3, 0), 3.0F);
  EXPECT_EQ(result.out.get(0, 0, 4, 0), 4.0F);
}

TEST(ReferenceAttentionByHand, S8APooledRowIsVisibleFromItsLastPositionOn) {
  // Factor 2, values 0 2 4 6 8 (pairs 1, 5, then 8 alone). Query r sees the pairs that end by r.
  Line line = make_line(5, std::vector<float>(5, 0.0F), {0, 2, 4, 6, 8}, true);
  const AttentionResult result = run(line, {2});
  EXPECT_EQ(static_cast<double>(result.lse[0]), -kInf);
  EXPECT_EQ(result.out.get(0, 0, 1, 0), 1.0F);
  EXPECT_EQ(result.out.get(0, 0, 2, 0), 1.0F) << "the pair 2, 3 straddles";
  EXPECT_EQ(result.out.get(0, 0, 3, 0), 3.0F);
  EXPECT_NEAR(result.out.get(0, 0, 4, 0), (2.0 * 1.0 + 2.0 * 5.0 + 8.0) / 5.0, 1e-6)
      << "the short tail row ends at its last real position";
}

TEST(ReferenceAttentionByHand, S1KeysBehindTheKeyLengthDoNotExist) {
  Line line = make_line(1, std::vector<float>(20, 0.0F), std::vector<float>(20, 5.0F));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (index_t l = 18; l < 20; ++l) {
    line.in.k.set(0, 0, l, 0, nan);
    line.in.v.set(0, 0, l, 0, nan);
  }
  line.in.kv_lengths = {18};
  for (LevelCode code = 1; code < kNumLevelCodes; ++code) {
    const AttentionResult result = run(line, {code, code});
    EXPECT_NEAR(result.out.get(0, 0, 0, 0), 5.0, 1e-6);
    EXPECT_NEAR(result.lse[0], std::log(18.0), 1e-6) << "level " << int{code};
  }
}

TEST(ReferenceAttentionByHand, NanInAValueReachesOnlyTheRowsThatReadIt) {
  Line line = make_line(20, std::vector<float>(40, 0.0F), std::vector<float>(40, 2.0F));
  line.in.v.set(0, 0, 20, 0, std::numeric_limits<float>::quiet_NaN());
  // Query block 0 skips the block of token 20, query block 1 reads it.
  const AttentionResult result = run(line, {1, 0, 1, 1, 2, 1});
  for (index_t r = 0; r < 20; ++r) {
    EXPECT_EQ(std::isnan(result.out.get(0, 0, r, 0)), r >= 16) << r;
  }
}

// ---- S-22(a) ------------------------------------------------------------------------------------

Problem official_problem(index_t len_q, index_t len_kv, bool causal) {
  Problem problem;
  problem.shape.len_q = len_q;
  problem.shape.len_kv = len_kv;
  problem.shape.head_dim = 4;
  problem.config.block_q = 128;
  problem.config.block_kv = 128;
  problem.config.causal = causal;
  problem.config.compat = Compat::kOfficial;
  problem.config.rest = Rest::kSkip;
  return problem;
}

TEST(ReferenceAttentionOfficial, S22PooledRowsOfTheTailHaveFullWeight) {
  for (const bool causal : {false, true}) {
    const Problem problem = official_problem(300, 300, causal);
    const core::Geometry g = problem.geometry();
    QkvTensors in = random_qkv(problem, 14);
    const StageRunner runner(reference::backend(), g);
    Pyramid pyramid = runner.pyramid(in.inputs());
    for (LevelCode code = 1; code <= 4; ++code) {
      const auto levels = uniform_levels(g, code);
      expect_attention(g, runner.attention(in.inputs(), pyramid, levels),
                       exact_attention(g, in.inputs(), pyramid.levels(), levels));
    }
  }
}

TEST(ReferenceAttentionOfficial, S22CopiesOfTheLastTokenCountByHand) {
  // 130 keys of logit 0; values 1, the last token 2. At level 4 the second block has 16 rows of
  // weight 8: one of (1 + 7 * 2) / 8, fifteen of 2.
  Problem problem = official_problem(1, 130, false);
  problem.shape.head_dim = 1;
  QkvTensors in = random_qkv(problem, 1);
  in.k.fill(0.0F);
  in.v.fill(1.0F);
  in.v.set(0, 0, 129, 0, 2.0F);
  const StageRunner runner(reference::backend(), problem.geometry());
  Pyramid pyramid = runner.pyramid(in.inputs());
  const AttentionResult result = runner.attention(in.inputs(), pyramid, {4, 4});
  EXPECT_NEAR(result.out.get(0, 0, 0, 0), (128.0 + 1.0 + 127.0 * 2.0) / 256.0, 1e-6);
  EXPECT_NEAR(result.lse[0], std::log(256.0), 1e-6);
}

TEST(ReferenceStages, DoNotModifyTheirInputs) {
  Problem problem;
  problem.shape.len_q = 40;
  QkvTensors in = random_qkv(problem, 15);
  const QkvTensors before = in;
  const core::Geometry g = problem.geometry();
  const StageRunner runner(reference::backend(), g);
  Pyramid pyramid = runner.pyramid(in.inputs());
  static_cast<void>(runner.importance(in.inputs(), pyramid));
  static_cast<void>(runner.attention(in.inputs(), pyramid, random_levels(g, 1)));
  EXPECT_TRUE(in.q.buffer().has_same_bytes(before.q.buffer()));
  EXPECT_TRUE(in.k.buffer().has_same_bytes(before.k.buffer()));
  EXPECT_TRUE(in.v.buffer().has_same_bytes(before.v.buffer()));
}

}  // namespace
}  // namespace psa::testing
