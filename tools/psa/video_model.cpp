// SPDX-License-Identifier: Apache-2.0
#include "video_model.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "psa/error.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

constexpr index_t kMaxSide = 1 << 16;
constexpr index_t kMaxSteps = 1000;
constexpr index_t kDefaultSteps = 30;
constexpr double kMaxGuidance = 1000;
constexpr Words<DeviceType, 2> kBackends{{{"cpu", DeviceType::kCpu}, {"cuda", DeviceType::kCuda}}};

index_t size_of_axis(const char* flag, const std::string& given,
                     const engine::GenerationDefaults& defaults, std::size_t axis) {
  std::optional<index_t> fallback;
  if (defaults.size) fallback = (*defaults.size)[axis];
  return integer_of(flag, given, fallback, 1, kMaxSide);
}

/// "6,7", or "none"; not given: what the model recommends. generate() knows how many there are.
std::vector<index_t> dense_layers_of(const std::string& given,
                                     const engine::GenerationDefaults& defaults) {
  if (given.empty()) return defaults.dense_layers.value_or(std::vector<index_t>{});
  std::vector<index_t> layers;
  if (given == "none") return layers;
  for (const std::string_view layer : split(given, ',')) {
    layers.push_back(parse_integer({"a layer of --dense-layers", layer}, 0,
                                   std::numeric_limits<index_t>::max()));
  }
  return layers;
}

/// The flag's, else those of --config, else what the model recommends.
int warmup_steps_of(const std::string& given, const std::optional<FileConfig>& file,
                    const engine::GenerationDefaults& defaults, int steps) {
  if (given.empty() && file && file->warmup_steps) {
    return static_cast<int>(parse_integer(
        {file->origin + ": warmup_steps", std::to_string(*file->warmup_steps)}, 0, steps));
  }
  return static_cast<int>(
      integer_of("--warmup-steps", given, defaults.warmup_steps.value_or(0), 0, steps));
}

}  // namespace

index_t integer_of(const char* flag, const std::string& given, std::optional<index_t> fallback,
                   index_t low, index_t high) {
  if (!given.empty()) return parse_integer({flag, given}, low, high);
  if (fallback && *fallback >= low && *fallback <= high) return *fallback;
  if (fallback) {
    throw Error(Status::kIo, std::string(engine::kDefaultsFile) + " of the model gives " +
                                 std::to_string(*fallback) + " for " + flag + "; allowed are " +
                                 std::to_string(low) + " to " + std::to_string(high));
  }
  throw Error(Status::kInvalidArgument, std::string(flag) + " is needed: the model has no " +
                                            engine::kDefaultsFile + " that says it");
}

void SamplingOptions::add(CLI::App& command) {
  constexpr const char* kGroup = "Sampling (default: the model's psa.json)";
  const auto add = [&](const char* flag, std::string& value, const char* help,
                       const char* type = "N") {
    command.add_option(flag, value, help)->type_name(type)->group(kGroup);
  };
  add("--frames", frames, "of the video");
  add("--height", height, "in pixels");
  add("--width", width, "in pixels");
  add("--steps", steps, "of the sampler (else 30)");
  add(seed_flag, seed, "of the noise; equal seeds give equal videos (default 0)");
  add("--guidance", guidance, "strength of the prompt; 1 (else) is none", "G");
  add("--warmup-steps", warmup_steps, "first steps with dense attention (else 0)");
  add("--dense-layers", dense_layers, "layers with dense attention, from 0, or none", "N,...");
}

engine::GenerationRequest sampling_request(const SamplingOptions& options,
                                           const engine::GenerationDefaults& defaults,
                                           const std::optional<FileConfig>& file) {
  engine::GenerationRequest request;
  request.size = {size_of_axis("--frames", options.frames, defaults, 0),
                  size_of_axis("--height", options.height, defaults, 1),
                  size_of_axis("--width", options.width, defaults, 2)};
  request.steps = static_cast<int>(
      integer_of("--steps", options.steps, defaults.steps.value_or(kDefaultSteps), 1, kMaxSteps));
  request.warmup_steps = warmup_steps_of(options.warmup_steps, file, defaults, request.steps);
  request.dense_layers = dense_layers_of(options.dense_layers, defaults);
  request.guidance =
      static_cast<float>(options.guidance.empty() ? defaults.guidance.value_or(1)
                                                  : parse_number({"--guidance", options.guidance},
                                                                 -kMaxGuidance, kMaxGuidance));
  if (!options.seed.empty()) {
    request.seed = static_cast<std::uint64_t>(
        parse_integer({options.seed_flag, options.seed}, 0, std::numeric_limits<index_t>::max()));
  }
  return request;
}

void add_compute_option(CLI::App& command, std::string& compute, const char* group) {
  command
      .add_option("--compute", compute,
                  "default: bf16 where the processor has it, and on CUDA, which takes no other")
      ->type_name("f32|bf16")
      ->group(group);
}

engine::EngineOptions engine_options(const std::string& backend, const std::string& compute,
                                     int threads) {
  engine::EngineOptions options;
  options.backend = parse_word({"--backend", backend}, kBackends);
  options.num_threads = threads;
  options.compute = compute.empty() ? engine::preferred_compute(options.backend)
                                    : parse_dtype("--compute", compute);
  return options;
}

std::unique_ptr<engine::WanTransformer> load_transformer(const std::filesystem::path& model,
                                                         const engine::EngineOptions& options,
                                                         const engine::TextEncoder& encoder) {
  auto transformer = engine::WanTransformer::load(model, options);
  if (encoder.width() == transformer->config().text_dim) return transformer;
  throw Error(Status::kIo, "the text encoder has " + std::to_string(encoder.width()) +
                               " channels, the transformer's text_dim is " +
                               std::to_string(transformer->config().text_dim));
}

engine::Video pixels_of(const engine::Generation& generation, const std::array<index_t, 3>& size) {
  return engine::video_of(generation.sample, {static_cast<int>(size[0]), static_cast<int>(size[1]),
                                              static_cast<int>(size[2])});
}

int visible_enlargement(index_t height, index_t width) {
  constexpr index_t kVisible = 256;
  return static_cast<int>(std::max<index_t>(1, kVisible / std::max(height, width)));
}

}  // namespace psa::cli
