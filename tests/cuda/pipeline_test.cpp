// SPDX-License-Identifier: Apache-2.0

// Whole calls on a device: properties that need no other backend, and the reference on the same
// tensors. Level maps are given or follow from user scores where near-ties of an estimate could
// make outputs differ.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <ostream>
#include <string>
#include <vector>

#include "core/geometry.hpp"
#include "core/presets.hpp"
#include "core/registry.hpp"
#include "cuda/attention/launches.hpp"
#include "cuda/cuda_test.hpp"
#include "cuda/fenced_memory.hpp"
#include "support/compare.hpp"
#include "support/plan_call.hpp"

namespace psa::testing {
namespace {

constexpr Device kDevice{DeviceType::kCuda, 0};
constexpr float kInf = std::numeric_limits<float>::infinity();

/// A table of kernels and the storage type of all tensors.
struct Target {
  const char* isa;
  DType dtype;
};

std::string name_of(const Target& target) {
  return std::string(target.isa) + (target.dtype == DType::kF16 ? "_f16" : "_bf16");
}

void PrintTo(const Target& target, std::ostream* out) { *out << name_of(target); }

/// Largest relative error of one rounding to the storage type. Results are rounded once, and
/// probabilities before they multiply the values: docs/numerics.md allows 2 of them in the norm.
double roundoff(DType dtype) { return dtype == DType::kF16 ? 0x1p-11 : 0x1p-8; }

class CudaPipeline : public ::testing::TestWithParam<Target> {
 protected:
  void SetUp() override {
    cuda_device_or_skip();
    for (const core::Backend* backend : cuda_backends()) {
      if (std::string(backend->isa) == GetParam().isa) return;
    }
    GTEST_SKIP() << "device 0 does not run " << GetParam().isa;
  }

  [[nodiscard]] static double tolerance() { return 2 * roundoff(GetParam().dtype); }

  /// The problem in the types of the target.
  [[nodiscard]] static Problem typed(Problem problem) {
    ProblemShape& shape = problem.shape;
    shape.dtype_q = shape.dtype_kv = shape.dtype_out = GetParam().dtype;
    return problem;
  }
  [[nodiscard]] static core::Plan device_plan(const Problem& problem) {
    const core::Geometry geometry = problem.geometry();
    const core::Backend& backend = core::choose_backend("cuda", GetParam().isa, geometry, kDevice);
    return {geometry, fenced(backend), kDevice, {}};
  }
  [[nodiscard]] static core::Plan reference_plan(const Problem& problem) {
    core::PlanOptions options;
    options.backend = "reference";
    return make_plan(problem, options);
  }

  static void expect_near(const CallResult& got, const CallResult& want) {
    EXPECT_LT(relative_l2(got.out, want.out), tolerance());
    for (std::size_t i = 0; i < want.lse.size(); ++i) {
      if (std::isinf(want.lse[i])) {
        ASSERT_EQ(got.lse[i], want.lse[i]) << i;
      } else {
        ASSERT_NEAR(got.lse[i], want.lse[i], tolerance()) << i;
      }
    }
  }

  /// What a call reads by its order, from copies, it reads as if the caller's tokens lay so.
  static void expect_bits_of_ordered_tokens(Problem problem);
};

INSTANTIATE_TEST_SUITE_P(Kernels, CudaPipeline,
                         ::testing::Values(Target{"sm_90a", DType::kBF16},
                                           Target{"sm_90a", DType::kF16},
                                           Target{"sm_80", DType::kBF16},
                                           Target{"sm_80", DType::kF16}),
                         [](const auto& tested) { return name_of(tested.param); });

/// A video of 5 x 7 x 9 tokens and 18 text tokens, two query heads to a KV head.
Problem video(Importance importance, Reorder reorder = Reorder::kGilbert) {
  Problem problem;
  problem.shape = {2, 4, 2, 333, 333, 64};
  problem.layout = {18, TextSide::kBack, {5, 7, 9}};
  problem.config.importance = importance;
  problem.config.reorder = reorder;
  problem.config.budget = {0.1F, 0.3F, 0.5F, 0.7F, 0.7F};
  problem.config.similarity_cap = {{0.0F, -0.1F, -0.1F, -0.1F}};
  problem.config.weigh_values = true;
  return problem;
}

/// The same, and with a budget that the query blocks of a head share (S-28).
std::vector<Problem> videos(Importance importance) {
  Problem shared = video(importance);
  shared.config.budget_scope = BudgetScope::kHead;
  shared.config.num_levels = 1;
  shared.config.rest = Rest::kLinear;
  shared.config.rest_cutoff = 2.0F;
  return {video(importance), shared};
}

Problem dense(Problem problem) {
  problem.config.num_levels = 1;
  problem.config.budget = {1, 1, 1, 1, 1};
  problem.config.reorder = Reorder::kNone;
  return problem;
}

std::size_t map_size(const Problem& problem) {
  const core::Geometry g = problem.geometry();
  return static_cast<std::size_t>(g.shape.batch * g.shape.heads_q * g.num_q_blocks *
                                  g.num_kv_blocks);
}

/// Scores with ties, zeros and no order that a kernel could rely on.
std::vector<float> uneven_scores(std::size_t count) {
  std::vector<float> scores(count);
  for (std::size_t i = 0; i < count; ++i) scores[i] = static_cast<float>(i * 7919 % 61) / 7.0F;
  return scores;
}

constexpr Reorder kStaticOrders[] = {Reorder::kNone, Reorder::kGilbert, Reorder::kTile3d};
constexpr Importance kEstimators[] = {Importance::kSampledMax, Importance::kSampledMass,
                                      Importance::kAntidiagonal, Importance::kPooledLse};

// ---- against the reference ---------------------------------------------------------------------

TEST_P(CudaPipeline, S6MatchesTheReferenceOnItsMap) {
  for (const Reorder reorder : kStaticOrders) {
    const Problem problem = typed(video(Importance::kSampledMass, reorder));
    QkvTensors qkv = random_qkv(problem, 1);
    qkv.kv_lengths = {333, 320};
    const CallResult want = call_plan(reference_plan(problem), qkv);
    const CallResult got = call_plan(device_plan(problem), qkv, {.levels = want.levels});
    expect_near(got, want);
    EXPECT_EQ(got.levels, want.levels);
    EXPECT_EQ(got.stats.density, want.stats.density);
    EXPECT_EQ(got.stats.blocks, want.stats.blocks);
  }
}

TEST_P(CudaPipeline, S8CausalCallsMatchTheReference) {
  for (const index_t len_q : {1, 33, 150, 200}) {
    Problem problem;
    problem.shape = {2, 4, 2, len_q, 150, 64};
    problem.config.causal = true;
    problem.config.sink_blocks = 1;
    problem = typed(problem);
    QkvTensors qkv = random_qkv(problem, 2);
    qkv.kv_lengths = {150, 97};
    const CallResult want = call_plan(reference_plan(problem), qkv);
    expect_near(call_plan(device_plan(problem), qkv, {.levels = want.levels}), want);
  }
}

TEST_P(CudaPipeline, S9MapsNearlyAlwaysEqualThoseOfTheReference) {
  for (const Importance importance : kEstimators) {
    for (const Problem& untyped : videos(importance)) {
      const Problem problem = typed(untyped);
      QkvTensors qkv = random_qkv(problem, 3);
      const CallResult want = call_plan(reference_plan(problem), qkv);
      const CallResult got = call_plan(device_plan(problem), qkv);
      const auto differing = std::inner_product(
          got.levels.begin(), got.levels.end(), want.levels.begin(), std::size_t{0}, std::plus<>(),
          [](LevelCode a, LevelCode b) { return a != b ? 1U : 0U; });
      EXPECT_LE(differing, want.levels.size() / 500) << static_cast<int>(importance);
    }
  }
}

TEST_P(CudaPipeline, S13UserScoresGiveTheMapOfTheReference) {
  for (const LevelRule rule : {LevelRule::kQuota, LevelRule::kThreshold}) {
    for (const Rest rest : {Rest::kSkip, Rest::kMean, Rest::kLinear}) {
      Problem problem = typed(video(Importance::kUserScores));
      problem.config.similarity_cap.reset();
      problem.config.rule = rule;
      problem.config.rest = rest;
      QkvTensors qkv = random_qkv(problem, 4);
      const CallExtras extras{.scores = uneven_scores(map_size(problem))};
      const CallResult want = call_plan(reference_plan(problem), qkv, extras);
      const CallResult got = call_plan(device_plan(problem), qkv, extras);
      EXPECT_EQ(got.levels, want.levels);
      expect_near(got, want);
    }
  }
}

/// Every length with less than a block, whole blocks and tails of each size, dense and mixed.
TEST_P(CudaPipeline, EveryLengthUpTo300MatchesTheReference) {
  for (index_t len = 1; len <= 300; ++len) {
    SCOPED_TRACE("length " + std::to_string(len));
    Problem mixed;
    mixed.shape = {1, 2, 1, len, len, 16};
    mixed.config.block_q = mixed.config.block_kv = len % 2 == 0 ? 16 : 64;
    mixed.config.importance = Importance::kUserScores;
    mixed.config.budget = {0.2F, 0.4F, 0.6F, 0.8F, 0.8F};
    mixed.config.causal = len % 3 == 0;
    mixed = typed(mixed);
    QkvTensors qkv = random_qkv(mixed, static_cast<std::uint64_t>(len));
    const CallExtras extras{.scores = uneven_scores(map_size(mixed))};
    for (const Problem& problem : {mixed, dense(mixed)}) {
      const CallResult want = call_plan(reference_plan(problem), qkv, extras);
      const CallResult got = call_plan(device_plan(problem), qkv, extras);
      ASSERT_EQ(got.levels, want.levels);
      expect_near(got, want);
      if (HasFailure()) return;
    }
  }
}

// ---- properties --------------------------------------------------------------------------------

TEST_P(CudaPipeline, S19AllBlocksAtLevelOneAreDenseInEveryOrder) {
  for (const Reorder reorder : kStaticOrders) {
    const Problem problem = typed(video(Importance::kPooledLse, reorder));
    QkvTensors qkv = random_qkv(problem, 5);
    const CallResult want = call_plan(device_plan(dense(problem)), qkv);
    const std::vector<LevelCode> ones(want.levels.size(), 1);
    const CallResult got = call_plan(device_plan(problem), qkv, {.levels = ones});
    expect_near(got, want);
    EXPECT_DOUBLE_EQ(got.stats.density, 1.0);
  }
}

/// The tensor with the token at each position of an order.
Tensor ordered(const Tensor& given, const std::vector<std::int32_t>& order, DType dtype) {
  const Shape& s = given.shape();
  Tensor result(s, dtype);
  for (index_t b = 0; b < s[0]; ++b) {
    for (index_t h = 0; h < s[1]; ++h) {
      for (index_t l = 0; l < s[2]; ++l) {
        for (index_t c = 0; c < s[3]; ++c) {
          result.set(b, h, l, c, given.get(b, h, order[static_cast<std::size_t>(l)], c));
        }
      }
    }
  }
  return result;
}

void CudaPipeline::expect_bits_of_ordered_tokens(Problem problem) {
  ASSERT_TRUE(cuda::heads_at_a_time(problem.geometry()).copies);
  QkvTensors qkv = random_qkv(problem, 11);
  const std::vector<std::int32_t> order = core::make_static_order(problem.geometry());
  const CallResult got = call_plan(device_plan(problem), qkv);
  const DType dtype = problem.shape.dtype_q;
  qkv.q = ordered(qkv.q, order, dtype);
  qkv.k = ordered(qkv.k, order, dtype);
  qkv.v = ordered(qkv.v, order, dtype);
  problem.config.reorder = Reorder::kNone;
  const CallResult want = call_plan(device_plan(problem), qkv);
  EXPECT_EQ(got.levels, want.levels);
  const Tensor moved = ordered(got.out, order, dtype);
  EXPECT_TRUE(moved.buffer().has_same_bytes(want.out.buffer()));
}

TEST_P(CudaPipeline, S19OrdersGiveTheBitsOfOrderedTokens) {
  for (const Rest rest : {Rest::kSkip, Rest::kLinear}) {
    Problem problem = typed(video(Importance::kPooledLse));
    problem.shape.head_dim = 128;
    problem.config.rest = rest;
    expect_bits_of_ordered_tokens(problem);
  }
}

/// A call whose copies are those of 3 of its 6 KV heads at a time.
Problem copied_in_parts(index_t text_tokens) {
  Problem problem = video(Importance::kPooledLse);
  problem.shape.heads_q = 6;
  problem.shape.heads_kv = 3;
  problem.shape.len_q = problem.shape.len_kv = 12288 + text_tokens;
  problem.shape.head_dim = 128;
  problem.layout.text_tokens = text_tokens;
  problem.layout.grid = {12, 32, 32};
  problem.config.block_q = 32;
  problem.config.block_kv = 64;
  problem.config.budget = {0.01F, 0.02F, 0.03F, 0.05F, 0.05F};
  return problem;
}

/// Text queries that read everything among them.
TEST_P(CudaPipeline, S19CopiesOfSomeHeadsAtATimeGiveTheBitsOfOrderedTokens) {
  const Problem problem = typed(copied_in_parts(18));
  ASSERT_EQ(cuda::heads_at_a_time(problem.geometry()).launched, 3);
  expect_bits_of_ordered_tokens(problem);
}

/// The keys of the first three heads would lie in front of the copies of the others, further than
/// the workspace reaches: nothing is mapped there. Rows read 3 of 192 blocks, so that their second
/// tile ends in a box outside of the keys, for which the copy engine touches the first address of
/// its map.
TEST_P(CudaPipeline, S19CopiesOfSomeHeadsAreReadFromTheirMemoryAlone) {
  Problem problem = typed(copied_in_parts(0));
  problem.shape.heads_q = problem.shape.heads_kv;
  problem.config.num_levels = 1;
  problem.config.budget[0] = 3.0F / 192.0F;
  problem.config.rest = Rest::kSkip;
  problem.config.similarity_cap.reset();
  const int launched = cuda::heads_at_a_time(problem.geometry()).launched;
  ASSERT_EQ(launched, 3);
  const std::size_t copies = cuda::ordered_kv_bytes(problem.geometry(), launched);
  ASSERT_LT(device_plan(problem).workspace_bytes() - copies, copies / 2);
  expect_bits_of_ordered_tokens(problem);
}

TEST_P(CudaPipeline, S5ConstantBlocksGiveTheDenseResultAtEveryLevel) {
  Problem problem;
  problem.shape = {1, 2, 2, 50, 87, 16};
  problem.config.num_levels = 5;
  problem.config.budget = {0.2F, 0.3F, 0.4F, 0.6F, 0.8F};
  problem = typed(problem);
  QkvTensors qkv = random_qkv(problem, 6);
  for (index_t h = 0; h < 2; ++h) {
    for (index_t l = 0; l < 87; ++l) {
      for (index_t c = 0; c < 16; ++c) {
        qkv.k.set(0, h, l, c, qkv.k.get(0, h, l / 16 * 16, c));
        qkv.v.set(0, h, l, c, qkv.v.get(0, h, l / 16 * 16, c));
      }
    }
  }
  const CallResult want = call_plan(device_plan(dense(problem)), qkv);
  const CallResult got = call_plan(device_plan(problem), qkv);
  expect_near(got, want);
  EXPECT_GT(got.stats.blocks[kBlockMean], 0);
}

TEST_P(CudaPipeline, S6ConstantValuesComeBack) {
  for (const Importance importance : kEstimators) {
    const Problem problem = typed(video(importance));
    QkvTensors qkv = random_qkv(problem, 7);
    qkv.v.fill(1.0F);
    const CallResult got = call_plan(device_plan(problem), qkv);
    for (const double x : values_of(got.out).data) ASSERT_NEAR(x, 1.0, tolerance());
  }
}

TEST_P(CudaPipeline, TwoRunsGiveTheSameBits) {
  for (const Importance importance : kEstimators) {
    for (const Problem& untyped : videos(importance)) {
      const Problem problem = typed(untyped);
      QkvTensors qkv = random_qkv(problem, 8);
      const CallResult first = call_plan(device_plan(problem), qkv);
      const CallResult second = call_plan(device_plan(problem), qkv, {.wants_stats = false});
      EXPECT_EQ(first.levels, second.levels);
      EXPECT_TRUE(first.out.buffer().has_same_bytes(second.out.buffer()));
      EXPECT_EQ(first.lse, second.lse);
    }
  }
}

TEST_P(CudaPipeline, BatchAndHeadsDoNotInfluenceEachOther) {
  const Problem problem = typed(video(Importance::kPooledLse));
  QkvTensors qkv = random_qkv(problem, 9);
  const core::Plan plan = device_plan(problem);
  const CallResult before = call_plan(plan, qkv);
  for (index_t l = 0; l < 333; ++l) qkv.q.set(1, 2, l, 0, 50.0F);
  const CallResult after = call_plan(plan, qkv);
  for (index_t b = 0; b < 2; ++b) {
    for (index_t h = 0; h < 4; ++h) {
      if (b == 1 && h == 2) continue;
      for (index_t l = 0; l < 333; ++l) {
        ASSERT_EQ(before.out.get(b, h, l, 3), after.out.get(b, h, l, 3)) << b << " " << h;
      }
    }
  }
  EXPECT_NE(before.out.get(1, 2, 0, 3), after.out.get(1, 2, 0, 3));
}

/// Padded rows have odd addresses, which other kernels read.
TEST_P(CudaPipeline, MemoryLayoutDoesNotMatter) {
  const Problem problem = typed(video(Importance::kPooledLse));
  QkvTensors bhld = random_qkv(problem, 10);
  const core::Plan plan = device_plan(problem);
  const CallResult want = call_plan(plan, bhld);
  for (const MemoryLayout layout : {MemoryLayout::kBlhd, MemoryLayout::kPadded}) {
    QkvTensors qkv = random_qkv(problem, 10, layout);
    const CallResult got = call_plan(plan, qkv, {.levels = want.levels, .out_layout = layout});
    expect_near(got, want);
    const CallResult selected = call_plan(plan, qkv, {.out_layout = layout});
    EXPECT_EQ(selected.levels, want.levels);
  }
}

TEST_P(CudaPipeline, MoreDensityMeansLessError) {
  Problem problem = typed(video(Importance::kSampledMass));
  problem.config.text_keys_full = problem.config.text_queries_full = false;
  problem.config.similarity_cap.reset();
  QkvTensors qkv = random_qkv(problem, 11);
  const CallResult want = call_plan(device_plan(dense(problem)), qkv);
  double previous = std::numeric_limits<double>::infinity();
  for (const double density : {0.1, 0.3, 0.6, 0.9}) {
    problem.config.budget = core::budget_for_density(problem.config, density);
    const CallResult got = call_plan(device_plan(problem), qkv);
    EXPECT_NEAR(got.stats.density, density, 0.05);
    const double error = relative_l2(got.out, want.out);
    EXPECT_LT(error, previous) << density;
    previous = error;
  }
}

TEST_P(CudaPipeline, S24EqualDensitiesPerHeadGiveTheBitsOfOneDensity) {
  Problem one = typed(video(Importance::kPooledLse));
  Problem each = one;
  each.config.head_density = {0.2F, 0.2F, 0.2F, 0.2F};
  one.config.budget = core::budget_for_density(one.config, static_cast<double>(0.2F));
  QkvTensors qkv = random_qkv(one, 13);
  const CallResult want = call_plan(device_plan(one), qkv);
  const CallResult got = call_plan(device_plan(each), qkv);
  EXPECT_EQ(got.levels, want.levels);
  EXPECT_TRUE(got.out.buffer().has_same_bytes(want.out.buffer()));
}

TEST_P(CudaPipeline, S24ReadsTheDensitiesOfThePlan) {
  Problem problem = typed(video(Importance::kUserScores));
  problem.config.similarity_cap.reset();
  problem.config.head_density = {0.1F, 1.0F, 0.3F, 0.6F};
  QkvTensors qkv = random_qkv(problem, 14);
  const CallExtras extras{.scores = uneven_scores(map_size(problem))};
  const CallResult want = call_plan(reference_plan(problem), qkv, extras);
  const CallResult got = call_plan(device_plan(problem), qkv, extras);
  EXPECT_EQ(got.levels, want.levels);
  EXPECT_EQ(got.stats.density, want.stats.density);
  expect_near(got, want);
}

// ---- rows without keys, NaN and Inf ------------------------------------------------------------

TEST_P(CudaPipeline, S7EmptyRowsAreZero) {
  Problem problem;
  problem.shape = {2, 1, 1, 40, 40, 64};
  problem = typed(problem);
  QkvTensors qkv = random_qkv(problem, 12);
  qkv.kv_lengths = {0, 40};
  const CallResult got = call_plan(device_plan(problem), qkv);
  for (index_t l = 0; l < 40; ++l) {
    EXPECT_EQ(got.out.get(0, 0, l, 0), 0.0F);
    EXPECT_EQ(got.lse[static_cast<std::size_t>(l)], -kInf);
    EXPECT_NE(got.out.get(1, 0, l, 0), 0.0F);
  }
}

TEST_P(CudaPipeline, ValuesThatCannotBeCheckedAreClampedAndSkipped) {
  Problem problem;
  problem.shape = {2, 1, 1, 64, 64, 64};
  problem.config.num_levels = 2;
  problem.config.rest = Rest::kSkip;
  problem = typed(problem);
  QkvTensors qkv = random_qkv(problem, 13);
  std::vector<LevelCode> levels(2 * 4 * 4, 1);
  std::vector<LevelCode> read = levels;
  for (const auto& [place, code] : {std::pair{3, 3}, {9, 6}, {17, 7}, {30, 255}}) {
    levels[static_cast<std::size_t>(place)] = static_cast<LevelCode>(code);
    read[static_cast<std::size_t>(place)] = kSkip;
  }
  qkv.kv_lengths = {64, 0};
  const CallResult want = call_plan(reference_plan(problem), qkv, {.levels = read});
  qkv.kv_lengths = {std::numeric_limits<std::int32_t>::max(), -5};
  expect_near(call_plan(device_plan(problem), qkv, {.levels = levels}), want);
}

TEST_P(CudaPipeline, NaNAndInfInAQueryStayInTheirRow) {
  const std::vector<LevelCode> ones(map_size(typed(video(Importance::kPooledLse))), 1);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInf}) {
    const Problem problem = typed(video(Importance::kPooledLse));
    QkvTensors qkv = random_qkv(problem, 14);
    qkv.q.set(0, 1, 100, 5, bad);
    const CallResult got = call_plan(device_plan(problem), qkv, {.levels = ones});
    for (index_t b = 0; b < 2; ++b) {
      for (index_t h = 0; h < 4; ++h) {
        for (index_t l = 0; l < 333; ++l) {
          const bool touched = b == 0 && h == 1 && l == 100;
          ASSERT_EQ(std::isnan(got.out.get(b, h, l, 0)), touched) << b << " " << h << " " << l;
        }
      }
    }
  }
}

TEST_P(CudaPipeline, NaNInAKeyOrValueStaysInTheRowsThatSeeIt) {
  Problem problem;
  problem.shape = {1, 1, 1, 40, 60, 64};
  problem.config.causal = true;  // query r sees keys up to r + 20
  problem = typed(dense(problem));
  for (const bool is_key : {true, false}) {
    QkvTensors qkv = random_qkv(problem, 15);
    (is_key ? qkv.k : qkv.v).set(0, 0, 45, 0, std::numeric_limits<float>::quiet_NaN());
    const CallResult got = call_plan(device_plan(problem), qkv);
    for (index_t r = 0; r < 40; ++r) {
      EXPECT_EQ(std::isnan(got.out.get(0, 0, r, 0)), r >= 25) << r << " key " << is_key;
    }
  }
}

TEST_P(CudaPipeline, FiniteInputsNeverGiveNaN) {
  for (const float magnitude : {1e-30F, 1.0F, 1e4F, 1e15F}) {
    if (GetParam().dtype == DType::kF16 && magnitude > 65504.0F) continue;
    const Problem problem = typed(video(Importance::kPooledLse));
    QkvTensors qkv = random_qkv(problem, 16);
    for (index_t l = 0; l < 333; ++l) {
      for (index_t h = 0; h < 4; ++h) qkv.q.set(0, h, l, l % 64, magnitude);
      qkv.k.set(0, 0, l, l % 64, l % 2 == 0 ? magnitude : -magnitude);
    }
    const CallResult got = call_plan(device_plan(problem), qkv);
    for (const double x : values_of(got.out).data) ASSERT_TRUE(std::isfinite(x)) << magnitude;
    for (const float x : got.lse) ASSERT_TRUE(std::isfinite(x)) << magnitude;
  }
}

}  // namespace
}  // namespace psa::testing
