// SPDX-License-Identifier: Apache-2.0

// Times one denoising step (a forward pass) of a Wan transformer on CUDA device 0 with dense
// attention and with PSA, in one process: the variants take turns, and each figure is a median of
// its rounds. Prints one JSON object.
//
//   wan_step                 Wan2.1 1.3B at 832x480, 81 frames (32,760 tokens), random weights
//   wan_step --model DIR     a checkpoint, at 16 x 64 x 64 with 16 text tokens
//   --rounds N --warmup N    default 7 and 2
//   --density D,D,...        of the variants of PSA in Gilbert order; default 0.15,0.3
//   --preset NAME            one more variant; again for others
//
// With random weights attention is nearly uniform: times are those of the model, relative L2 says
// that both variants ran, not how good a trained model's video is.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/blocks/attention_plans.hpp"
#include "engine/blocks/tensor_source.hpp"
#include "engine/blocks/wan_cuda.hpp"
#include "engine/blocks/wan_transformer.hpp"
#include "engine/cuda/device.hpp"
#include "psa/psa.hpp"

namespace psa::engine {
namespace {

using Json = nlohmann::ordered_json;

/// Uniform numbers in [-1, 1): a linear congruential generator, since a model has 1.4e9 weights.
class Uniform {
 public:
  explicit Uniform(std::uint64_t seed) : state_(seed) {}
  float next() {
    constexpr std::uint64_t kFactor = 6364136223846793005ULL;
    constexpr std::uint64_t kStep = 1442695040888963407ULL;
    state_ = state_ * kFactor + kStep;
    const auto high = static_cast<std::int32_t>(static_cast<std::uint32_t>(state_ >> 32));
    return static_cast<float>(high) * 0x1p-31F;
  }

 private:
  std::uint64_t state_;
};

std::vector<float> uniform_values(index_t count, float size, std::uint64_t seed) {
  Uniform uniform(seed);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = size * uniform.next();
  return values;
}

/// Weights of variance 1 / inputs, norms of weight 1, small biases: activations stay of size 1.
class RandomTensors final : public TensorSource {
 public:
  [[nodiscard]] std::vector<float> values(std::string_view name,
                                          const std::vector<index_t>& shape) const override {
    const index_t count =
        std::accumulate(shape.begin(), shape.end(), index_t{1}, std::multiplies<>());
    const bool is_norm = name.find("norm") != std::string_view::npos && name.ends_with(".weight");
    if (is_norm) return std::vector<float>(static_cast<std::size_t>(count), 1.0F);
    constexpr float kSmall = 0.1F;
    const bool is_matrix = name.ends_with(".weight");
    const index_t inputs = count / shape.front();
    return uniform_values(count, is_matrix ? std::sqrt(3.0F / static_cast<float>(inputs)) : kSmall,
                          std::hash<std::string_view>()(name));
  }
};

/// The built-in model.
WanConfig wan_1_3b() {
  WanConfig config;
  config.num_attention_heads = 12;
  config.ffn_dim = 8960;
  config.num_layers = 30;
  return config;
}

struct Options {
  std::string model;
  int rounds = 7;
  int warmup = 2;
  std::vector<double> densities{0.15, 0.3};
  std::vector<std::string> presets;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    if (i + 1 == argc) throw Error(Status::kInvalidArgument, flag + " needs a value");
    const std::string value = argv[i + 1];
    if (flag == "--model") {
      options.model = value;
    } else if (flag == "--rounds") {
      options.rounds = std::max(1, std::stoi(value));
    } else if (flag == "--warmup") {
      options.warmup = std::stoi(value);
    } else if (flag == "--preset") {
      options.presets.push_back(value);
    } else if (flag == "--density") {
      options.densities.clear();
      std::istringstream numbers(value);
      for (std::string number; std::getline(numbers, number, ',');) {
        options.densities.push_back(std::stod(number));
      }
    } else {
      throw Error(Status::kInvalidArgument, "unknown option " + flag);
    }
  }
  return options;
}

struct Variant {
  std::string name;
  Config config;
  std::vector<double> total_ms{}, attention_ms{};
  double density = 0;
  std::vector<float> prediction{};
};

std::vector<Variant> variants_of(const Options& options) {
  std::vector<Variant> variants{{.name = "dense", .config = dense_config()}};
  for (const double density : options.densities) {
    Config config = with_density({}, density);
    config.reorder = Reorder::kGilbert;
    std::ostringstream name;
    name << "psa density=" << density;
    variants.push_back({.name = name.str(), .config = config});
  }
  for (const std::string& name : options.presets) {
    variants.push_back({.name = "psa preset=" + name, .config = find_preset(name).config});
  }
  return variants;
}

void run(WanTransformer& model, const ForwardInputs& inputs, bool is_timed, Variant& variant) {
  const auto [frames, height, width] = inputs.size;
  variant.prediction.resize(
      static_cast<std::size_t>(model.config().out_channels * frames * height * width));
  ForwardInputs with_config = inputs;
  with_config.attention = std::span(&variant.config, 1);
  const ForwardReport report = model.forward(with_config, variant.prediction);
  variant.density = report.mean_density();
  if (!is_timed) return;
  variant.total_ms.push_back(report.total_ms);
  variant.attention_ms.push_back(report.attention_ms);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

double relative_l2(const std::vector<float>& given, const std::vector<float>& expected) {
  double error = 0;
  double size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double value = static_cast<double>(expected[i]);
    error += std::pow(static_cast<double>(given[i]) - value, 2);
    size += value * value;
  }
  return std::sqrt(error / size);
}

Json to_json(const Variant& variant, const Variant& dense) {
  const double total = median(variant.total_ms);
  const double attention = median(variant.attention_ms);
  const auto [least, most] = std::minmax_element(variant.total_ms.begin(), variant.total_ms.end());
  return {{"variant", variant.name},
          {"total_ms", total},
          {"total_ms_min", *least},
          {"total_ms_max", *most},
          {"attention_ms", attention},
          {"attention_share", attention / total},
          {"density", variant.density},
          {"speed_up", median(dense.total_ms) / total},
          {"attention_speed_up", median(dense.attention_ms) / attention},
          {"relative_l2", relative_l2(variant.prediction, dense.prediction)}};
}

Json measure(const Options& options) {
  const EngineOptions engine{.compute = DType::kBF16, .backend = DeviceType::kCuda};
  const bool is_random = options.model.empty();
  const auto model = is_random ? make_wan_cuda(wan_1_3b(), RandomTensors(), engine)
                               : WanTransformer::load(options.model, engine);
  const WanConfig& config = model->config();
  const std::array<index_t, 3> size =
      is_random ? std::array<index_t, 3>{21, 60, 104} : std::array<index_t, 3>{16, 64, 64};
  const index_t text_tokens = is_random ? 512 : 16;
  constexpr float kUnit = 1.7320508F;  // uniform numbers of variance 1
  const std::vector<float> latent =
      uniform_values(config.in_channels * size[0] * size[1] * size[2], kUnit, 1);
  const std::vector<float> text = uniform_values(text_tokens * config.text_dim, kUnit, 2);
  const ForwardInputs inputs{
      .latent = latent, .size = size, .text = text, .timestep = 500.0F, .attention = {}};

  std::vector<Variant> variants = variants_of(options);
  for (int round = 0; round < options.warmup + options.rounds; ++round) {
    for (Variant& variant : variants) run(*model, inputs, round >= options.warmup, variant);
  }
  const VideoGrid grid = config.grid_of(size);
  Json json{{"model", is_random ? "wan2.1-1.3b, random weights" : options.model},
            {"device", device_name()},
            {"device_memory_bytes", device_memory_in_use()},
            {"layers", config.num_layers},
            {"heads", config.num_attention_heads},
            {"head_dim", config.attention_head_dim},
            {"grid", {grid.frames, grid.height, grid.width}},
            {"tokens", grid.tokens()},
            {"text_tokens", text_tokens},
            {"rounds", options.rounds}};
  json["variants"] = Json::array();
  for (const Variant& variant : variants) json["variants"].push_back(to_json(variant, variants[0]));
  return json;
}

}  // namespace
}  // namespace psa::engine

int main(int argc, char** argv) {
  try {
    std::cout << psa::engine::measure(psa::engine::parse(argc, argv)).dump(2) << "\n";
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "wan_step: " << error.what() << "\n";
    return 1;
  }
}
