// SPDX-License-Identifier: Apache-2.0

// Properties that hold for every backend without any tolerance tuned to it.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "core/presets.hpp"
#include "support/compare.hpp"
#include "support/plan_call.hpp"

namespace psa::testing {
namespace {

class EveryBackend : public ::testing::TestWithParam<core::PlanOptions> {};

INSTANTIATE_TEST_SUITE_P(Properties, EveryBackend, ::testing::ValuesIn(every_backend()),
                         [](const auto& test) {
                           return test.param.backend +
                                  (test.param.isa.empty() ? "" : "_" + test.param.isa);
                         });

/// A video of 5 x 6 x 7 tokens and 9 text tokens, three heads over one.
Problem small_video(Reorder reorder = Reorder::kGilbert) {
  Problem problem;
  problem.shape = {2, 3, 1, 219, 219, 24};
  problem.layout = {9, TextSide::kFront, {5, 6, 7}};
  problem.config.reorder = reorder;
  problem.config.clusters_q = 5;
  problem.config.clusters_kv = 7;
  problem.config.budget = {0.2F, 0.4F, 0.6F, 0.8F, 0.8F};
  return problem;
}

Problem dense(Problem problem) {
  problem.config.num_levels = 1;
  problem.config.budget = {1, 1, 1, 1, 1};
  problem.config.reorder = Reorder::kNone;
  return problem;
}

constexpr Reorder kOrders[] = {Reorder::kNone, Reorder::kGilbert, Reorder::kTile3d,
                               Reorder::kKMeans, Reorder::kHybrid};

TEST_P(EveryBackend, S19AllBlocksAtLevelOneAreDenseInEveryOrder) {
  for (const Reorder reorder : kOrders) {
    const Problem problem = small_video(reorder);
    QkvTensors qkv = random_qkv(problem, 1);
    const CallResult want = call_plan(make_plan(dense(problem), GetParam()), qkv);
    const core::Plan plan = make_plan(problem, GetParam());
    const std::vector<LevelCode> ones(want.levels.size(), 1);
    const CallResult got = call_plan(plan, qkv, {.levels = ones});
    EXPECT_LT(relative_l2(got.out, want.out), 2e-6) << static_cast<int>(reorder);
    EXPECT_DOUBLE_EQ(got.stats.density, 1.0);
  }
}

TEST_P(EveryBackend, S5ConstantBlocksGiveTheDenseResultAtEveryLevel) {
  Problem problem;
  problem.shape = {1, 2, 2, 50, 87, 16};
  problem.config.num_levels = 5;
  problem.config.budget = {0.2F, 0.3F, 0.4F, 0.6F, 0.8F};
  QkvTensors qkv = random_qkv(problem, 2);
  for (index_t h = 0; h < 2; ++h) {
    for (index_t l = 0; l < 87; ++l) {
      for (index_t c = 0; c < 16; ++c) {
        qkv.k.set(0, h, l, c, qkv.k.get(0, h, l / 16 * 16, c));
        qkv.v.set(0, h, l, c, qkv.v.get(0, h, l / 16 * 16, c));
      }
    }
  }
  const CallResult want = call_plan(make_plan(dense(problem), GetParam()), qkv);
  for (const Rest rest : {Rest::kMean, Rest::kLinear}) {
    problem.config.rest = rest;
    const CallResult got = call_plan(make_plan(problem, GetParam()), qkv);
    EXPECT_LT(relative_l2(got.out, want.out), 3e-6);
    EXPECT_GT(got.stats.blocks[kBlockMean], 0);
    for (std::size_t i = 0; i < want.lse.size(); ++i) EXPECT_NEAR(got.lse[i], want.lse[i], 1e-5);
  }
}

/// Random keys, so that blocks of 16 differ little and all the detail is inside of them.
Problem diffuse_problem(Rest rest) {
  Problem problem;
  problem.shape = {1, 2, 1, 64, 512, 16};
  problem.config.rest = rest;
  problem.config.num_levels = 1;
  problem.config.budget = {0.1F, 0.1F, 0.1F, 0.1F, 0.1F};
  return problem;
}

// Values that are linear in the keys are what the first-order term is made for; narrow logits keep
// the exponential linear.
TEST_P(EveryBackend, S23LinearRestErrsFarLessThanMeansWhereValuesFollowKeys) {
  const Problem problem = diffuse_problem(Rest::kMean);
  QkvTensors qkv = random_qkv(problem, 13);
  for (index_t l = 0; l < 64; ++l) {
    for (index_t h = 0; h < 2; ++h) {
      for (index_t c = 0; c < 16; ++c) qkv.q.set(0, h, l, c, 0.3F * qkv.q.get(0, h, l, c));
    }
  }
  for (index_t l = 0; l < 512; ++l) {
    for (index_t c = 0; c < 16; ++c) {
      qkv.v.set(0, 0, l, c, qkv.k.get(0, 0, l, c) - 2.0F * qkv.k.get(0, 0, l, (c + 1) % 16));
    }
  }
  const CallResult want = call_plan(make_plan(dense(problem), GetParam()), qkv);
  const CallResult mean = call_plan(make_plan(problem, GetParam()), qkv);
  const CallResult linear = call_plan(make_plan(diffuse_problem(Rest::kLinear), GetParam()), qkv);
  EXPECT_EQ(linear.levels, mean.levels);
  EXPECT_EQ(linear.stats.density, mean.stats.density);
  EXPECT_LT(3 * relative_l2(linear.out, want.out), relative_l2(mean.out, want.out));
  // S-21: the term costs the same where the map is given and nothing is estimated.
  const CallResult given = call_plan(make_plan(diffuse_problem(Rest::kLinear), GetParam()), qkv,
                                     {.levels = linear.levels});
  EXPECT_GT(given.stats.selection_cost, 0.0);
  EXPECT_DOUBLE_EQ(given.stats.selection_cost,
                   linear.stats.selection_cost - mean.stats.selection_cost);
}

TEST_P(EveryBackend, S23KeysThatAreEqualInsideABlockHaveNoFirstOrderTerm) {
  QkvTensors qkv = random_qkv(diffuse_problem(Rest::kMean), 14);
  for (index_t l = 0; l < 512; ++l) {
    for (index_t c = 0; c < 16; ++c) {
      qkv.k.set(0, 0, l, c, qkv.k.get(0, 0, l / 16 * 16, c));
    }
  }
  const CallResult mean = call_plan(make_plan(diffuse_problem(Rest::kMean), GetParam()), qkv);
  const CallResult linear = call_plan(make_plan(diffuse_problem(Rest::kLinear), GetParam()), qkv);
  EXPECT_GT(linear.stats.blocks[kBlockMean], 0);
  EXPECT_LT(relative_l2(linear.out, mean.out), 1e-6);
}

TEST_P(EveryBackend, S6ConstantValuesComeBack) {
  for (const Reorder reorder : kOrders) {
    const Problem problem = small_video(reorder);
    QkvTensors qkv = random_qkv(problem, 3);
    qkv.v.fill(1.0F);
    const CallResult got = call_plan(make_plan(problem, GetParam()), qkv);
    for (const double x : values_of(got.out).data) ASSERT_NEAR(x, 1.0, 2e-6);
  }
}

TEST_P(EveryBackend, TwoRunsGiveTheSameBitsOnAnyNumberOfThreads) {
  for (const Reorder reorder : kOrders) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const Rest rest : {Rest::kMean, Rest::kLinear}) {
        Problem problem = small_video(reorder);
        problem.config.rest = rest;
        problem.shape.dtype_q = problem.shape.dtype_kv = problem.shape.dtype_out = dtype;
        QkvTensors qkv = random_qkv(problem, 4);
        core::PlanOptions options = GetParam();
        options.num_threads = 3;
        const CallResult first = call_plan(make_plan(problem, options), qkv);
        options.num_threads = 1;
        const CallResult second = call_plan(make_plan(problem, options), qkv);
        EXPECT_EQ(first.levels, second.levels);
        EXPECT_TRUE(first.out.buffer().has_same_bytes(second.out.buffer()));
        EXPECT_EQ(first.lse, second.lse);
      }
    }
  }
}

TEST_P(EveryBackend, S9SameSeedSameMapOtherSeedOtherMap) {
  Problem problem = small_video();
  problem.config.importance = Importance::kSampledMax;
  QkvTensors qkv = random_qkv(problem, 5);
  const CallResult first = call_plan(make_plan(problem, GetParam()), qkv);
  const CallResult again = call_plan(make_plan(problem, GetParam()), qkv);
  problem.config.seed = 1;
  const CallResult other = call_plan(make_plan(problem, GetParam()), qkv);
  EXPECT_EQ(first.levels, again.levels);
  EXPECT_NE(first.levels, other.levels);
}

TEST_P(EveryBackend, BatchAndHeadsDoNotInfluenceEachOther) {
  const Problem problem = small_video();
  QkvTensors qkv = random_qkv(problem, 6);
  const core::Plan plan = make_plan(problem, GetParam());
  const CallResult before = call_plan(plan, qkv);
  for (index_t l = 0; l < 219; ++l) qkv.q.set(1, 2, l, 0, 50.0F);
  const CallResult after = call_plan(plan, qkv);
  for (index_t b = 0; b < 2; ++b) {
    for (index_t h = 0; h < 3; ++h) {
      if (b == 1 && h == 2) continue;
      for (index_t l = 0; l < 219; ++l) {
        ASSERT_EQ(before.out.get(b, h, l, 3), after.out.get(b, h, l, 3)) << b << " " << h;
      }
    }
  }
  EXPECT_NE(before.out.get(1, 2, 0, 3), after.out.get(1, 2, 0, 3));
}

TEST_P(EveryBackend, MemoryLayoutDoesNotMatter) {
  const Problem problem = small_video();
  QkvTensors bhld = random_qkv(problem, 7);
  const core::Plan plan = make_plan(problem, GetParam());
  const CallResult want = call_plan(plan, bhld);
  for (const MemoryLayout layout : {MemoryLayout::kBlhd, MemoryLayout::kPadded}) {
    QkvTensors qkv = random_qkv(problem, 7, layout);
    const CallResult got = call_plan(plan, qkv, {.out_layout = layout});
    EXPECT_EQ(values_of(got.out).data, values_of(want.out).data);
  }
}

TEST_P(EveryBackend, NaNInAQueryStaysInItsRow) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Importance importance : {Importance::kPooledLse, Importance::kSampledMass,
                                      Importance::kSampledMax, Importance::kAntidiagonal}) {
    Problem problem = small_video(Reorder::kNone);
    problem.config.importance = importance;
    problem.config.rest = Rest::kLinear;  // whose map belongs to all rows of a block
    QkvTensors qkv = random_qkv(problem, 8);
    qkv.q.set(0, 1, 100, 5, nan);
    const CallResult got = call_plan(make_plan(problem, GetParam()), qkv);
    for (index_t b = 0; b < 2; ++b) {
      for (index_t h = 0; h < 3; ++h) {
        for (index_t l = 0; l < 219; ++l) {
          const bool touched = b == 0 && h == 1 && l == 100;
          ASSERT_EQ(std::isnan(got.out.get(b, h, l, 0)), touched) << b << " " << h << " " << l;
        }
      }
    }
  }
}

TEST_P(EveryBackend, FiniteInputsNeverGiveNaN) {
  for (const float magnitude : {1e-30F, 1.0F, 1e4F, 1e15F}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      Problem problem = small_video();
      problem.config.rest = dtype == DType::kF32 ? Rest::kLinear : Rest::kMean;
      problem.shape.dtype_q = problem.shape.dtype_kv = problem.shape.dtype_out = dtype;
      QkvTensors qkv = random_qkv(problem, 9);
      for (index_t l = 0; l < 219; ++l) {
        for (index_t h = 0; h < 3; ++h) qkv.q.set(0, h, l, l % 24, magnitude);
        qkv.k.set(0, 0, l, l % 24, l % 2 == 0 ? magnitude : -magnitude);
      }
      const CallResult got = call_plan(make_plan(problem, GetParam()), qkv);
      for (const double x : values_of(got.out).data) ASSERT_TRUE(std::isfinite(x)) << magnitude;
      for (const float x : got.lse) ASSERT_TRUE(std::isfinite(x)) << magnitude;
    }
  }
}

TEST_P(EveryBackend, S7EmptyRowsAreZero) {
  Problem problem;
  problem.shape = {2, 1, 1, 40, 40, 8};
  QkvTensors qkv = random_qkv(problem, 10);
  qkv.kv_lengths = {0, 40};
  const CallResult got = call_plan(make_plan(problem, GetParam()), qkv);
  for (index_t l = 0; l < 40; ++l) {
    EXPECT_EQ(got.out.get(0, 0, l, 0), 0.0F);
    EXPECT_EQ(got.lse[static_cast<std::size_t>(l)], -std::numeric_limits<float>::infinity());
    EXPECT_NE(got.out.get(1, 0, l, 0), 0.0F);
  }
}

TEST_P(EveryBackend, LengthsFromOneOnWork) {
  for (index_t len_q = 1; len_q <= 35; ++len_q) {
    for (const index_t len_kv : {index_t{1}, index_t{15}, index_t{16}, index_t{17}, len_q}) {
      for (const bool causal : {false, true}) {
        Problem problem;
        problem.shape = {1, 2, 1, len_q, len_kv, 5};
        problem.config.causal = causal;
        QkvTensors qkv = random_qkv(problem, 11);
        qkv.v.fill(2.0F);
        const CallResult got = call_plan(make_plan(problem, GetParam()), qkv);
        for (index_t l = 0; l < len_q; ++l) {
          const bool empty = causal && l + len_kv - len_q < 0;
          ASSERT_NEAR(got.out.get(0, 1, l, 4), empty ? 0.0 : 2.0, 1e-5)
              << len_q << " " << len_kv << " " << causal;
        }
      }
    }
  }
}

TEST_P(EveryBackend, MoreDensityMeansLessError) {
  Problem problem = small_video();
  problem.config.text_keys_full = problem.config.text_queries_full = false;
  QkvTensors qkv = random_qkv(problem, 12);
  const CallResult want = call_plan(make_plan(dense(problem), GetParam()), qkv);
  double previous = std::numeric_limits<double>::infinity();
  for (const double density : {0.1, 0.3, 0.6, 0.9}) {
    problem.config.budget = core::budget_for_density(problem.config, density);
    const CallResult got = call_plan(make_plan(problem, GetParam()), qkv);
    EXPECT_NEAR(got.stats.density, density, 0.05);
    const double error = relative_l2(got.out, want.out);
    EXPECT_LT(error, previous) << density;
    previous = error;
  }
}

// ---- a density per head (S-24)
// -------------------------------------------------------------------

/// Every head a KV head of its own, and neither text nor a minimum, which would force blocks.
Problem four_heads(std::vector<float> head_density) {
  Problem problem;
  problem.shape = {2, 4, 4, 210, 210, 24};
  problem.layout.grid = {5, 6, 7};
  problem.config.reorder = Reorder::kGilbert;
  problem.config.head_density = std::move(head_density);
  return problem;
}

void expect_same_bits(const CallResult& got, const CallResult& want) {
  EXPECT_EQ(got.levels, want.levels);
  EXPECT_TRUE(got.out.buffer().has_same_bytes(want.out.buffer()));
  EXPECT_EQ(got.lse, want.lse);
  EXPECT_EQ(got.stats.density, want.stats.density);
}

TEST_P(EveryBackend, S24EqualDensitiesGiveTheBitsOfOneDensity) {
  for (const Rest rest : {Rest::kSkip, Rest::kMean, Rest::kLinear}) {
    for (const float density : {0.11F, 0.35F, 0.8F, 1.0F}) {
      Problem one = four_heads({});
      one.config.rest = rest;
      Problem each = four_heads({density, density, density, density});
      each.config.rest = rest;
      one.config.budget = core::budget_for_density(one.config, static_cast<double>(density));
      QkvTensors qkv = random_qkv(one, 14);
      expect_same_bits(call_plan(make_plan(each, GetParam()), qkv),
                       call_plan(make_plan(one, GetParam()), qkv));
    }
  }
}

TEST_P(EveryBackend, S24HeadsDoNotMeetInTheMap) {
  const std::vector<float> densities{0.1F, 1.0F, 0.3F, 0.65F};
  QkvTensors qkv = random_qkv(four_heads({}), 15);
  const CallResult mixed = call_plan(make_plan(four_heads(densities), GetParam()), qkv);
  const std::size_t batch = mixed.levels.size() / 2;
  const std::size_t head = batch / 4;
  for (std::size_t h = 0; h < 4; ++h) {
    const std::vector<float> alike(4, densities[h]);
    const CallResult want = call_plan(make_plan(four_heads(alike), GetParam()), qkv);
    for (std::size_t b = 0; b < 2; ++b) {
      const auto first = static_cast<std::ptrdiff_t>(b * batch + h * head);
      EXPECT_TRUE(std::equal(want.levels.begin() + first,
                             want.levels.begin() + first + static_cast<std::ptrdiff_t>(head),
                             mixed.levels.begin() + first))
          << "head " << h << ", batch element " << b;
    }
  }
}

TEST_P(EveryBackend, S24PermutedHeadsAndDensitiesPermuteTheMap) {
  constexpr std::array<index_t, 4> kFrom{2, 0, 3, 1};  // head h of the second call
  const std::vector<float> densities{0.1F, 1.0F, 0.3F, 0.65F};
  std::vector<float> permuted;
  for (const index_t h : kFrom) permuted.push_back(densities[static_cast<std::size_t>(h)]);
  QkvTensors qkv = random_qkv(four_heads({}), 16);
  QkvTensors moved = qkv;
  for (index_t b = 0; b < 2; ++b) {
    for (index_t h = 0; h < 4; ++h) {
      const index_t from = kFrom.at(static_cast<std::size_t>(h));
      for (index_t l = 0; l < 210; ++l) {
        for (index_t c = 0; c < 24; ++c) {
          moved.q.set(b, h, l, c, qkv.q.get(b, from, l, c));
          moved.k.set(b, h, l, c, qkv.k.get(b, from, l, c));
          moved.v.set(b, h, l, c, qkv.v.get(b, from, l, c));
        }
      }
    }
  }
  const CallResult want = call_plan(make_plan(four_heads(densities), GetParam()), qkv);
  const CallResult got = call_plan(make_plan(four_heads(permuted), GetParam()), moved);
  const auto head = static_cast<std::ptrdiff_t>(want.levels.size() / 8);
  for (std::ptrdiff_t b = 0; b < 2; ++b) {
    for (std::ptrdiff_t h = 0; h < 4; ++h) {
      const auto to = got.levels.begin() + (4 * b + h) * head;
      const std::ptrdiff_t from = kFrom.at(static_cast<std::size_t>(h));
      EXPECT_TRUE(std::equal(to, to + head, want.levels.begin() + (4 * b + from) * head)) << h;
    }
  }
  EXPECT_NEAR(got.stats.density, want.stats.density, 1e-12);
}

TEST_P(EveryBackend, S24DensityIsThatOfTheMeanHead) {
  Problem problem = four_heads({0.1F, 1.0F, 0.3F, 0.65F});
  problem.config.min_full_blocks = 0;
  QkvTensors qkv = random_qkv(problem, 17);
  const CallResult got = call_plan(make_plan(problem, GetParam()), qkv);
  EXPECT_NEAR(got.stats.density, (0.1 + 1.0 + 0.3 + 0.65) / 4, 0.03);
  EXPECT_GT(got.stats.selection_cost, 0.0);
}

TEST_P(EveryBackend, S24DensityOneInEveryHeadIsDenseAndEstimatesNothing) {
  const Problem problem = four_heads({1, 1, 1, 1});
  QkvTensors qkv = random_qkv(problem, 18);
  const CallResult want = call_plan(make_plan(dense(four_heads({})), GetParam()), qkv);
  const core::Plan plan = make_plan(problem, GetParam());
  expect_same_bits(call_plan(plan, qkv), want);
  EXPECT_NE(plan.describe().find("dense"), std::string::npos) << plan.describe();
}

TEST_P(EveryBackend, S24SharedMapsTakeTheDensityOfTheirGroup) {
  Problem problem = four_heads({0.1F, 0.1F, 0.6F, 0.6F});
  problem.shape.heads_kv = 2;
  problem.config.share_group_map = true;
  QkvTensors qkv = random_qkv(problem, 19);
  const CallResult got = call_plan(make_plan(problem, GetParam()), qkv);
  const auto head = static_cast<std::ptrdiff_t>(got.levels.size() / 8);
  const auto map = [&](std::ptrdiff_t h) {
    return std::vector<LevelCode>(got.levels.begin() + h * head,
                                  got.levels.begin() + (h + 1) * head);
  };
  EXPECT_EQ(map(0), map(1));
  EXPECT_EQ(map(2), map(3));
  EXPECT_LT(std::ranges::count(map(0), 1), std::ranges::count(map(2), 1));
}

}  // namespace
}  // namespace psa::testing
