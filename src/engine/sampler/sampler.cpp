// SPDX-License-Identifier: Apache-2.0
// Compiled with -ffp-contract=off: a fused multiply-add could move a timestep across a whole
// number.
#include "engine/sampler/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "psa/error.hpp"

namespace psa::engine {
namespace {

[[noreturn]] void reject(const std::string& message) {
  throw Error(Status::kInvalidArgument, message);
}

void check(const SchedulerConfig& config, int steps) {
  if (!(config.shift > 0) || !std::isfinite(config.shift)) {
    reject("shift is " + std::to_string(config.shift) + "; allowed are numbers above 0");
  }
  if (config.num_train_timesteps < 1) {
    reject("num_train_timesteps is " + std::to_string(config.num_train_timesteps) +
           "; allowed are 1 and more");
  }
  if (steps < 1 || steps > config.num_train_timesteps) {
    reject("the number of steps is " + std::to_string(steps) + "; allowed are 1 to " +
           std::to_string(config.num_train_timesteps));
  }
  if (config.kind == SamplerKind::kUniPc && (config.solver_order < 1 || config.solver_order > 2)) {
    reject("solver_order is " + std::to_string(config.solver_order) + "; allowed are 1 and 2");
  }
}

double shifted(double u, double shift) { return shift * u / (1 + (shift - 1) * u); }

double euler_sigma(const SchedulerConfig& config, int index, int steps) {
  return shifted(1 - static_cast<double>(index) / steps, config.shift);
}

double unipc_sigma(const SchedulerConfig& config, int index, int steps) {
  // In the order of NumPy's linspace: the timestep is cut to a whole number, which it may be
  // already.
  const double spacing = (1.0 / config.num_train_timesteps - 1) / steps;
  const double sigma = shifted(index * spacing + 1, config.shift);
  // The solver takes log(1 - sigma).
  constexpr double kMargin = 1e-6;
  return index == 0 && std::abs(sigma - 1) < kMargin ? sigma - kMargin : sigma;
}

}  // namespace

Sampler Sampler::create(const SchedulerConfig& config, int steps) {
  check(config, steps);
  Sampler sampler;
  const bool is_unipc = config.kind == SamplerKind::kUniPc;
  for (int i = 0; i < steps; ++i) {
    const double sigma = is_unipc ? unipc_sigma(config, i, steps) : euler_sigma(config, i, steps);
    const double timestep = config.num_train_timesteps * sigma;
    sampler.sigmas_.push_back(static_cast<float>(sigma));
    sampler.timesteps_.push_back(static_cast<float>(is_unipc ? std::trunc(timestep) : timestep));
  }
  sampler.sigmas_.push_back(0);
  if (is_unipc) {
    sampler.unipc_.emplace(sampler.sigmas_, config.solver_order, config.disable_corrector);
  }
  return sampler;
}

float Sampler::timestep(int index) const {
  if (index < 0 || index >= steps()) reject("there is no step " + std::to_string(index));
  return timesteps_[static_cast<std::size_t>(index)];
}

float Sampler::sigma(int index) const {
  if (index < 0 || index > steps()) reject("there is no step " + std::to_string(index));
  return sigmas_[static_cast<std::size_t>(index)];
}

void Sampler::step(int index, std::span<const float> velocity, std::span<float> sample) {
  if (index != next_step_ || index >= steps()) {
    reject("step " + std::to_string(index) + " of " + std::to_string(steps()) +
           " was asked for; the next one is " + std::to_string(next_step_));
  }
  if (index == 0) sample_size_ = sample.size();
  if (velocity.size() != sample_size_ || sample.size() != sample_size_) {
    reject("step " + std::to_string(index) + " has " + std::to_string(velocity.size()) +
           " velocities and " + std::to_string(sample.size()) + " samples; expected " +
           std::to_string(sample_size_));
  }
  ++next_step_;
  if (unipc_) {
    unipc_->step(index, velocity, sample);
    return;
  }
  const float change = sigma(index + 1) - sigma(index);
  for (std::size_t i = 0; i < sample.size(); ++i) sample[i] += change * velocity[i];
}

void guide(std::span<const float> unconditional, float guidance, std::span<float> conditional) {
  if (unconditional.size() != conditional.size()) {
    reject("guidance combines " + std::to_string(unconditional.size()) + " and " +
           std::to_string(conditional.size()) + " velocities; expected equally many");
  }
  for (std::size_t i = 0; i < conditional.size(); ++i) {
    conditional[i] = unconditional[i] + guidance * (conditional[i] - unconditional[i]);
  }
}

}  // namespace psa::engine
