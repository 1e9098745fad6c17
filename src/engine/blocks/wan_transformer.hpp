// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/blocks/wan_config.hpp"
#include "psa/psa.hpp"

namespace psa::engine {

/// bf16 where it is multiplied faster than float, as on CUDA always, else float.
[[nodiscard]] DType preferred_compute(DeviceType backend = DeviceType::kCpu);

struct EngineOptions {
  /// Type of activations and weights in the products and attention of the blocks: kF32 or kBF16.
  /// The residual stream, norms, embeddings and the output layer are float either way. bf16 on the
  /// CPU needs AVX-512; CUDA computes in bf16 alone.
  DType compute = preferred_compute();
  int num_threads = 0;  ///< 0: one per processor that the process may use; else 1..1024
  DeviceType backend = DeviceType::kCpu;  ///< kCuda: CUDA device 0
};

/// Arguments of one forward pass; nothing is owned.
struct ForwardInputs {
  std::span<const float> latent;      ///< [in_channels, frames, height, width]
  std::array<index_t, 3> size{};      ///< frames, height, width of the latent
  std::span<const float> text;        ///< [tokens, text_dim], tokens >= 1; all are attended to
  float timestep = 0;                 ///< 1000 * sigma for the published models
  std::span<const Config> attention;  ///< of self-attention: one for all layers, or one per layer

  [[nodiscard]] const Config& attention_of(std::size_t layer) const {
    return attention[attention.size() == 1 ? 0 : layer];
  }
};

/// Throws Error(kInvalidArgument) unless the arguments of a forward pass fit a model and each
/// other; `out_values` is the size of its result.
void check_forward(const WanConfig& config, const ForwardInputs& inputs, std::size_t out_values);

/// Self-attention of one layer, right after it ran. The views are of [1, heads, tokens, head_dim]
/// and hold until the observer returns; q and k are normalised and rotated, the softmax scale is
/// still to be applied. All is in host memory, copies if the model computes elsewhere.
struct LayerAttention {
  int layer = 0;
  VideoGrid grid{};
  TensorView q, k, v, out;
  RunStats stats;  ///< of a model on CUDA without the times of stages
  double ms = 0;   ///< of the whole call of psa: reorder, pyramid, selection, attention
};

using AttentionObserver = std::function<void(const LayerAttention&)>;

/// What a forward pass did.
struct ForwardReport {
  struct Layer {
    double density = 0;  ///< share of the logit columns that were computed
    double selection_cost = 0;
    double attention_ms = 0;
  };
  std::vector<Layer> layers;
  double total_ms = 0;      ///< wall time up to the prediction, without the observer's
  double attention_ms = 0;  ///< of it, self-attention with everything that psa does for it

  [[nodiscard]] double mean_density() const;
};

/// A video diffusion transformer in the format of diffusers' WanTransformer3DModel, with
/// self-attention through psa. One forward pass at a time per object; classifier-free guidance is
/// two passes.
class WanTransformer {
 public:
  /// Reads config.json and the weights of a diffusers checkpoint: `dir`, or its subfolder
  /// "transformer". Throws Error: kIo when a file is missing or not valid, or a tensor is missing
  /// or has another shape or type than config.json asks for (named, with expected and found);
  /// kUnsupported when this engine does not compute such a model, or not on this machine;
  /// kInvalidArgument for options out of their range.
  static std::unique_ptr<WanTransformer> load(const std::filesystem::path& dir,
                                              const EngineOptions& options = {});
  WanTransformer() = default;
  WanTransformer(const WanTransformer&) = delete;
  WanTransformer& operator=(const WanTransformer&) = delete;
  virtual ~WanTransformer() = default;

  [[nodiscard]] virtual const WanConfig& config() const = 0;

  /// Writes the prediction of the model, out [out_channels, frames, height, width]. Equal arguments
  /// give equal bits on one machine, whatever the number of threads. `observer`, if given, is
  /// called after each layer's self-attention. Throws Error(kInvalidArgument) for sizes that do not
  /// fit the model or each other, before anything is computed, and what Plan::create throws for
  /// `attention`.
  virtual ForwardReport forward(const ForwardInputs& inputs, std::span<float> out,
                                const AttentionObserver& observer = {}) = 0;
};

}  // namespace psa::engine
