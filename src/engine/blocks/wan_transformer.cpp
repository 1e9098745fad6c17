// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/wan_transformer.hpp"

#include "engine/blocks/checkpoint.hpp"
#include "engine/blocks/wan_cpu.hpp"
#include "engine/gemm/linear.hpp"

namespace psa::engine {

DType preferred_compute() { return has_bf16_products() ? DType::kBF16 : DType::kF32; }

double ForwardReport::mean_density() const {
  double sum = 0;
  for (const Layer& layer : layers) sum += layer.density;
  return layers.empty() ? 0.0 : sum / static_cast<double>(layers.size());
}

std::unique_ptr<WanTransformer> WanTransformer::load(const std::filesystem::path& dir,
                                                     const EngineOptions& options) {
  const std::filesystem::path folder = transformer_folder(dir);
  const WanConfig config = read_wan_config(folder);
  return std::make_unique<WanCpu>(config, Checkpoint::open(folder), options);
}

}  // namespace psa::engine
