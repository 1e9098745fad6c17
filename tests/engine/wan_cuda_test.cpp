// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/wan_cuda.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "cuda/cuda_test.hpp"
#include "engine/generation/generation.hpp"
#include "engine/goldens.hpp"
#include "engine/sampler/scheduler_config.hpp"
#include "psa/half.hpp"

namespace psa::engine {
namespace {

using ::testing::ElementsAre;

class WanOnCuda : public psa::testing::CudaTest {};

constexpr const char* kSingle = "wan_single_f32";     // 32 channels, norm2
constexpr const char* kSharded = "wan_sharded_bf16";  // 48 channels, heads of 24, no norm2
constexpr double kBudget = 1e-2;                      // of bf16, docs/numerics.md

std::unique_ptr<WanTransformer> load(std::string_view name) {
  return WanTransformer::load(golden_folder(name),
                              {.compute = DType::kBF16, .backend = DeviceType::kCuda});
}

TEST_F(WanOnCuda, DenseForwardIsThatOfDiffusers) {
  for (const char* name : {kSingle, kSharded}) {
    const Golden golden(name);
    const auto model = load(name);
    EXPECT_LT(relative_l2(run(*model, golden.inputs()), golden.out()), kBudget) << name;
  }
}

TEST_F(WanOnCuda, RepetitionDoesNotChangeABit) {
  for (const char* name : {kSingle, kSharded}) {
    const Golden golden(name);
    const std::vector<Config> sparse{sparse_config()};
    ForwardInputs inputs = golden.inputs();
    inputs.attention = sparse;
    const auto model = load(name);
    const std::vector<float> first = run(*model, inputs);
    EXPECT_EQ(run(*model, inputs), first);
    EXPECT_EQ(run(*load(name), inputs), first);
  }
}

TEST_F(WanOnCuda, KeepingEveryBlockIsDenseAttention) {
  for (const char* name : {kSingle, kSharded}) {
    const Golden golden(name);
    std::vector<Config> all{sparse_config()};
    all[0].min_full_blocks = 1000;
    ForwardInputs inputs = golden.inputs();
    const auto model = load(name);
    const std::vector<float> dense = run(*model, inputs);
    inputs.attention = all;
    EXPECT_LT(relative_l2(run(*model, inputs), dense), kBudget) << name;
  }
}

TEST_F(WanOnCuda, LayersReportWhatTheirConfigurationsDid) {
  const Golden golden(kSharded);
  const auto cpu = WanTransformer::load(golden_folder(kSharded), {.compute = DType::kF32});
  const auto cuda = load(kSharded);
  const std::vector<Config> attention{dense_config(), sparse_config(), dense_config()};
  ForwardInputs inputs = golden.inputs();
  inputs.attention = attention;
  std::vector<float> out(golden.out().size());
  const ForwardReport expected = cpu->forward(inputs, out);
  const ForwardReport report = cuda->forward(inputs, out);
  ASSERT_EQ(report.layers.size(), 3U);
  EXPECT_EQ(report.layers[0].density, 1.0);
  EXPECT_EQ(report.layers[2].density, 1.0);
  EXPECT_NEAR(report.layers[1].density, expected.layers[1].density, 0.02);
  EXPECT_EQ(report.layers[1].selection_cost, expected.layers[1].selection_cost);
  EXPECT_GT(report.attention_ms, 0);
  EXPECT_GT(report.total_ms, report.attention_ms);
}

TEST_F(WanOnCuda, ObserverSeesTheAttentionThatWasComputed) {
  const Golden golden(kSingle);
  const auto model = load(kSingle);
  std::vector<int> layers;
  const auto observe = [&](const LayerAttention& done) {
    layers.push_back(done.layer);
    EXPECT_EQ(done.grid.tokens(), 60);
    EXPECT_EQ(done.q.device, Device{});
    EXPECT_THAT(done.k.shape, ElementsAre(1, 2, 60, 16));
    const Plan plan = Plan::create({.heads_q = 2,
                                    .heads_kv = 2,
                                    .len_q = 60,
                                    .len_kv = 60,
                                    .head_dim = 16,
                                    .dtype_q = DType::kBF16,
                                    .dtype_kv = DType::kBF16,
                                    .dtype_out = DType::kF32},
                                   {}, dense_config(), {}, {.backend = "reference"});
    std::vector<float> expected(2 * 60 * 16);
    AttentionIo io;
    io.q = done.q;
    io.k = done.k;
    io.v = done.v;
    io.out = done.out;
    io.out.data = expected.data();
    io.out.dtype = DType::kF32;
    Workspace workspace(plan.workspace_bytes());
    psa::run(plan, io, workspace.bytes());
    const auto* const bits = static_cast<const std::uint16_t*>(done.out.data);
    std::vector<float> given;
    for (std::size_t i = 0; i < expected.size(); ++i) given.push_back(float_from_bf16(bits[i]));
    EXPECT_LT(relative_l2(given, expected), 2 * 0x1p-8);
    EXPECT_EQ(done.stats.density, 1.0);
    EXPECT_GT(done.ms, 0);
  };
  EXPECT_EQ(run(*model, golden.inputs(), observe), run(*model, golden.inputs()));
  EXPECT_THAT(layers, ElementsAre(0, 1));
}

TEST_F(WanOnCuda, OtherGridsAndTextsBetweenLeaveNoTrace) {
  const Golden golden(kSingle);
  const auto model = load(kSingle);
  const std::vector<float> expected = run(*model, golden.inputs());
  ForwardInputs other = golden.inputs();
  other.size = {2, 4, 6};
  other.latent = other.latent.first(4 * 2 * 4 * 6);
  other.text = other.text.first(2 * 12);
  const std::vector<float> small = run(*model, other);
  other.size = {2, 6, 4};  // as many tokens in another grid
  EXPECT_NE(run(*model, other), small);
  ForwardInputs short_text = golden.inputs();
  short_text.text = other.text;
  EXPECT_EQ(run(*model, short_text), run(*load(kSingle), short_text));
  EXPECT_EQ(run(*model, golden.inputs()), expected);
}

TEST_F(WanOnCuda, GuidedVideosAreThoseOfTheCpu) {
  const Golden golden(kSingle);
  const auto cpu = WanTransformer::load(golden_folder(kSingle), {.compute = DType::kF32});
  const auto cuda = load(kSingle);
  const ForwardInputs inputs = golden.inputs();
  GenerationRequest request;
  request.size = inputs.size;
  request.steps = 4;
  request.guidance = 3;
  request.text = inputs.text;
  request.unconditional = inputs.text.first(12);  // of another length
  request.attention = dense_config();
  const Generation expected = generate(*cpu, {}, request);
  const Generation given = generate(*cuda, {}, request);
  EXPECT_LT(relative_l2(given.sample, expected.sample), 5 * kBudget);  // steps add up
  EXPECT_EQ(given.step_density(), 1.0);
}

}  // namespace
}  // namespace psa::engine
