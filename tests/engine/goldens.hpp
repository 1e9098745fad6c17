// SPDX-License-Identifier: Apache-2.0
#pragma once

// The tiny Wan checkpoints of make_goldens.py, each with what diffusers computes from it.

#include <array>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/blocks/attention_plans.hpp"
#include "engine/blocks/wan_transformer.hpp"
#include "engine/gemm/linear.hpp"
#include "engine/tensors/safetensors.hpp"
#include "psa/error.hpp"

namespace psa::engine {

inline std::filesystem::path golden_folder(std::string_view name) {
  return std::filesystem::path(PSA_GOLDENS_DIR) / name;
}

/// Inputs and output of one golden forward pass.
class Golden {
 public:
  explicit Golden(std::string_view name)
      : file_(io::SafetensorsFile::open(golden_folder(name) / "golden.safetensors")) {}

  /// With dense attention in all layers.
  [[nodiscard]] ForwardInputs inputs() const {
    const std::vector<index_t>& shape = file_.at("latent").shape;
    return {.latent = file_.values<float>("latent"),
            .size = {shape[1], shape[2], shape[3]},
            .text = file_.values<float>("text"),
            .timestep = file_.values<float>("timestep")[0],
            .attention = std::span(&dense_, 1)};
  }
  [[nodiscard]] std::span<const float> out() const { return file_.values<float>("out"); }

 private:
  io::SafetensorsFile file_;
  Config dense_ = dense_config();
};

/// The prediction of a model, which must write all of it.
inline std::vector<float> run(WanTransformer& model, const ForwardInputs& inputs,
                              const AttentionObserver& observer = {}) {
  const auto [frames, height, width] = inputs.size;
  std::vector<float> out(
      static_cast<std::size_t>(model.config().out_channels * frames * height * width),
      std::numeric_limits<float>::quiet_NaN());
  model.forward(inputs, out, observer);
  return out;
}

/// A PSA configuration for the short sequences of the goldens.
inline Config sparse_config() {
  Config config;
  config.block_q = 16;
  config.block_kv = 16;
  config.pooled_tokens = 8;
  config.reorder = Reorder::kGilbert;
  return config;
}

/// Compute types that oneDNN has on this processor: float, and bf16 with AVX-512.
inline std::vector<DType> compute_types() {
  const std::array<float, 1> one{1.0F};
  try {
    const Linear bf16({1, 1}, one, one, {.compute = DType::kBF16});
  } catch (const Error& error) {
    if (error.status() == Status::kUnsupported) return {DType::kF32};
    throw;
  }
  return {DType::kF32, DType::kBF16};
}

inline double relative_l2(std::span<const float> given, std::span<const float> expected) {
  double error = 0;
  double size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double value = static_cast<double>(expected[i]);
    error += std::pow(static_cast<double>(given[i]) - value, 2);
    size += value * value;
  }
  return std::sqrt(error / size);
}

}  // namespace psa::engine
