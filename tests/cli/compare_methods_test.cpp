// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <random>

#include "comparison.hpp"
#include "density_match.hpp"
#include "oracle.hpp"
#include "psa/error.hpp"

namespace psa::cli {
namespace {

using testing::ElementsAre;

/// q, k and v of a call and the memory behind them.
struct Tensors {
  OwnedTensor q, k, v;
};

OwnedTensor random_values(const std::array<index_t, 4>& shape, DType dtype, unsigned seed) {
  OwnedTensor tensor(shape, dtype);
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  for (index_t i = 0; i < shape[0] * shape[1] * shape[2] * shape[3]; ++i) {
    store_element(tensor.view().data, dtype, i, normal(generator));
  }
  return tensor;
}

/// Random attention over 210 tokens (a ragged last block of 16) with two of four blocks per row
/// read.
Call random_call(DType dtype, bool causal = false) {
  constexpr index_t kTokens = 210;
  const auto tensors = std::make_shared<Tensors>();
  tensors->q = random_values({2, 4, kTokens, 16}, dtype, 1);
  tensors->k = random_values({2, 2, kTokens, 16}, dtype, 2);
  tensors->v = random_values({2, 2, kTokens, 16}, dtype, 3);
  Call call;
  call.inputs.q = tensors->q.view();
  call.inputs.k = tensors->k.view();
  call.inputs.v = tensors->v.view();
  call.inputs.memory = tensors;
  call.problem.shape = {2, 4, 2, kTokens, kTokens, 16, dtype, dtype, dtype};
  call.problem.config.block_q = call.problem.config.block_kv = 16;
  call.problem.config.pooled_tokens = 8;
  call.problem.config.causal = causal;
  call.problem.config.budget = {0.25F, 0.35F, 0.5F, 0.75F, 0.75F};
  call.plan_options.num_threads = 1;
  return call;
}

ComparisonOptions quiet_options(std::vector<Method> methods) {
  ComparisonOptions options;
  options.methods = std::move(methods);
  options.repeats = 2;
  options.quiet = true;
  return options;
}

constexpr std::initializer_list<Method> kAll{Method::kDense,      Method::kPsa,
                                             Method::kBinary,     Method::kBinaryUnordered,
                                             Method::kBinaryMean, Method::kOfficialSplit};

TEST(Methods, AreParsedInOrder) {
  EXPECT_THAT(parse_methods("psa,dense,binary+mean"),
              ElementsAre(Method::kPsa, Method::kDense, Method::kBinaryMean));
  EXPECT_EQ(name_of(Method::kOfficialSplit), "official-split");
  for (const Method method : kAll) EXPECT_THAT(parse_methods(name_of(method)), ElementsAre(method));
}

TEST(Methods, RefuseUnknownRepeatedAndMissingNames) {
  for (const char* list : {"", "dense,", "dense,dense", "Dense", "dense;psa", "sparse"}) {
    EXPECT_THROW(static_cast<void>(parse_methods(list)), Error) << list;
  }
}

TEST(Methods, ShareEverythingButBudgetAndRest) {
  Config psa;
  psa.block_kv = 64;
  psa.reorder = Reorder::kGilbert;
  psa.importance = Importance::kSampledMass;
  psa.sink_blocks = 3;
  psa.weigh_values = true;
  psa.budget_scope = BudgetScope::kHead;
  for (const Method method : {Method::kBinary, Method::kBinaryMean, Method::kOfficialSplit}) {
    const Config config = method_config(method, psa);
    EXPECT_EQ(config.block_kv, 64);
    EXPECT_EQ(config.reorder, Reorder::kGilbert);
    EXPECT_EQ(config.importance, Importance::kSampledMass);
    EXPECT_EQ(config.sink_blocks, 3);
    EXPECT_FALSE(config.weigh_values) << "as published";
    EXPECT_EQ(config.budget_scope, BudgetScope::kRow) << "as published";
    EXPECT_EQ(config.rest, method == Method::kBinaryMean ? Rest::kMean : Rest::kSkip);
  }
  EXPECT_EQ(method_config(Method::kPsa, psa), psa);
  EXPECT_EQ(method_config(Method::kBinary, psa).num_levels, 1);
  EXPECT_EQ(method_config(Method::kBinaryUnordered, psa).reorder, Reorder::kNone);
}

TEST(DensityMatcher, FindsTheLeastBudgetThatIsDenseEnough) {
  const Call call = random_call(DType::kF32);
  const AttentionIo io = call.io();
  const PlacedInputs inputs(io, Device{});
  const DensityMatcher matcher(call.problem, inputs, io.kv_lengths, call.plan_options);
  for (const Method method : {Method::kPsa, Method::kBinary, Method::kBinaryMean}) {
    const Config base = method_config(method, call.problem.config);
    for (const double wanted : {0.2, 0.31, 0.5, 0.9}) {
      const Config config = matcher.match(base, wanted);
      EXPECT_GE(matcher.density_of(config), wanted);
      EXPECT_LT(matcher.density_of(with_scaled_budget(config, 0.999)), wanted);
    }
  }
}

// S-24
TEST(DensityMatcher, ScalesDensitiesPerHead) {
  Call call = random_call(DType::kF32);
  call.problem.config.head_density = {0.1F, 0.4F, 0.2F, 0.3F};
  const AttentionIo io = call.io();
  const PlacedInputs inputs(io, Device{});
  const DensityMatcher matcher(call.problem, inputs, io.kv_lengths, call.plan_options);
  for (const double wanted : {0.2, 0.4, 0.9, 1.0}) {
    const Config config = matcher.match(call.problem.config, wanted);
    EXPECT_GE(matcher.density_of(config), wanted);
    EXPECT_LT(matcher.density_of(config), wanted + 0.05);
  }
  EXPECT_LT(matcher.density_of(matcher.match(call.problem.config, 0)), 0.15) << "the means alone";
}

// S-24
TEST(Comparison, OtherMethodsGetTheDensityOfAllHeadsTogether) {
  Call call = random_call(DType::kF32);
  call.problem.config.head_density = {0.1F, 0.4F, 1.0F, 0.3F};
  ComparisonOptions options = quiet_options(kAll);
  options.curve = {0.2, 0.5};
  const Comparison comparison = compare_methods(call, options);
  const MethodResult& psa = *comparison.find(Method::kPsa);
  ASSERT_EQ(psa.head_density.size(), 4U);
  EXPECT_LT(psa.head_density[0], psa.head_density[3]);
  EXPECT_EQ(psa.head_density[2], 1.0);
  for (const Method method : {Method::kBinary, Method::kBinaryMean, Method::kOfficialSplit}) {
    const MethodResult& other = *comparison.find(method);
    EXPECT_TRUE(other.problem.config.head_density.empty());
    EXPECT_GE(other.stats.density, psa.stats.density) << name_of(method);
    EXPECT_LE(other.stats.density, psa.stats.density + 1.0 / 13) << "one block";
  }
  EXPECT_EQ(comparison.curve.size(), 4U);
}

TEST(DensityMatcher, EndsAtTheExtremes) {
  const Call call = random_call(DType::kF32);
  const AttentionIo io = call.io();
  const PlacedInputs inputs(io, Device{});
  const DensityMatcher matcher(call.problem, inputs, io.kv_lengths, call.plan_options);
  const Config binary = method_config(Method::kBinary, call.problem.config);
  EXPECT_EQ(matcher.match(binary, 0).budget[0], 0.0F);
  EXPECT_EQ(matcher.density_of(matcher.match(binary, 1)), 1.0);
}

TEST(Comparison, DenseIsExactAndOthersMatchTheDensityOfPsa) {
  const Comparison comparison = compare_methods(random_call(DType::kF32), quiet_options(kAll));
  ASSERT_EQ(comparison.methods.size(), kAll.size());
  const double density = comparison.find(Method::kPsa)->stats.density;
  EXPECT_GT(density, 0.2);
  EXPECT_LT(density, 0.5);
  constexpr double kOneBlock = 1.0 / 13;  // full blocks of a row
  for (const MethodResult& result : comparison.methods) {
    if (result.method == Method::kDense) {
      EXPECT_EQ(result.errors.all.rel_l2, 0);
      EXPECT_EQ(result.stats.density, 1);
      continue;
    }
    EXPECT_GT(result.errors.all.rel_l2, 0.01);
    EXPECT_LT(result.errors.all.rel_l2, 2);
    EXPECT_GE(result.stats.density, density);
    EXPECT_LE(result.stats.density, density + kOneBlock) << name_of(result.method);
    EXPECT_GT(result.ms.median, 0);
    EXPECT_GE(result.selection_ms(), 0);
  }
}

TEST(Comparison, HeadsAverageToTheWhole) {
  const Comparison comparison =
      compare_methods(random_call(DType::kF32), quiet_options({Method::kPsa}));
  const MethodResult& psa = *comparison.find(Method::kPsa);
  ASSERT_EQ(psa.head_density.size(), 4U);
  ASSERT_EQ(psa.errors.heads.size(), 4U);
  double mean = 0;
  index_t blocks = 0;
  for (std::size_t h = 0; h < 4; ++h) {
    mean += psa.head_density[h] / 4;
    for (const index_t count : psa.head_blocks[h]) blocks += count;
  }
  EXPECT_NEAR(mean, psa.stats.density, 1e-9);
  EXPECT_EQ(blocks, 2 * 4 * psa.num_q_blocks * psa.num_kv_blocks);
}

TEST(Comparison, KeepsRowsAndMapsOnlyWhenAsked) {
  ComparisonOptions options = quiet_options({Method::kDense, Method::kPsa});
  const Call call = random_call(DType::kF32);
  EXPECT_TRUE(compare_methods(call, options).find(Method::kPsa)->errors.rows.empty());
  EXPECT_TRUE(compare_methods(call, options).find(Method::kPsa)->levels.empty());
  options.keep_rows = true;
  const Comparison kept = compare_methods(call, options);
  EXPECT_EQ(kept.find(Method::kPsa)->errors.rows.size(), 2U * 4 * 210);
  EXPECT_EQ(kept.find(Method::kPsa)->levels.size(), 2U * 4 * 14 * 14);
}

TEST(Comparison, CurveGetsDenserAndMoreExact) {
  ComparisonOptions options = quiet_options({Method::kPsa});
  options.curve = {0.15, 0.4, 0.8};
  const Comparison comparison = compare_methods(random_call(DType::kF32), options);
  ASSERT_EQ(comparison.curve.size(), 6U);
  for (std::size_t i = 0; i < 6; ++i) {
    const CurvePoint& point = comparison.curve[i];
    EXPECT_EQ(point.method, i < 3 ? Method::kPsa : Method::kBinary);
    EXPECT_GE(point.density, options.curve[i % 3]);
    if (i % 3 == 0) continue;
    EXPECT_GT(point.density, comparison.curve[i - 1].density);
    EXPECT_LT(point.errors.all.rel_l2, comparison.curve[i - 1].errors.all.rel_l2);
  }
}

TEST(Comparison, CurveHasOnePointAtTheLeastDensity) {
  Call call = random_call(DType::kF32);
  call.problem.config.sink_blocks = 4;  // of 14: no budget reads less
  ComparisonOptions options = quiet_options({Method::kPsa});
  options.curve = {0.05, 0.1, 0.6};
  EXPECT_EQ(compare_methods(call, options).curve.size(), 4U);
}

TEST(Comparison, NanStaysInTheRowsThatItTouches) {
  const Call call = random_call(DType::kF32);
  const TensorView& q = call.inputs.q;
  store_element(q.data, q.dtype, 5 * q.stride[2], std::numeric_limits<float>::quiet_NaN());
  const Comparison comparison =
      compare_methods(call, quiet_options({Method::kDense, Method::kPsa}));
  EXPECT_EQ(comparison.nonfinite[0].values, 1);
  EXPECT_THAT(comparison.nonfinite[0].first_rows, ElementsAre(RowPlace{0, 0, 5}));
  EXPECT_EQ(comparison.nonfinite[1].values, 0);
  const ErrorMetrics& errors = comparison.find(Method::kPsa)->errors.all;
  EXPECT_GE(errors.nonfinite_rows, 1);
  EXPECT_LE(errors.nonfinite_rows, 16) << "only its query block shares a level map row";
  EXPECT_TRUE(std::isfinite(errors.rel_l2));
}

TEST(Oracle, SpreadsTokensEvenlyOverTheSequence) {
  const TokenSample some = spread_tokens(100, 10);
  EXPECT_EQ(some.count, 10);
  EXPECT_EQ(some.step, 10);
  EXPECT_EQ(some.first, 5);
  const TokenSample all = spread_tokens(7, 64);
  EXPECT_EQ(all.count, 7);
  EXPECT_EQ(all.step, 1);
  EXPECT_EQ(all.first, 0);
  for (index_t length = 1; length < 50; ++length) {
    for (index_t wanted = 1; wanted < 60; ++wanted) {
      const TokenSample sample = spread_tokens(length, wanted);
      EXPECT_GE(sample.first, 0);
      EXPECT_LT(sample.first + (sample.count - 1) * sample.step, length);
    }
  }
}

class OracleTest : public testing::TestWithParam<bool> {};

TEST_P(OracleTest, DenseAttentionIsCloseToIt) {
  Call call = random_call(DType::kF32, GetParam());
  call.kv_lengths = {210, 187};
  ComparisonOptions options = quiet_options({Method::kDense, Method::kPsa});
  options.reference_tokens = 20;
  const Comparison comparison = compare_methods(call, options);
  EXPECT_FALSE(comparison.against_dense);
  const ErrorMetrics& dense = comparison.find(Method::kDense)->errors.all;
  EXPECT_EQ(dense.rows, 2 * 4 * 20);
  EXPECT_GT(dense.rel_l2, 0) << "float rounding must show against double";
  EXPECT_LT(dense.rel_l2, 1e-5);
  EXPECT_GT(comparison.find(Method::kPsa)->errors.all.rel_l2, 0.01);
}

INSTANTIATE_TEST_SUITE_P(NonCausalAndCausal, OracleTest, testing::Bool());

}  // namespace
}  // namespace psa::cli
