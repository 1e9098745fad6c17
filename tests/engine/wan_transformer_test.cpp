// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/wan_transformer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/error_text.hpp"
#include "engine/goldens.hpp"
#include "engine/scratch_dir.hpp"
#include "psa/error.hpp"

namespace psa::engine {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kSingle = "wan_single_f32";
constexpr const char* kSharded = "wan_sharded_bf16";
constexpr const char* kWeights = "diffusion_pytorch_model.safetensors";

std::unique_ptr<WanTransformer> load(std::string_view name, DType compute, int threads = 2) {
  return WanTransformer::load(golden_folder(name), {.compute = compute, .num_threads = threads});
}

TEST(WanTransformer, DenseForwardIsThatOfDiffusers) {
  for (const char* name : {kSingle, kSharded}) {
    const Golden golden(name);
    for (const DType compute : compute_types()) {
      const double budget = compute == DType::kF32 ? 1e-4 : 1e-2;  // docs/numerics.md
      const auto model = load(name, compute);
      EXPECT_LT(relative_l2(run(*model, golden.inputs()), golden.out()), budget) << name;
    }
  }
}

TEST(WanTransformer, ThreadsAndRepetitionDoNotChangeABit) {
  for (const DType compute : compute_types()) {
    const Golden golden(kSharded);
    ForwardInputs inputs = golden.inputs();
    const std::vector<Config> sparse{sparse_config()};
    inputs.attention = sparse;
    const std::vector<float> expected = run(*load(kSharded, compute, 1), inputs);
    const auto model = load(kSharded, compute, 3);
    EXPECT_EQ(run(*model, inputs), expected);
    EXPECT_EQ(run(*model, inputs), expected);
  }
}

TEST(WanTransformer, OtherGridsAndTextsBetweenLeaveNoTrace) {
  const Golden golden(kSingle);
  const auto model = load(kSingle, DType::kF32);
  const std::vector<float> expected = run(*model, golden.inputs());
  ForwardInputs other = golden.inputs();
  other.size = {2, 4, 6};
  other.latent = other.latent.first(4 * 2 * 4 * 6);
  other.text = other.text.first(2 * 12);
  const std::vector<float> small = run(*model, other);
  EXPECT_TRUE(std::all_of(small.begin(), small.end(), [](float x) { return std::isfinite(x); }));
  other.size = {2, 6, 4};  // as many tokens in another grid
  EXPECT_NE(run(*model, other), small);
  ForwardInputs short_text = golden.inputs();
  short_text.text = other.text;
  EXPECT_EQ(run(*model, short_text), run(*load(kSingle, DType::kF32), short_text));
  EXPECT_EQ(run(*model, golden.inputs()), expected);
}

TEST(WanTransformer, EachLayerHasItsConfiguration) {
  const Golden golden(kSharded);
  const auto model = load(kSharded, DType::kF32);
  ForwardInputs inputs = golden.inputs();
  const std::vector<Config> attention{dense_config(), sparse_config(), dense_config()};
  inputs.attention = attention;
  std::vector<float> out(golden.out().size());
  const ForwardReport report = model->forward(inputs, out);
  ASSERT_EQ(report.layers.size(), 3U);
  EXPECT_EQ(report.layers[0].density, 1.0);
  EXPECT_LT(report.layers[1].density, 0.5);
  EXPECT_EQ(report.layers[2].density, 1.0);
  EXPECT_NEAR(report.mean_density(), (2 + report.layers[1].density) / 3, 1e-12);
  EXPECT_GT(report.attention_ms, 0);
  EXPECT_GT(report.total_ms, report.attention_ms);
  const double error = relative_l2(out, golden.out());
  EXPECT_GT(error, 1e-4);
  EXPECT_LT(error, 0.5);
}

TEST(WanTransformer, ObserverSeesTheAttentionThatWasComputed) {
  const Golden golden(kSingle);
  const auto model = load(kSingle, DType::kF32);
  std::vector<int> layers;
  const auto observe = [&](const LayerAttention& done) {
    layers.push_back(done.layer);
    EXPECT_EQ(done.grid.tokens(), 60);
    EXPECT_THAT(done.q.shape, ElementsAre(1, 2, 60, 16));
    EXPECT_THAT(done.q.stride, ElementsAre(60 * 32, 16, 32, 1));
    const Plan plan =
        Plan::create({.heads_q = 2, .heads_kv = 2, .len_q = 60, .len_kv = 60, .head_dim = 16}, {},
                     dense_config(), {}, {.backend = "reference"});
    std::vector<float> expected(2 * 60 * 16);
    AttentionIo io;
    io.q = done.q;
    io.k = done.k;
    io.v = done.v;
    io.out = done.out;
    io.out.data = expected.data();
    Workspace workspace(plan.workspace_bytes());
    psa::run(plan, io, workspace.bytes());
    const auto* const given = static_cast<const float*>(done.out.data);
    EXPECT_LT(relative_l2({given, expected.size()}, expected), 1e-5);
    EXPECT_EQ(done.stats.density, 1.0);
  };
  EXPECT_EQ(run(*model, golden.inputs(), observe), run(*model, golden.inputs()));
  EXPECT_THAT(layers, ElementsAre(0, 1));
}

TEST(WanTransformer, ArgumentsThatDoNotFitAreNamed) {
  const Golden golden(kSingle);
  const auto model = load(kSingle, DType::kF32);
  const auto refusal = [&](const std::function<void(ForwardInputs&)>& change,
                           index_t out_size = 4 * 3 * 8 * 10) -> std::string {
    ForwardInputs inputs = golden.inputs();
    change(inputs);
    std::vector<float> out(static_cast<std::size_t>(out_size));
    try {
      model->forward(inputs, out);
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), Status::kInvalidArgument);
      return error.what();
    }
    return "(computed)";
  };
  EXPECT_THAT(refusal([](ForwardInputs& in) { in.size[1] = 7; }),
              HasSubstr("height is 7; this model needs a positive multiple of 2"));
  EXPECT_THAT(refusal([](ForwardInputs& in) { in.size[0] = 33; }), HasSubstr("frames is 33"));
  EXPECT_THAT(refusal([](ForwardInputs& in) { in.latent = in.latent.first(5); }),
              HasSubstr("latent has 5 values; needed are 960"));
  EXPECT_THAT(refusal([](ForwardInputs&) {}, 7), HasSubstr("out has 7 values"));
  EXPECT_THAT(refusal([](ForwardInputs& in) { in.text = {}; }), HasSubstr("text has 0 values"));
  EXPECT_THAT(refusal([](ForwardInputs& in) { in.text = in.text.first(13); }),
              HasSubstr("multiple of text_dim, 12"));
  EXPECT_THAT(refusal([](ForwardInputs& in) { in.timestep = std::nanf(""); }),
              HasSubstr("timestep"));
  EXPECT_THAT(refusal([](ForwardInputs& in) { in.attention = {}; }),
              HasSubstr("0 configurations; allowed are 1 or one per layer, 2"));
  Config broken = dense_config();
  broken.block_q = 100;
  EXPECT_THAT(refusal([&](ForwardInputs& in) { in.attention = std::span(&broken, 1); }),
              HasSubstr("block_q is 100"));
  EXPECT_LT(relative_l2(run(*model, golden.inputs()), golden.out()), 1e-4);
}

/// The single-file checkpoint with its tensors changed by `change`.
std::string refusal_to_load(const std::function<void(std::vector<io::TensorInfo>&)>& change) {
  const io::ScratchDir dir;
  std::filesystem::copy(golden_folder(kSingle) / "config.json", dir.path("config.json"));
  const auto file = io::SafetensorsFile::open(golden_folder(kSingle) / kWeights);
  std::vector<io::TensorInfo> tensors(file.tensors().begin(), file.tensors().end());
  change(tensors);
  io::write_safetensors(dir.path(kWeights), tensors);
  try {
    WanTransformer::load(dir.root(), {.compute = DType::kF32, .num_threads = 1});
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kIo);
    return error.what();
  }
  return "(loaded)";
}

io::TensorInfo& tensor_of(std::vector<io::TensorInfo>& tensors, std::string_view name) {
  return *std::find_if(tensors.begin(), tensors.end(),
                       [&](const io::TensorInfo& tensor) { return tensor.name == name; });
}

TEST(WanTransformer, EveryMissingTensorIsNamed) {
  EXPECT_EQ(refusal_to_load([](std::vector<io::TensorInfo>&) {}), "(loaded)");
  const auto file = io::SafetensorsFile::open(golden_folder(kSingle) / kWeights);
  for (const std::string& name : file.names()) {
    const std::string message = refusal_to_load([&](std::vector<io::TensorInfo>& tensors) {
      std::erase_if(tensors, [&](const io::TensorInfo& tensor) { return tensor.name == name; });
    });
    EXPECT_THAT(message, HasSubstr("tensor '" + name + "' is missing"));
  }
}

TEST(WanTransformer, WrongShapesAndTypesAreNamed) {
  EXPECT_THAT(refusal_to_load([](std::vector<io::TensorInfo>& tensors) {
                tensor_of(tensors, "blocks.1.ffn.net.0.proj.weight").shape = {32, 56};
              }),
              HasSubstr("'blocks.1.ffn.net.0.proj.weight' is [32, 56] of F32; expected is [56, 32] "
                        "of F32, F16 or BF16, by the model's config.json"));
  EXPECT_THAT(refusal_to_load([](std::vector<io::TensorInfo>& tensors) {
                tensor_of(tensors, "proj_out.bias").dtype = io::FileDType::kI32;
              }),
              HasSubstr("'proj_out.bias' is [16] of I32; expected is [16] of F32, F16 or BF16"));
}

TEST(WanTransformer, BadFoldersAndOptionsAreRefused) {
  const io::ScratchDir dir;
  EXPECT_THROW(WanTransformer::load(dir.path("missing")), Error);
  const auto message = [&](const EngineOptions& options) -> std::string {
    try {
      WanTransformer::load(golden_folder(kSingle), options);
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), Status::kInvalidArgument);
      return error.what();
    }
    return "(loaded)";
  };
  EXPECT_THAT(message({.compute = DType::kF16}), HasSubstr("f32 and bf16"));
  EXPECT_THAT(message({.compute = DType::kF32, .num_threads = -2}), HasSubstr("threads is -2"));
}

TEST(WanTransformer, CudaSaysWhatItLacks) {
  const auto message = [](DType compute) {
    return error_text(Status::kUnsupported, [&] {
      WanTransformer::load(golden_folder(kSingle),
                           {.compute = compute, .backend = DeviceType::kCuda});
    });
  };
  const auto lacks_build = HasSubstr("no CUDA backend; configure with -DPSA_CUDA=ON");
  EXPECT_THAT(message(DType::kF32),
              AnyOf(lacks_build, HasSubstr("compute type is f32; on CUDA it is bf16")));
  EXPECT_THAT(message(DType::kBF16),
              AnyOf(lacks_build, HasSubstr("no CUDA device can run the model"),
                    HasSubstr("cuBLASLt"), "(no error)"));
}

}  // namespace
}  // namespace psa::engine
