// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/wan_transformer.hpp"

#include <cmath>
#include <string>
#include <utility>

#include "engine/blocks/checkpoint.hpp"
#include "engine/blocks/wan_cpu.hpp"
#include "engine/blocks/wan_cuda.hpp"
#include "engine/gemm/linear.hpp"
#include "psa/error.hpp"

namespace psa::engine {
namespace {

void check_size(const std::string& name, std::size_t given, index_t needed,
                const std::string& axes) {
  if (std::cmp_equal(given, needed)) return;
  throw Error(Status::kInvalidArgument, name + " has " + std::to_string(given) +
                                            " values; needed are " + std::to_string(needed) + ", " +
                                            axes);
}

}  // namespace

DType preferred_compute(DeviceType backend) {
  return backend == DeviceType::kCuda || has_bf16_products() ? DType::kBF16 : DType::kF32;
}

void check_forward(const WanConfig& config, const ForwardInputs& inputs, std::size_t out_values) {
  const auto [frames, height, width] = inputs.size;
  const index_t volume = frames * height * width;
  check_size("latent", inputs.latent.size(), config.in_channels * volume,
             "[in_channels, frames, height, width]");
  check_size("out", out_values, config.out_channels * volume,
             "[out_channels, frames, height, width]");
  if (inputs.text.empty() || std::ssize(inputs.text) % config.text_dim != 0) {
    throw Error(Status::kInvalidArgument,
                "text has " + std::to_string(inputs.text.size()) +
                    " values; needed is a positive multiple of text_dim, " +
                    std::to_string(config.text_dim));
  }
  if (!std::isfinite(inputs.timestep)) {
    throw Error(Status::kInvalidArgument, "timestep is not finite");
  }
  const std::size_t configs = inputs.attention.size();
  if (configs != 1 && !std::cmp_equal(configs, config.num_layers)) {
    throw Error(Status::kInvalidArgument, "attention has " + std::to_string(configs) +
                                              " configurations; allowed are 1 or one per layer, " +
                                              std::to_string(config.num_layers));
  }
}

double ForwardReport::mean_density() const {
  double sum = 0;
  for (const Layer& layer : layers) sum += layer.density;
  return layers.empty() ? 0.0 : sum / static_cast<double>(layers.size());
}

std::unique_ptr<WanTransformer> WanTransformer::load(const std::filesystem::path& dir,
                                                     const EngineOptions& options) {
  const std::filesystem::path folder = transformer_folder(dir);
  const WanConfig config = read_wan_config(folder);
  const Checkpoint checkpoint = Checkpoint::open(folder);
  if (options.backend == DeviceType::kCuda) return make_wan_cuda(config, checkpoint, options);
  return std::make_unique<WanCpu>(config, checkpoint, options);
}

}  // namespace psa::engine
