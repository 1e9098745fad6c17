// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "engine/blocks/wan_transformer.hpp"
#include "engine/sampler/scheduler_config.hpp"

namespace psa::engine {

/// What to sample; text is not owned.
struct GenerationRequest {
  std::array<index_t, 3> size{};         ///< frames, height, width of what the model predicts
  int steps = 30;                        ///< model calls of each branch
  std::uint64_t seed = 0;                ///< of the noise that sampling starts from
  float guidance = 1;                    ///< classifier-free; 1 runs the conditional branch alone
  std::span<const float> text;           ///< [tokens, text_dim]
  std::span<const float> unconditional;  ///< the same of no prompt; not read if guidance is 1
  Config attention;                      ///< of self-attention
  std::map<index_t, Config> layers;      ///< the same of single layers, each 0..layers - 1
  /// The first steps run dense attention: they decide the layout of the video, and an error there
  /// is carried through all others.
  int warmup_steps = 0;
  /// Layers that run dense attention in every step; each 0..layers - 1.
  std::vector<index_t> dense_layers;
};

/// One step, both branches together.
struct StepReport {
  int index = 0;
  float timestep = 0;
  bool is_dense = false;                 ///< a warm-up step
  std::vector<double> layer_density;     ///< mean of the branches
  double attention_ms = 0;               ///< self-attention with everything that psa does for it
  double total_ms = 0;                   ///< the model calls
  [[nodiscard]] double density() const;  ///< mean of the layers
};

struct Generation {
  std::vector<float> sample;  ///< [out_channels, frames, height, width]
  std::vector<StepReport> steps;

  /// All steps.
  [[nodiscard]] double total_ms() const;
  /// Means of the steps after the warm-up; of all if there are none.
  [[nodiscard]] double step_density() const;
  [[nodiscard]] double step_attention_ms() const;
  [[nodiscard]] double step_ms() const;
};

/// The same video with dense attention in every layer and step.
[[nodiscard]] GenerationRequest dense_request(GenerationRequest request);

/// Called while a video is made; either may be empty.
struct GenerationObserver {
  std::function<void(const StepReport&)> after_step;
  /// Self-attention of a layer in the conditional branch.
  std::function<void(int step, const LayerAttention&)> after_attention;
};

/// Samples a video from noise: fill_normal(seed), then sampler steps over the model's velocity.
/// Equal arguments give equal bits on one machine. Throws Error(kInvalidArgument) if steps, warm-up
/// or guidance are out of range, or the sizes do not fit the model, and what the model throws.
[[nodiscard]] Generation generate(WanTransformer& model, const SchedulerConfig& scheduler,
                                  const GenerationRequest& request,
                                  const GenerationObserver& observer = {});

}  // namespace psa::engine
