// SPDX-License-Identifier: Apache-2.0
#pragma once

// The Wan transformer on the CPU.
//
// Between two self-attentions no token looks at another, so a worker takes a tile of rows through
// everything that lies there: the rest of one block (output projection, cross-attention, feed
// forward), then the start of the next (norm, q/k/v projections, rotary embedding). Activations of
// a tile stay in the worker's cache; memory sees the residual stream, q, k, v and the attention's
// result once per block.
//
//   latent -> [patches | start of block 0] -> attention -> [rest of 0 | start of 1] -> attention ->
//   ... -> [rest of the last | output layer | patches] -> prediction

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "engine/blocks/attention_plans.hpp"
#include "engine/blocks/patches.hpp"
#include "engine/blocks/rotary.hpp"
#include "engine/blocks/row_tile.hpp"
#include "engine/blocks/tensor_source.hpp"
#include "engine/blocks/wan_conditions.hpp"
#include "engine/blocks/wan_tensors.hpp"
#include "engine/blocks/wan_transformer.hpp"
#include "engine/gemm/linear.hpp"
#include "engine/gemm/worker_pool.hpp"

namespace psa::engine {

class WanCpu final : public WanTransformer {
 public:
  /// Reads all weights; `source` is not needed afterwards. Throws as WanTransformer::load().
  WanCpu(const WanConfig& config, const TensorSource& source, const EngineOptions& options);

  [[nodiscard]] const WanConfig& config() const override { return config_; }
  ForwardReport forward(const ForwardInputs& inputs, std::span<float> out,
                        const AttentionObserver& observer) override;

 private:
  struct Block {
    Linear to_qk, to_v, to_out;
    std::vector<float> norm_q, norm_k;  // [dim]
    Linear cross_to_q, cross_to_k, cross_to_v, cross_to_out;
    std::vector<float> cross_norm_q, cross_norm_k;  // [dim]
    std::vector<float> norm2_weight, norm2_bias;    // [dim], or empty: no norm
    Linear ffn_up, ffn_down;
    std::vector<float> scale_shift;  // [6, dim], as in the checkpoint

    // Of the current forward pass:
    std::vector<float> modulation;  // [6, dim]: shift, 1 + scale, gate; of attention, then ffn
    RowBuffer cross_k, cross_v;     // [text tokens, dim]
  };

  /// A worker's buffers, for one tile. C: compute type.
  struct Scratch {
    RowBuffer normed;              // [tile, dim] C
    RowBuffer wide;                // [tile, 2 dim] float: results of products
    RowBuffer hidden;              // [tile, ffn_dim] C
    RowBuffer cross_q, cross_out;  // [tile, dim] C
    RowBuffer patches;             // [tile, values of a patch] float
    std::vector<float> row;        // [dim]
    std::vector<float> cosine, sine;
  };

  /// What the tile functions of a pass read beside the buffers.
  struct Pass {
    PatchLayout layout;
    const float* latent = nullptr;
    float* out = nullptr;
  };

  WanCpu(const WanConfig& config, const TensorSource& source, const WanOuterTensors& outer,
         const EngineOptions& options);
  static Block make_block(const WanBlockTensors& tensors, DType compute);
  void prepare(const ForwardInputs& inputs, const VideoGrid& grid);
  void set_conditions(const ForwardInputs& inputs);
  void set_text(Block& block, std::span<const float> text, Scratch& scratch);

  void embed_patches(const Pass& pass, const Tile& tile, Scratch& scratch);
  void start_block(Block& block, const Tile& tile, Scratch& scratch);
  void finish_block(Block& block, const Tile& tile, int worker);
  void add_cross_attention(Block& block, const Tile& tile, int worker);
  void predict(const Pass& pass, const Tile& tile, Scratch& scratch);
  void run_attention(std::size_t layer, const ForwardInputs& inputs, const VideoGrid& grid,
                     LayerAttention& done);
  void normalise(const Tile& tile, const float* scale, const float* shift, Scratch& scratch);

  WanConfig config_;
  DType compute_;
  float eps_;
  WorkerPool pool_;
  std::vector<Block> blocks_;
  WanConditions conditions_;
  Linear patch_embedding_, proj_out_;
  std::vector<float> out_scale_shift_;  // [2, dim], as in the checkpoint

  HeadLayout heads_;
  SelfAttentionPlans self_attention_;
  std::optional<Workspace> workspace_;  // of self-attention
  CrossAttention cross_attention_;
  RotaryTable rotary_;
  VideoGrid grid_{};
  std::vector<float> out_modulation_;  // [2, dim]: shift, 1 + scale
  std::vector<Scratch> scratch_;       // by worker
  RowBuffer x_;                        // [tokens, dim] float: the residual stream
  RowBuffer q_, k_, v_, attended_;     // [tokens, dim] C
};

}  // namespace psa::engine
