// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/wan_cpu.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>

#include "engine/blocks/rows.hpp"
#include "psa/error.hpp"

namespace psa::engine {
namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

std::size_t to_size(index_t count) { return static_cast<std::size_t>(count); }

PlanOptions plan_options(WorkerPool& pool) {
  PlanOptions options;
  pool.share_with(options);
  return options;
}

const WanConfig& checked(const WanConfig& config, const EngineOptions& options) {
  if (options.compute == DType::kF16) {
    throw Error(Status::kInvalidArgument,
                "the compute type is f16; allowed on the CPU are f32 and bf16");
  }
  return config;
}

}  // namespace

WanCpu::WanCpu(const WanConfig& config, const TensorSource& source, const EngineOptions& options)
    : WanCpu(checked(config, options), source, read_outer(source, config), options) {}

WanCpu::WanCpu(const WanConfig& config, const TensorSource& source, const WanOuterTensors& outer,
               const EngineOptions& options)
    : config_(config),
      compute_(options.compute),
      eps_(static_cast<float>(config.eps)),
      pool_(options.num_threads),
      conditions_(config, outer),
      patch_embedding_(outer.patch_embedding.shape, outer.patch_embedding.weight,
                       outer.patch_embedding.bias, {}),
      proj_out_(outer.proj_out.shape, outer.proj_out.weight, outer.proj_out.bias, {}),
      out_scale_shift_(outer.scale_shift),
      heads_{config.num_attention_heads, config.attention_head_dim, options.compute},
      self_attention_(heads_, plan_options(pool_)),
      cross_attention_(heads_, to_size(pool_.workers())) {
  for (index_t layer = 0; layer < config.num_layers; ++layer) {
    blocks_.push_back(make_block(read_block(source, config, layer), compute_));
  }
}

WanCpu::Block WanCpu::make_block(const WanBlockTensors& tensors, DType compute) {
  const auto linear = [&](const LinearTensors& layer, DType out,
                          Activation activation = Activation::kNone) {
    return Linear(layer.shape, layer.weight, layer.bias, {compute, out, activation});
  };
  constexpr DType kFloat = DType::kF32;
  Block block;
  block.to_qk = linear(stack(tensors.self.to_q, tensors.self.to_k), kFloat);
  block.to_v = linear(tensors.self.to_v, compute);
  block.to_out = linear(tensors.self.to_out, kFloat);
  block.norm_q = tensors.self.norm_q;
  block.norm_k = tensors.self.norm_k;
  block.cross_to_q = linear(tensors.cross.to_q, kFloat);
  block.cross_to_k = linear(tensors.cross.to_k, kFloat);
  block.cross_to_v = linear(tensors.cross.to_v, compute);
  block.cross_to_out = linear(tensors.cross.to_out, kFloat);
  block.cross_norm_q = tensors.cross.norm_q;
  block.cross_norm_k = tensors.cross.norm_k;
  block.norm2_weight = tensors.norm2_weight;
  block.norm2_bias = tensors.norm2_bias;
  block.ffn_up = linear(tensors.ffn_up, compute, Activation::kGeluTanh);
  block.ffn_down = linear(tensors.ffn_down, kFloat);
  block.scale_shift = tensors.scale_shift;
  return block;
}

void WanCpu::prepare(const ForwardInputs& inputs, const VideoGrid& grid) {
  const index_t dim = config_.dim();
  const index_t tokens = grid.tokens();
  const Tile last = tile_at(num_tiles(tokens) - 1, tokens);
  for (const Config& config : inputs.attention) self_attention_.prepare(grid, config);
  if (!workspace_ || workspace_->bytes().size() < self_attention_.workspace_bytes()) {
    workspace_.reset();  // before the larger one is there
    workspace_.emplace(self_attention_.workspace_bytes());
  }
  cross_attention_.prepare(std::ssize(inputs.text) / config_.text_dim,
                           {std::min(kTileRows, tokens), last.count});
  if (grid != grid_) {
    rotary_ = RotaryTable(config_.attention_head_dim, grid);
    grid_ = grid;
  }
  if (x_.rows() != tokens) {
    x_ = RowBuffer(DType::kF32, tokens, dim);
    for (RowBuffer* buffer : {&q_, &k_, &v_, &attended_}) {
      *buffer = RowBuffer(compute_, tokens, dim);
    }
  }
  if (!scratch_.empty()) return;
  const index_t patch_values =
      std::max(config_.in_channels, config_.out_channels) * config_.patch_volume();
  for (int worker = 0; worker < pool_.workers(); ++worker) {
    scratch_.push_back({.normed = {compute_, kTileRows, dim},
                        .wide = {DType::kF32, kTileRows, 2 * dim},
                        .hidden = {compute_, kTileRows, config_.ffn_dim},
                        .cross_q = {compute_, kTileRows, dim},
                        .cross_out = {compute_, kTileRows, dim},
                        .patches = {DType::kF32, kTileRows, patch_values},
                        .row = std::vector<float>(to_size(dim)),
                        .cosine = std::vector<float>(to_size(rotary_.pairs())),
                        .sine = std::vector<float>(to_size(rotary_.pairs()))});
  }
}

void WanCpu::set_conditions(const ForwardInputs& inputs) {
  const std::size_t dim = to_size(config_.dim());
  const WanConditions::Time time = conditions_.embed_time(inputs.timestep);
  for (Block& block : blocks_) {
    block.modulation = block.scale_shift;
    add(block.modulation.data(), time.projection.data(), std::ssize(block.modulation));
    for (const ModulationRow scale : {kAttentionScale, kFfnScale}) {
      float* const row = block.modulation.data() + scale * dim;
      for (std::size_t i = 0; i < dim; ++i) row[i] += 1.0F;
    }
  }
  out_modulation_ = out_scale_shift_;
  for (std::size_t i = 0; i < dim; ++i) {
    out_modulation_[i] += time.embedding[i];
    out_modulation_[dim + i] += time.embedding[i] + 1.0F;
  }
  const std::vector<float> text = conditions_.embed_text(inputs.text, pool_);
  pool_.for_each(std::ssize(blocks_), [&](index_t layer, int worker) {
    set_text(blocks_[to_size(layer)], text, scratch_[to_size(worker)]);
  });
}

void WanCpu::set_text(Block& block, std::span<const float> text, Scratch& scratch) {
  const index_t dim = config_.dim();
  const index_t tokens = std::ssize(text) / dim;
  if (block.cross_k.rows() != tokens) {
    block.cross_k = RowBuffer(compute_, tokens, dim);
    block.cross_v = RowBuffer(compute_, tokens, dim);
  }
  for (index_t index = 0; index < num_tiles(tokens); ++index) {
    const Tile tile = tile_at(index, tokens);
    for (index_t i = 0; i < tile.count; ++i) {
      scratch.normed.store(i, text.data() + (tile.begin + i) * dim);
    }
    block.cross_to_v.run(scratch.normed.at(0), tile.count, block.cross_v.at(tile.begin));
    float* const k = scratch.wide.floats(0);  // [tile, dim]
    block.cross_to_k.run(scratch.normed.at(0), tile.count, k);
    for (index_t i = 0; i < tile.count; ++i) {
      rms_norm(k + i * dim, dim, eps_, block.cross_norm_k.data());
      block.cross_k.store(tile.begin + i, k + i * dim);
    }
  }
}

void WanCpu::embed_patches(const Pass& pass, const Tile& tile, Scratch& scratch) {
  const index_t values = patch_embedding_.shape().in;
  float* const patches = scratch.patches.floats(0);
  for (index_t i = 0; i < tile.count; ++i) {
    gather_patch(pass.layout, config_.in_channels, pass.latent, tile.begin + i,
                 patches + i * values);
  }
  patch_embedding_.run(patches, tile.count, x_.at(tile.begin));
}

/// scratch.normed = layer norm of the tile's residual rows, times scale, plus shift.
void WanCpu::normalise(const Tile& tile, const float* scale, const float* shift, Scratch& scratch) {
  for (index_t i = 0; i < tile.count; ++i) {
    layer_norm(x_.floats(tile.begin + i), config_.dim(), eps_, scale, shift, scratch.row.data());
    scratch.normed.store(i, scratch.row.data());
  }
}

void WanCpu::start_block(Block& block, const Tile& tile, Scratch& scratch) {
  const index_t dim = config_.dim();
  const float* const modulation = block.modulation.data();
  normalise(tile, modulation + kAttentionScale * dim, modulation + kAttentionShift * dim, scratch);
  block.to_v.run(scratch.normed.at(0), tile.count, v_.at(tile.begin));
  block.to_qk.run(scratch.normed.at(0), tile.count, scratch.wide.at(0));
  for (index_t i = 0; i < tile.count; ++i) {
    float* const q = scratch.wide.floats(i);
    float* const k = q + dim;
    rms_norm(q, dim, eps_, block.norm_q.data());
    rms_norm(k, dim, eps_, block.norm_k.data());
    rotary_.angles_of(tile.begin + i, scratch.cosine.data(), scratch.sine.data());
    rotate_pairs(q, 2 * heads_.heads, rotary_.pairs(), scratch.cosine.data(),
                 scratch.sine.data());  // k's heads follow those of q
    q_.store(tile.begin + i, q);
    k_.store(tile.begin + i, k);
  }
}

void WanCpu::run_attention(std::size_t layer, const ForwardInputs& inputs, const VideoGrid& grid,
                           LayerAttention& done) {
  const index_t tokens = grid.tokens();
  done.layer = static_cast<int>(layer);
  done.grid = grid;
  done.q = heads_.view(q_.at(0), tokens);
  done.k = heads_.view(k_.at(0), tokens);
  done.v = heads_.view(v_.at(0), tokens);
  done.out = heads_.view(attended_.at(0), tokens);
  AttentionIo io;
  io.q = done.q;
  io.k = done.k;
  io.v = done.v;
  io.out = done.out;
  const Plan& plan = self_attention_.of(inputs.attention_of(layer));
  const Clock::time_point start = Clock::now();
  psa::run(plan, io, workspace_->bytes(), {}, &done.stats);
  done.ms = ms_since(start);
}

void WanCpu::add_cross_attention(Block& block, const Tile& tile, int worker) {
  const index_t dim = config_.dim();
  Scratch& scratch = scratch_[to_size(worker)];
  if (block.norm2_weight.empty()) {
    for (index_t i = 0; i < tile.count; ++i) scratch.normed.store(i, x_.floats(tile.begin + i));
  } else {
    normalise(tile, block.norm2_weight.data(), block.norm2_bias.data(), scratch);
  }
  float* const result = scratch.wide.floats(0);  // [tile, dim]
  block.cross_to_q.run(scratch.normed.at(0), tile.count, result);
  for (index_t i = 0; i < tile.count; ++i) {
    rms_norm(result + i * dim, dim, eps_, block.cross_norm_q.data());
    scratch.cross_q.store(i, result + i * dim);
  }
  cross_attention_.run(worker, tile.count, scratch.cross_q.at(0), block.cross_k.at(0),
                       block.cross_v.at(0), scratch.cross_out.at(0));
  block.cross_to_out.run(scratch.cross_out.at(0), tile.count, result);
  add(x_.floats(tile.begin), result, tile.count * dim);
}

void WanCpu::finish_block(Block& block, const Tile& tile, int worker) {
  const index_t dim = config_.dim();
  const float* const modulation = block.modulation.data();
  Scratch& scratch = scratch_[to_size(worker)];
  float* const result = scratch.wide.floats(0);  // [tile, dim]
  const auto add_result = [&](ModulationRow gate) {
    for (index_t i = 0; i < tile.count; ++i) {
      add_gated(x_.floats(tile.begin + i), result + i * dim, modulation + gate * dim, dim);
    }
  };
  block.to_out.run(attended_.at(tile.begin), tile.count, result);
  add_result(kAttentionGate);
  add_cross_attention(block, tile, worker);
  normalise(tile, modulation + kFfnScale * dim, modulation + kFfnShift * dim, scratch);
  block.ffn_up.run(scratch.normed.at(0), tile.count, scratch.hidden.at(0));
  block.ffn_down.run(scratch.hidden.at(0), tile.count, result);
  add_result(kFfnGate);
}

void WanCpu::predict(const Pass& pass, const Tile& tile, Scratch& scratch) {
  const index_t dim = config_.dim();
  const float* const shift = out_modulation_.data();
  float* const normed = scratch.wide.floats(0);  // [tile, dim], in float also where C is bf16
  for (index_t i = 0; i < tile.count; ++i) {
    layer_norm(x_.floats(tile.begin + i), dim, eps_, shift + dim, shift, normed + i * dim);
  }
  const index_t values = proj_out_.shape().out;
  float* const patches = scratch.patches.floats(0);
  proj_out_.run(normed, tile.count, patches);
  for (index_t i = 0; i < tile.count; ++i) {
    scatter_patch(pass.layout, config_.out_channels, patches + i * values, tile.begin + i,
                  pass.out);
  }
}

ForwardReport WanCpu::forward(const ForwardInputs& inputs, std::span<float> out,
                              const AttentionObserver& observer) {
  const Clock::time_point start = Clock::now();
  const VideoGrid grid = config_.grid_of(inputs.size);
  check_forward(config_, inputs, out.size());
  prepare(inputs, grid);
  set_conditions(inputs);
  const Pass pass{{grid, config_.patch_size}, inputs.latent.data(), out.data()};
  const index_t tokens = grid.tokens();
  const auto for_each_tile = [&](const auto& body) {
    pool_.for_each(num_tiles(tokens),
                   [&](index_t index, int worker) { body(tile_at(index, tokens), worker); });
  };

  for_each_tile([&](const Tile& tile, int worker) {
    Scratch& scratch = scratch_[to_size(worker)];
    embed_patches(pass, tile, scratch);
    start_block(blocks_.front(), tile, scratch);
  });
  ForwardReport report;
  double observer_ms = 0;
  for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
    LayerAttention done;
    run_attention(layer, inputs, grid, done);
    report.attention_ms += done.ms;
    report.layers.push_back({done.stats.density, done.stats.selection_cost, done.ms});
    if (observer) {
      const Clock::time_point called = Clock::now();
      observer(done);
      observer_ms += ms_since(called);
    }
    for_each_tile([&](const Tile& tile, int worker) {
      Scratch& scratch = scratch_[to_size(worker)];
      finish_block(blocks_[layer], tile, worker);
      if (layer + 1 < blocks_.size()) {
        start_block(blocks_[layer + 1], tile, scratch);
      } else {
        predict(pass, tile, scratch);
      }
    });
  }
  report.total_ms = ms_since(start) - observer_ms;
  return report;
}

}  // namespace psa::engine
