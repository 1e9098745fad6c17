// SPDX-License-Identifier: Apache-2.0
#include "engine/generation/generation.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "engine/blocks/attention_plans.hpp"
#include "engine/sampler/noise.hpp"
#include "engine/sampler/sampler.hpp"
#include "psa/error.hpp"

namespace psa::engine {
namespace {

[[noreturn]] void reject(const std::string& message) {
  throw Error(Status::kInvalidArgument, message);
}

void check(const WanConfig& model, const GenerationRequest& request) {
  static_cast<void>(model.grid_of(request.size));
  if (model.in_channels != model.out_channels) {
    reject("the model takes " + std::to_string(model.in_channels) + " channels and predicts " +
           std::to_string(model.out_channels) + "; sampling needs equally many");
  }
  if (request.warmup_steps < 0 || request.warmup_steps > request.steps) {
    reject("the number of warm-up steps is " + std::to_string(request.warmup_steps) +
           "; allowed are 0 to " + std::to_string(request.steps) + ", the number of steps");
  }
  if (!std::isfinite(request.guidance)) reject("guidance is not a finite number");
  const auto check_layer = [&model](const char* what, index_t layer) {
    if (layer >= 0 && layer < model.num_layers) return;
    reject(std::string(what) + " is " + std::to_string(layer) + "; allowed are 0 to " +
           std::to_string(model.num_layers - 1) + ", the layers of the model");
  };
  for (const index_t layer : request.dense_layers) check_layer("a dense layer", layer);
  for (const auto& [layer, config] : request.layers) check_layer("a layer with settings", layer);
}

/// Of each layer, in the steps after the warm-up.
std::vector<Config> layer_attention(const WanConfig& model, const GenerationRequest& request) {
  std::vector<Config> layers(static_cast<std::size_t>(model.num_layers), request.attention);
  for (const auto& [layer, config] : request.layers) {
    layers[static_cast<std::size_t>(layer)] = config;
  }
  for (const index_t layer : request.dense_layers) {
    layers[static_cast<std::size_t>(layer)] = dense_config();
  }
  return layers;
}

/// Adds what one branch did.
void add_branch(const ForwardReport& forward, int branches, StepReport& step) {
  step.layer_density.resize(forward.layers.size());
  for (std::size_t l = 0; l < forward.layers.size(); ++l) {
    step.layer_density[l] += forward.layers[l].density / branches;
  }
  step.attention_ms += forward.attention_ms;
  step.total_ms += forward.total_ms;
}

template <typename Value>
double step_mean(const std::vector<StepReport>& steps, const Value& value) {
  const bool is_warm_up =
      std::all_of(steps.begin(), steps.end(), [](const StepReport& s) { return s.is_dense; });
  double sum = 0;
  int count = 0;
  for (const StepReport& step : steps) {
    if (step.is_dense && !is_warm_up) continue;
    sum += value(step);
    ++count;
  }
  return count == 0 ? 0 : sum / count;
}

}  // namespace

double StepReport::density() const {
  if (layer_density.empty()) return 1;
  return std::accumulate(layer_density.begin(), layer_density.end(), 0.0) /
         static_cast<double>(layer_density.size());
}

double Generation::total_ms() const {
  double ms = 0;
  for (const StepReport& step : steps) ms += step.total_ms;
  return ms;
}

double Generation::step_density() const {
  return step_mean(steps, [](const StepReport& step) { return step.density(); });
}

double Generation::step_attention_ms() const {
  return step_mean(steps, [](const StepReport& step) { return step.attention_ms; });
}

double Generation::step_ms() const {
  return step_mean(steps, [](const StepReport& step) { return step.total_ms; });
}

GenerationRequest dense_request(GenerationRequest request) {
  request.attention = dense_config();
  request.layers.clear();
  return request;
}

Generation generate(WanTransformer& model, const SchedulerConfig& scheduler,
                    const GenerationRequest& request, const GenerationObserver& observer) {
  const WanConfig& config = model.config();
  check(config, request);
  Sampler sampler = Sampler::create(scheduler, request.steps);
  const auto count = static_cast<std::size_t>(config.out_channels * request.size[0] *
                                              request.size[1] * request.size[2]);
  Generation generation;
  generation.sample.resize(count);
  fill_normal(request.seed, generation.sample);
  std::vector<float> velocity(count);
  const bool is_guided = request.guidance != 1.0F;
  std::vector<float> unconditional(is_guided ? count : 0);
  const Config dense = dense_config();
  const std::vector<Config> attention = layer_attention(config, request);

  for (int i = 0; i < request.steps; ++i) {
    StepReport step;
    step.index = i;
    step.timestep = sampler.timestep(i);
    step.is_dense = i < request.warmup_steps;
    ForwardInputs inputs{.latent = generation.sample,
                         .size = request.size,
                         .text = request.text,
                         .timestep = step.timestep,
                         .attention = step.is_dense ? std::span(&dense, 1) : attention};
    AttentionObserver attention_observer;
    if (observer.after_attention) {
      attention_observer = [&](const LayerAttention& layer) { observer.after_attention(i, layer); };
    }
    const int branches = is_guided ? 2 : 1;
    add_branch(model.forward(inputs, velocity, attention_observer), branches, step);
    if (is_guided) {
      inputs.text = request.unconditional;
      add_branch(model.forward(inputs, unconditional), branches, step);
      guide(unconditional, request.guidance, velocity);
    }
    sampler.step(i, velocity, generation.sample);
    if (observer.after_step) observer.after_step(step);
    generation.steps.push_back(std::move(step));
  }
  return generation;
}

}  // namespace psa::engine
