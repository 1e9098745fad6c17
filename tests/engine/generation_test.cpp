// SPDX-License-Identifier: Apache-2.0
#include "engine/generation/generation.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "engine/error_text.hpp"
#include "engine/generation/generation_defaults.hpp"
#include "engine/goldens.hpp"
#include "engine/scratch_dir.hpp"

namespace psa::engine {
namespace {

using testing::AllOf;
using testing::Each;
using testing::HasSubstr;

constexpr const char* kModel = "wan_single_f32";

/// What make_sampling_golden.py ran.
struct SamplingGolden {
  io::SafetensorsFile inputs =
      io::SafetensorsFile::open(golden_folder(kModel) / "golden.safetensors");
  io::SafetensorsFile runs =
      io::SafetensorsFile::open(golden_folder(kModel) / "sampling.safetensors");
  std::unique_ptr<WanTransformer> model =
      WanTransformer::load(golden_folder(kModel), {.compute = DType::kF32, .num_threads = 1});

  [[nodiscard]] GenerationRequest request() const {
    GenerationRequest request;
    request.size = {3, 8, 10};
    request.steps = 6;
    request.seed = 7;
    request.guidance = 3;
    request.text = inputs.values<float>("text");
    request.unconditional = runs.values<float>("unconditional");
    request.attention = dense_config();
    return request;
  }
};

TEST(Generation, WholeRunsAreThoseOfDiffusers) {
  const SamplingGolden golden;
  const std::vector<std::pair<SamplerKind, const char*>> samplers{{SamplerKind::kEuler, "euler"},
                                                                  {SamplerKind::kUniPc, "unipc"}};
  for (const auto& [kind, name] : samplers) {
    const Generation got = generate(*golden.model, {.kind = kind}, golden.request());
    EXPECT_LT(relative_l2(got.sample, golden.runs.values<float>(name)), 1e-3) << name;
  }
}

TEST(Generation, EqualArgumentsGiveEqualBitsAndOthersDoNot) {
  const SamplingGolden golden;
  GenerationRequest request = golden.request();
  request.attention = sparse_config();
  const std::vector<float> first = generate(*golden.model, {}, request).sample;
  EXPECT_EQ(generate(*golden.model, {}, request).sample, first);
  request.seed = 8;
  EXPECT_NE(generate(*golden.model, {}, request).sample, first);
}

TEST(Generation, FirstStepsAreDenseOnRequest) {
  const SamplingGolden golden;
  GenerationRequest request = golden.request();
  request.attention = sparse_config();
  request.warmup_steps = 2;
  std::vector<int> seen;
  const Generation got =
      generate(*golden.model, {}, request,
               {.after_step = [&](const StepReport& step) { seen.push_back(step.index); },
                .after_attention = {}});
  EXPECT_EQ(seen, (std::vector<int>{0, 1, 2, 3, 4, 5}));
  for (const StepReport& step : got.steps) {
    EXPECT_EQ(step.is_dense, step.index < 2);
    ASSERT_EQ(step.layer_density.size(), 2U);
    if (step.is_dense) {
      EXPECT_THAT(step.layer_density, Each(1.0));
    } else {
      EXPECT_THAT(step.layer_density, Each(testing::Lt(0.9)));
    }
  }
  EXPECT_LT(got.step_density(), 0.9);
}

TEST(Generation, LayersAreDenseOnRequest) {
  const SamplingGolden golden;
  GenerationRequest request = golden.request();
  request.attention = sparse_config();
  request.warmup_steps = 1;
  request.dense_layers = {1};
  for (const StepReport& step : generate(*golden.model, {}, request).steps) {
    EXPECT_EQ(step.layer_density[0] == 1.0, step.index == 0);
    EXPECT_EQ(step.layer_density[1], 1.0);
  }
}

TEST(Generation, LayersMayHaveTheirOwnAttention) {
  const SamplingGolden golden;
  GenerationRequest request = golden.request();
  request.attention = sparse_config();
  request.layers[0] = dense_config();
  request.warmup_steps = 1;
  for (const StepReport& step : generate(*golden.model, {}, request).steps) {
    EXPECT_EQ(step.layer_density[0], 1.0);
    EXPECT_EQ(step.layer_density[1] == 1.0, step.is_dense);
  }
  request.layers = {{1, sparse_config()}};
  request.dense_layers = {1};  // stands above it
  EXPECT_EQ(generate(*golden.model, {}, request).steps.back().layer_density[1], 1.0);
}

TEST(Generation, GuidanceOfOneRunsOneBranch) {
  const SamplingGolden golden;
  GenerationRequest request = golden.request();
  request.guidance = 1;
  request.unconditional = {};
  std::set<std::pair<int, int>> seen;  // step, layer: of one branch, each once
  int calls = 0;
  static_cast<void>(
      generate(*golden.model, {}, request,
               {.after_step = {}, .after_attention = [&](int step, const LayerAttention& layer) {
                  seen.insert({step, layer.layer});
                  ++calls;
                }}));
  EXPECT_EQ(calls, 12);
  EXPECT_EQ(seen.size(), 12U);
}

TEST(Generation, RefusesWhatItCannotSample) {
  const SamplingGolden golden;
  const auto refusal = [&](const GenerationRequest& request) {
    return error_text(Status::kInvalidArgument,
                      [&] { static_cast<void>(generate(*golden.model, {}, request)); });
  };
  GenerationRequest request = golden.request();
  request.warmup_steps = 7;
  EXPECT_THAT(refusal(request), AllOf(HasSubstr("7"), HasSubstr("0 to 6")));
  request = golden.request();
  for (const index_t layer : {index_t{2}, index_t{-1}, index_t{1} << 32}) {
    request = golden.request();
    request.dense_layers = {0, layer};
    EXPECT_THAT(refusal(request), AllOf(HasSubstr(std::to_string(layer)), HasSubstr("0 to 1")));
    request = golden.request();
    request.layers[layer] = {};
    EXPECT_THAT(refusal(request), AllOf(HasSubstr(std::to_string(layer)), HasSubstr("0 to 1")));
  }
  request = golden.request();
  request.size[1] = 9;
  EXPECT_THAT(refusal(request), AllOf(HasSubstr("height"), HasSubstr("9")));
  request = golden.request();
  request.steps = 0;
  request.warmup_steps = 0;
  EXPECT_THAT(refusal(request), HasSubstr("steps"));
}

TEST(GenerationDefaults, AreReadFromTheModel) {
  const io::ScratchDir folder;
  EXPECT_FALSE(read_generation_defaults(folder.path("")).steps);
  io::put_content(folder.path(kDefaultsFile),
                  R"({"size": [16, 64, 32], "steps": 20, "guidance": 2.5, "warmup_steps": 1,
                      "dense_layers": [0, 7], "frames_per_second": 12,
                      "attention": "order=gilbert density=.2"})");
  const GenerationDefaults defaults = read_generation_defaults(folder.path(""));
  EXPECT_EQ(*defaults.size, (std::array<index_t, 3>{16, 64, 32}));
  EXPECT_EQ(*defaults.steps, 20);
  EXPECT_EQ(*defaults.guidance, 2.5);
  EXPECT_EQ(*defaults.warmup_steps, 1);
  EXPECT_EQ(*defaults.dense_layers, (std::vector<index_t>{0, 7}));
  EXPECT_EQ(*defaults.frames_per_second, 12);
  EXPECT_EQ(*defaults.attention, "order=gilbert density=.2");
}

TEST(GenerationDefaults, NameWhatIsWrong) {
  const io::ScratchDir folder;
  const auto refusal = [&](std::string_view text) {
    io::put_content(folder.path(kDefaultsFile), text);
    return error_text(Status::kIo,
                      [&] { static_cast<void>(read_generation_defaults(folder.path(""))); });
  };
  EXPECT_THAT(refusal(R"({"size": [16, 64]})"), AllOf(HasSubstr("size"), HasSubstr("frames")));
  EXPECT_THAT(refusal(R"({"step": 3})"), AllOf(HasSubstr("step"), HasSubstr("known keys")));
  EXPECT_THAT(refusal(R"({"steps": "many"})"), HasSubstr("steps"));
  EXPECT_THAT(refusal(R"({"attention": "levels=1", "config": "tuned.yaml"})"),
              AllOf(HasSubstr("config"), HasSubstr("only without attention")));
}

}  // namespace
}  // namespace psa::engine
