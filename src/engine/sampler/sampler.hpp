// SPDX-License-Identifier: Apache-2.0
#pragma once

// Flow matching: a model is trained on x = (1 - sigma) * video + sigma * noise and predicts the
// velocity dx/dsigma = noise - video. Sampling starts from noise at sigma = 1 and follows the
// predicted velocity down to sigma = 0.

#include <optional>
#include <span>
#include <vector>

#include "engine/sampler/scheduler_config.hpp"
#include "engine/sampler/unipc.hpp"

namespace psa::engine {

/// The noise levels of `config.num_train_timesteps` steps, and the numerical solver that goes from
/// each to the next:
///
///   for (int i = 0; i < sampler.steps(); ++i) {
///     sampler.step(i, model(sample, sampler.timestep(i)), sample);
///   }
///
/// One object samples one video, on one thread; equal arguments give equal bits.
class Sampler {
 public:
  /// Euler: u = 1 - i/steps, sigma = shift*u / (1 + (shift-1)*u), timestep = 1000 sigma. diffusers
  /// gives the same when it is passed the sigmas u, as its own pipelines for flow-matching models
  /// do; its bare set_timesteps(steps) shifts twice.
  /// UniPC: u falls from 1 to 1/num_train_timesteps in `steps` equal parts, the last of which is
  /// left out; timesteps are cut to whole numbers. Both as in diffusers' set_timesteps(steps).
  /// Throws Error(kInvalidArgument) if `steps` is not 1..num_train_timesteps or `config` is not
  /// valid.
  static Sampler create(const SchedulerConfig& config, int steps);

  [[nodiscard]] int steps() const { return static_cast<int>(timesteps_.size()); }
  /// What the model is told of step `index`, 0..steps()-1, else Error(kInvalidArgument).
  [[nodiscard]] float timestep(int index) const;
  /// Share of noise before step `index`; sigma(steps()) is 0. Throws as timestep().
  [[nodiscard]] float sigma(int index) const;

  /// Replaces `sample` [N], at sigma(index), by its estimate at sigma(index + 1), given the model's
  /// `velocity` [N] for it. Steps are taken once each, in order, all with one N; anything else
  /// throws Error(kInvalidArgument). The spans may not overlap.
  void step(int index, std::span<const float> velocity, std::span<float> sample);

 private:
  Sampler() = default;

  std::vector<float> sigmas_;     ///< [steps + 1]
  std::vector<float> timesteps_;  ///< [steps]
  std::optional<UniPc> unipc_;
  int next_step_ = 0;
  std::size_t sample_size_ = 0;  ///< of the first step
};

/// Classifier-free guidance, in place: conditional = unconditional + guidance * (conditional -
/// unconditional). Guidance 1 keeps the conditional velocity. Throws Error(kInvalidArgument) if the
/// sizes differ.
void guide(std::span<const float> unconditional, float guidance, std::span<float> conditional);

}  // namespace psa::engine
