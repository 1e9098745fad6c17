// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/wan_conditions.hpp"

#include <cmath>
#include <cstddef>

#include "engine/blocks/row_tile.hpp"

namespace psa::engine {
namespace {

constexpr double kMaxPeriod = 10000.0;

std::vector<float> floats(index_t count) {
  return std::vector<float>(static_cast<std::size_t>(count));
}

Linear float_layer(const LinearTensors& tensors, Activation activation = Activation::kNone) {
  return {tensors.shape, tensors.weight, tensors.bias, {.activation = activation}};
}

void apply_silu(std::vector<float>& x) {
  for (float& value : x) value /= 1.0F + std::exp(-value);
}

std::vector<float> run_row(const Linear& layer, const std::vector<float>& x) {
  std::vector<float> y = floats(layer.shape().out);
  layer.run(x.data(), 1, y.data());
  return y;
}

}  // namespace

std::vector<float> time_sinusoids(float timestep, index_t channels) {
  const index_t half = channels / 2;
  std::vector<float> values = floats(channels);
  for (index_t i = 0; i < half; ++i) {
    const double exponent = static_cast<double>(i) / static_cast<double>(half);
    const double angle = static_cast<double>(timestep) * std::pow(kMaxPeriod, -exponent);
    values[static_cast<std::size_t>(i)] = static_cast<float>(std::cos(angle));
    values[static_cast<std::size_t>(half + i)] = static_cast<float>(std::sin(angle));
  }
  return values;
}

WanConditions::WanConditions(const WanConfig& config, const WanOuterTensors& tensors)
    : freq_dim_(config.freq_dim),
      time_1_(float_layer(tensors.time_1)),
      time_2_(float_layer(tensors.time_2)),
      time_proj_(float_layer(tensors.time_proj)),
      text_1_(float_layer(tensors.text_1, Activation::kGeluTanh)),
      text_2_(float_layer(tensors.text_2)) {}

WanConditions::Time WanConditions::embed_time(float timestep) const {
  std::vector<float> hidden = run_row(time_1_, time_sinusoids(timestep, freq_dim_));
  apply_silu(hidden);
  Time time;
  time.embedding = run_row(time_2_, hidden);
  std::vector<float> activated = time.embedding;
  apply_silu(activated);
  time.projection = run_row(time_proj_, activated);
  return time;
}

std::vector<float> WanConditions::embed_text(std::span<const float> text, WorkerPool& pool) const {
  const index_t text_dim = text_1_.shape().in;
  const index_t dim = text_2_.shape().out;
  const index_t tokens = std::ssize(text) / text_dim;
  std::vector<float> embedded = floats(tokens * dim);
  pool.for_each(num_tiles(tokens), [&](index_t index, int /*worker*/) {
    const Tile tile = tile_at(index, tokens);
    std::vector<float> hidden = floats(tile.count * dim);
    text_1_.run(text.data() + tile.begin * text_dim, tile.count, hidden.data());
    text_2_.run(hidden.data(), tile.count, embedded.data() + tile.begin * dim);
  });
  return embedded;
}

}  // namespace psa::engine
