// SPDX-License-Identifier: Apache-2.0

// The Wan transformer on a CUDA device. The host only queues: the latent goes up, everything
// between stays on the device, the prediction comes back. Per block, in one stream:
//
//   norm -> q,k,v (one product) -> norm and rotation in place -> psa -> to_out
//   -> residual and norm -> cross-attention to the text -> residual and norm -> feed forward
//   -> residual and norm of the next block
//
// Results of products are bf16, the residual stream, norms, modulation, conditions, patches and
// the output layer float, as on the CPU. Level maps are copied to pinned memory after each
// attention, so that the density is measured on the host without holding up the device.

#include "engine/blocks/wan_cuda.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/blocks/attention_plans.hpp"
#include "engine/blocks/rotary.hpp"
#include "engine/blocks/wan_conditions.hpp"
#include "engine/blocks/wan_tensors.hpp"
#include "engine/cuda/device.hpp"
#include "engine/cuda/row_kernels.hpp"
#include "engine/gemm/linear_cuda.hpp"
#include "engine/gemm/worker_pool.hpp"
#include "psa/error.hpp"

namespace psa::engine {
namespace {

using Clock = std::chrono::steady_clock;
using Bf16 = std::uint16_t;

constexpr Device kDevice{DeviceType::kCuda, 0};

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// Bytes of `count` values of T.
template <typename T>
std::size_t bytes_of(index_t count) {
  return static_cast<std::size_t>(count) * sizeof(T);
}

/// Whether this machine runs the model on CUDA; before anything touches the device.
void check_model(const WanConfig& config, const EngineOptions& options) {
  if (options.compute != DType::kBF16) {
    throw Error(Status::kUnsupported, std::string("the compute type is ") +
                                          (options.compute == DType::kF32 ? "f32" : "f16") +
                                          "; on CUDA it is bf16");
  }
  if (config.dim() % kRowVector != 0 || config.dim() > kMaxRowDim ||
      config.ffn_dim % kRowVector != 0) {
    throw Error(Status::kUnsupported,
                "the model is " + std::to_string(config.dim()) + " channels wide, its ffn_dim is " +
                    std::to_string(config.ffn_dim) +
                    "; CUDA takes multiples of 8, the width up to " + std::to_string(kMaxRowDim));
  }
  const std::string reason = why_no_device();
  if (!reason.empty()) {
    throw Error(Status::kUnsupported, "no CUDA device can run the model: " + reason);
  }
}

class WanCuda final : public WanTransformer {
 public:
  WanCuda(const WanConfig& config, const TensorSource& source, const WanOuterTensors& outer,
          const EngineOptions& options);

  [[nodiscard]] const WanConfig& config() const override { return config_; }
  ForwardReport forward(const ForwardInputs& inputs, std::span<float> out,
                        const AttentionObserver& observer) override;

 private:
  struct Block {
    LinearCuda to_qkv, to_out;
    DeviceBuffer norm_qk;  // [2, dim]
    LinearCuda cross_to_q, cross_to_kv, cross_to_out;
    DeviceBuffer cross_norm_q, cross_norm_k;  // [dim]
    DeviceBuffer norm2_weight, norm2_bias;    // [dim], or empty: no norm
    LinearCuda ffn_up, ffn_down;
  };

  /// What is known of a layer's attention once the stream has come to `copied`.
  struct LayerTrace {
    DeviceEvent begin, end, copied;
    const Plan* plan = nullptr;
    std::size_t levels_offset = 0;  // into host_levels_
  };

  Block make_block(const WanBlockTensors& tensors);
  LinearCuda linear(const LinearTensors& layer, const LinearOptions& options) {
    return {library_, layer.shape, layer.weight, layer.bias, options};
  }

  void prepare(const ForwardInputs& inputs, const VideoGrid& grid);
  void reserve_rows();
  void set_rotation(const VideoGrid& grid);
  void set_conditions(const ForwardInputs& inputs);
  void embed_patches(std::span<const float> latent);
  void start_block(const Block& block);
  void queue_attention(LayerTrace& trace);
  void finish_block(std::size_t layer);
  void add_cross_attention(const Block& block);
  void add_norm_of(const Bf16* y, const float* gate, const float* scale, const float* shift,
                   void* result, DType result_dtype = DType::kBF16);
  void queue_prediction();
  [[nodiscard]] LayerAttention trace_of(std::size_t layer) const;
  void observe(LayerAttention& done, const AttentionObserver& observer);

  [[nodiscard]] const float* modulation(std::size_t layer, ModulationRow row) const {
    return modulation_.as<float>() +
           (static_cast<index_t>(layer) * kNumModulationRows + row) * config_.dim();
  }
  [[nodiscard]] Stream stream() const { return stream_.handle(); }

  WanConfig config_;
  float eps_;
  HeadLayout heads_;
  WorkerPool pool_;
  DeviceStream stream_;
  CublasLt library_;
  std::vector<Block> blocks_;
  LinearCuda patch_embedding_, proj_out_;
  LinearCuda time_1_, time_2_, time_proj_, text_1_, text_2_;
  DeviceBuffer scale_shift_;      // [layers, 6, dim], as in the checkpoint
  DeviceBuffer out_scale_shift_;  // [2, dim]

  SelfAttentionPlans self_attention_;
  std::optional<Plan> cross_attention_;
  DeviceBuffer workspace_;
  VideoGrid grid_{};
  PatchLayout layout_;
  index_t text_tokens_ = 0;
  DeviceBuffer rotation_;  // [tokens, head_dim / 2, 2]

  // Of the current forward pass:
  DeviceBuffer sinusoids_, time_hidden_, time_embedding_, time_projection_;  // rows of floats
  DeviceBuffer modulation_;      // [layers, 6, dim]: shift, 1 + scale, gate; of attention, then ffn
  DeviceBuffer out_modulation_;  // [2, dim]: shift, 1 + scale
  DeviceBuffer text_, text_hidden_, text_embedding_;  // [text tokens, ...] float
  DeviceBuffer text_rows_;                            // [text tokens, dim] bf16
  DeviceBuffer text_kv_;                              // [text tokens, 2, dim] bf16, of one block
  DeviceBuffer latent_;                               // [channels, frames, height, width]
  DeviceBuffer patches_;                              // [tokens, values of a patch] float
  DeviceBuffer x_;                                    // [tokens, dim] float: the residual stream
  DeviceBuffer normed_, attended_, y_;                // [tokens, dim] bf16
  DeviceBuffer wide_;    // of a token: q, k, v; the hidden layer of the ffn; or a row of floats
  DeviceBuffer levels_;  // of one layer
  PinnedBuffer host_levels_;
  std::vector<LayerTrace> traces_;
};

WanCuda::WanCuda(const WanConfig& config, const TensorSource& source, const WanOuterTensors& outer,
                 const EngineOptions& options)
    : config_(config),
      eps_(static_cast<float>(config.eps)),
      heads_{config.num_attention_heads, config.attention_head_dim, DType::kBF16, kDevice},
      pool_(options.num_threads),
      library_(stream_),
      patch_embedding_(linear(outer.patch_embedding, {})),
      proj_out_(linear(outer.proj_out, {})),
      time_1_(linear(outer.time_1, {})),
      time_2_(linear(outer.time_2, {})),
      time_proj_(linear(outer.time_proj, {})),
      text_1_(linear(outer.text_1, {.activation = Activation::kGeluTanh})),
      text_2_(linear(outer.text_2, {})),
      out_scale_shift_(stream_.upload(std::span(outer.scale_shift))),
      self_attention_(heads_, {}) {
  const index_t dim = config.dim();
  std::vector<float> scale_shift;
  for (index_t layer = 0; layer < config.num_layers; ++layer) {
    const WanBlockTensors tensors = read_block(source, config, layer);
    blocks_.push_back(make_block(tensors));
    scale_shift.insert(scale_shift.end(), tensors.scale_shift.begin(), tensors.scale_shift.end());
  }
  scale_shift_ = stream_.upload(std::span<const float>(scale_shift));
  traces_.resize(blocks_.size());
  sinusoids_.reserve(bytes_of<float>(config.freq_dim));
  time_hidden_.reserve(bytes_of<float>(dim));
  time_embedding_.reserve(bytes_of<float>(dim));
  time_projection_.reserve(bytes_of<float>(kNumModulationRows * dim));
  modulation_.reserve(bytes_of<float>(std::ssize(scale_shift)));
  out_modulation_.reserve(bytes_of<float>(2 * dim));
  stream_.synchronize();
}

WanCuda::Block WanCuda::make_block(const WanBlockTensors& tensors) {
  constexpr LinearOptions kHalf{.compute = DType::kBF16, .out = DType::kBF16};
  LinearOptions gelu = kHalf;
  gelu.activation = Activation::kGeluTanh;
  const auto upload = [&](const std::vector<float>& values) {
    return stream_.upload(std::span<const float>(values));
  };
  std::vector<float> norm_qk = tensors.self.norm_q;
  norm_qk.insert(norm_qk.end(), tensors.self.norm_k.begin(), tensors.self.norm_k.end());
  Block block;
  block.to_qkv =
      linear(stack(stack(tensors.self.to_q, tensors.self.to_k), tensors.self.to_v), kHalf);
  block.to_out = linear(tensors.self.to_out, kHalf);
  block.norm_qk = upload(norm_qk);
  block.cross_to_q = linear(tensors.cross.to_q, kHalf);
  block.cross_to_kv = linear(stack(tensors.cross.to_k, tensors.cross.to_v), kHalf);
  block.cross_to_out = linear(tensors.cross.to_out, kHalf);
  block.cross_norm_q = upload(tensors.cross.norm_q);
  block.cross_norm_k = upload(tensors.cross.norm_k);
  if (!tensors.norm2_weight.empty()) {
    block.norm2_weight = upload(tensors.norm2_weight);
    block.norm2_bias = upload(tensors.norm2_bias);
  }
  block.ffn_up = linear(tensors.ffn_up, gelu);
  block.ffn_down = linear(tensors.ffn_down, kHalf);
  return block;
}

// ---- before the blocks
// -------------------------------------------------------------------------------------

void WanCuda::prepare(const ForwardInputs& inputs, const VideoGrid& grid) {
  for (const Config& config : inputs.attention) self_attention_.prepare(grid, config);
  text_tokens_ = std::ssize(inputs.text) / config_.text_dim;
  if (!cross_attention_ || cross_attention_->shape().len_q != grid.tokens() ||
      cross_attention_->shape().len_kv != text_tokens_) {
    cross_attention_.emplace(cross_attention_plan(heads_, grid.tokens(), text_tokens_));
  }
  if (grid != grid_) set_rotation(grid);
  grid_ = grid;
  layout_ = {grid, config_.patch_size};
  workspace_.reserve(
      std::max(self_attention_.workspace_bytes(), cross_attention_->workspace_bytes()));
  reserve_rows();

  std::size_t offset = 0;
  std::size_t largest = 0;
  for (std::size_t layer = 0; layer < traces_.size(); ++layer) {
    LayerTrace& trace = traces_[layer];
    trace.plan = &self_attention_.of(inputs.attention_of(layer));
    trace.levels_offset = offset;
    const auto bytes = bytes_of<LevelCode>(trace.plan->level_map_size());
    offset += bytes;
    largest = std::max(largest, bytes);
  }
  levels_.reserve(largest);
  host_levels_.reserve(offset);
}

void WanCuda::reserve_rows() {
  const index_t dim = config_.dim();
  const index_t tokens = grid_.tokens();
  const index_t channels = std::max(config_.in_channels, config_.out_channels);
  latent_.reserve(bytes_of<float>(tokens * channels * config_.patch_volume()));
  patches_.reserve(bytes_of<float>(tokens * channels * config_.patch_volume()));
  x_.reserve(bytes_of<float>(tokens * dim));
  for (DeviceBuffer* const rows : {&normed_, &attended_, &y_}) {
    rows->reserve(bytes_of<Bf16>(tokens * dim));
  }
  wide_.reserve(
      std::max({bytes_of<Bf16>(tokens * 3 * dim), bytes_of<Bf16>(tokens * config_.ffn_dim),
                bytes_of<float>(tokens * dim)}));
  text_.reserve(bytes_of<float>(text_tokens_ * config_.text_dim));
  text_hidden_.reserve(bytes_of<float>(text_tokens_ * dim));
  text_embedding_.reserve(bytes_of<float>(text_tokens_ * dim));
  text_rows_.reserve(bytes_of<Bf16>(text_tokens_ * dim));
  text_kv_.reserve(bytes_of<Bf16>(text_tokens_ * 2 * dim));
}

void WanCuda::set_rotation(const VideoGrid& grid) {
  const RotaryTable table(config_.attention_head_dim, grid);
  const auto pairs = static_cast<std::size_t>(table.pairs());
  std::vector<float> cosine(pairs);
  std::vector<float> sine(pairs);
  std::vector<float> rotation;
  rotation.reserve(static_cast<std::size_t>(grid.tokens()) * 2 * pairs);
  for (index_t token = 0; token < grid.tokens(); ++token) {
    table.angles_of(token, cosine.data(), sine.data());
    for (std::size_t i = 0; i < pairs; ++i) rotation.insert(rotation.end(), {cosine[i], sine[i]});
  }
  rotation_ = stream_.upload(std::span<const float>(rotation));
}

void WanCuda::set_conditions(const ForwardInputs& inputs) {
  const index_t dim = config_.dim();
  const std::vector<float> sinusoids = time_sinusoids(inputs.timestep, config_.freq_dim);
  stream_.copy_to_device(sinusoids_.as<void>(), sinusoids.data(),
                         std::span(sinusoids).size_bytes());
  auto* const hidden = time_hidden_.as<float>();
  auto* const embedding = time_embedding_.as<float>();
  time_1_.run(sinusoids_.as<void>(), 1, hidden);
  silu(hidden, dim, hidden, stream());
  time_2_.run(hidden, 1, embedding);
  silu(embedding, dim, hidden, stream());
  time_proj_.run(hidden, 1, time_projection_.as<void>());
  modulate({.rows = std::ssize(blocks_) * kNumModulationRows,
            .dim = dim,
            .table = scale_shift_.as<float>(),
            .condition = time_projection_.as<float>(),
            .condition_rows = kNumModulationRows,
            .out = modulation_.as<float>()},
           stream());
  modulate({.rows = 2,
            .dim = dim,
            .table = out_scale_shift_.as<float>(),
            .condition = embedding,
            .condition_rows = 1,
            .out = out_modulation_.as<float>()},
           stream());

  stream_.copy_to_device(text_.as<void>(), inputs.text.data(), inputs.text.size_bytes());
  text_1_.run(text_.as<void>(), text_tokens_, text_hidden_.as<void>());
  text_2_.run(text_hidden_.as<void>(), text_tokens_, text_embedding_.as<void>());
  to_bf16(text_embedding_.as<float>(), text_tokens_ * dim, text_rows_.as<Bf16>(), stream());
}

void WanCuda::embed_patches(std::span<const float> latent) {
  stream_.copy_to_device(latent_.as<void>(), latent.data(), latent.size_bytes());
  gather_patches(layout_, config_.in_channels, latent_.as<float>(), patches_.as<float>(), stream());
  patch_embedding_.run(patches_.as<void>(), grid_.tokens(), x_.as<void>());
}

// ---- blocks
// -------------------------------------------------------------------------------------

void WanCuda::add_norm_of(const Bf16* y, const float* gate, const float* scale, const float* shift,
                          void* result, DType result_dtype) {
  add_norm({.rows = grid_.tokens(),
            .dim = config_.dim(),
            .eps = eps_,
            .x = x_.as<float>(),
            .y = y,
            .gate = gate,
            .scale = scale,
            .shift = shift,
            .out = result,
            .out_dtype = result_dtype},
           stream());
}

/// From the normed residual rows to q, k and v, side by side in wide_.
void WanCuda::start_block(const Block& block) {
  const index_t dim = config_.dim();
  block.to_qkv.run(normed_.as<void>(), grid_.tokens(), wide_.as<void>());
  norm_rotate({.rows = grid_.tokens(),
               .parts = 2,
               .dim = dim,
               .row_stride = 3 * dim,
               .eps = eps_,
               .x = wide_.as<Bf16>(),
               .weight = block.norm_qk.as<float>(),
               .rotation = rotation_.as<float>(),
               .head_dim = heads_.head_dim},
              stream());
}

void WanCuda::queue_attention(LayerTrace& trace) {
  const index_t dim = config_.dim();
  const index_t tokens = grid_.tokens();
  auto* const qkv = wide_.as<Bf16>();
  AttentionIo io;
  io.q = heads_.view(qkv, tokens, 3 * dim);
  io.k = heads_.view(qkv + dim, tokens, 3 * dim);
  io.v = heads_.view(qkv + 2 * dim, tokens, 3 * dim);
  io.out = heads_.view(attended_.as<void>(), tokens);
  io.levels_out = levels_.as<LevelCode>();
  trace.begin.record(stream_);
  psa::run(*trace.plan, io, workspace_.bytes(), stream());
  trace.end.record(stream_);
  stream_.copy_to_host(host_levels_.as<LevelCode>() + trace.levels_offset, io.levels_out,
                       bytes_of<LevelCode>(trace.plan->level_map_size()));
  trace.copied.record(stream_);
}

/// From the normed rows; the result is in y_.
void WanCuda::add_cross_attention(const Block& block) {
  const index_t dim = config_.dim();
  const index_t tokens = grid_.tokens();
  auto* const q = attended_.as<Bf16>();
  auto* const kv = text_kv_.as<Bf16>();
  NormRotate norm{.rows = tokens,
                  .dim = dim,
                  .row_stride = dim,
                  .eps = eps_,
                  .x = q,
                  .weight = block.cross_norm_q.as<float>()};
  block.cross_to_q.run(normed_.as<void>(), tokens, q);
  norm_rotate(norm, stream());
  block.cross_to_kv.run(text_rows_.as<void>(), text_tokens_, kv);
  norm.rows = text_tokens_;
  norm.row_stride = 2 * dim;
  norm.x = kv;
  norm.weight = block.cross_norm_k.as<float>();
  norm_rotate(norm, stream());
  AttentionIo io;
  io.q = heads_.view(q, tokens);
  io.k = heads_.view(kv, text_tokens_, 2 * dim);
  io.v = heads_.view(kv + dim, text_tokens_, 2 * dim);
  io.out = heads_.view(normed_.as<void>(), tokens);
  psa::run(*cross_attention_, io, workspace_.bytes(), stream());
  block.cross_to_out.run(normed_.as<void>(), tokens, y_.as<void>());
}

/// From the attention's result to the normed rows of the next block, or of the output layer.
void WanCuda::finish_block(std::size_t layer) {
  const Block& block = blocks_[layer];
  const index_t tokens = grid_.tokens();
  const auto* const y = y_.as<Bf16>();
  block.to_out.run(attended_.as<void>(), tokens, y_.as<void>());
  add_norm_of(y, modulation(layer, kAttentionGate), block.norm2_weight.as<float>(),
              block.norm2_bias.as<float>(), normed_.as<void>());
  add_cross_attention(block);
  add_norm_of(y, nullptr, modulation(layer, kFfnScale), modulation(layer, kFfnShift),
              normed_.as<void>());
  block.ffn_up.run(normed_.as<void>(), tokens, wide_.as<void>());
  block.ffn_down.run(wide_.as<void>(), tokens, y_.as<void>());
  const float* const gate = modulation(layer, kFfnGate);
  if (layer + 1 < blocks_.size()) {
    add_norm_of(y, gate, modulation(layer + 1, kAttentionScale),
                modulation(layer + 1, kAttentionShift), normed_.as<void>());
  } else {
    const auto* const shift = out_modulation_.as<float>();
    add_norm_of(y, gate, shift + config_.dim(), shift, wide_.as<void>(), DType::kF32);
  }
}

void WanCuda::queue_prediction() {
  proj_out_.run(wide_.as<void>(), grid_.tokens(), patches_.as<void>());
  scatter_patches(layout_, config_.out_channels, patches_.as<float>(), latent_.as<float>(),
                  stream());
}

// ---- what attention did
// -------------------------------------------------------------------------------------

/// Waits for the layer. Views are left empty.
LayerAttention WanCuda::trace_of(std::size_t layer) const {
  const LayerTrace& trace = traces_[layer];
  trace.copied.wait();
  LayerAttention done;
  done.layer = static_cast<int>(layer);
  done.grid = grid_;
  done.ms = trace.end.ms_since(trace.begin);
  const std::span levels(host_levels_.as<LevelCode>() + trace.levels_offset,
                         static_cast<std::size_t>(trace.plan->level_map_size()));
  const stages::LevelDensity measured =
      stages::measure_levels(*trace.plan, trace.plan->level_map(levels));
  done.stats.density = measured.density;
  done.stats.selection_cost = measured.selection_cost;
  done.stats.blocks = measured.blocks;
  return done;
}

void WanCuda::observe(LayerAttention& done, const AttentionObserver& observer) {
  const index_t dim = config_.dim();
  const index_t tokens = grid_.tokens();
  std::vector<Bf16> qkv(static_cast<std::size_t>(tokens * 3 * dim));
  std::vector<Bf16> out(static_cast<std::size_t>(tokens * dim));
  stream_.copy_to_host(qkv.data(), wide_.as<void>(), std::span(qkv).size_bytes());
  stream_.copy_to_host(out.data(), attended_.as<void>(), std::span(out).size_bytes());
  stream_.synchronize();
  HeadLayout host = heads_;
  host.device = {};
  done.q = host.view(qkv.data(), tokens, 3 * dim);
  done.k = host.view(qkv.data() + dim, tokens, 3 * dim);
  done.v = host.view(qkv.data() + 2 * dim, tokens, 3 * dim);
  done.out = host.view(out.data(), tokens);
  observer(done);
}

ForwardReport WanCuda::forward(const ForwardInputs& inputs, std::span<float> out,
                               const AttentionObserver& observer) {
  const Clock::time_point start = Clock::now();
  const VideoGrid grid = config_.grid_of(inputs.size);
  check_forward(config_, inputs, out.size());
  prepare(inputs, grid);
  set_conditions(inputs);
  embed_patches(inputs.latent);
  add_norm_of(nullptr, nullptr, modulation(0, kAttentionScale), modulation(0, kAttentionShift),
              normed_.as<void>());
  double observer_ms = 0;
  for (std::size_t layer = 0; layer < blocks_.size(); ++layer) {
    start_block(blocks_[layer]);
    queue_attention(traces_[layer]);
    if (observer) {
      LayerAttention done = trace_of(layer);
      const Clock::time_point called = Clock::now();
      observe(done, observer);
      observer_ms += ms_since(called);
    }
    finish_block(layer);
  }
  queue_prediction();

  // Level maps are measured while the device still computes; one worker waits for the prediction.
  ForwardReport report;
  report.layers.resize(blocks_.size());
  pool_.for_each(std::ssize(blocks_) + 1, [&](index_t item, int /*worker*/) {
    if (item == 0) {
      stream_.copy_to_host(out.data(), latent_.as<void>(), out.size_bytes());
      stream_.synchronize();
      report.total_ms = ms_since(start) - observer_ms;
      return;
    }
    const auto layer = static_cast<std::size_t>(item - 1);
    const LayerAttention done = trace_of(layer);
    report.layers[layer] = {done.stats.density, done.stats.selection_cost, done.ms};
  });
  for (const ForwardReport::Layer& layer : report.layers) report.attention_ms += layer.attention_ms;
  return report;
}

}  // namespace

std::unique_ptr<WanTransformer> make_wan_cuda(const WanConfig& config, const TensorSource& source,
                                              const EngineOptions& options) {
  check_model(config, options);
  return std::make_unique<WanCuda>(config, source, read_outer(source, config), options);
}

}  // namespace psa::engine
