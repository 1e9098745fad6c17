// SPDX-License-Identifier: Apache-2.0
#pragma once

// The weights of a WanTransformer3DModel by role, as float in host memory: the one place that
// knows diffusers' tensor names and shapes. Blocks are read one at a time, so that a large model
// is never in memory twice. Every function throws Error(kIo) as TensorSource::values() does.

#include <cstdint>
#include <vector>

#include "engine/blocks/tensor_source.hpp"
#include "engine/blocks/wan_config.hpp"
#include "engine/gemm/linear.hpp"

namespace psa::engine {

struct LinearTensors {
  LinearShape shape;
  std::vector<float> weight;  // [out, in]
  std::vector<float> bias;    // [out]
};

struct AttentionTensors {
  LinearTensors to_q, to_k, to_v, to_out;  // each [dim, dim]
  std::vector<float> norm_q;               // [dim]
  std::vector<float> norm_k;               // [dim]
};

/// Rows of a block's modulation [6, dim].
enum ModulationRow : std::uint8_t {
  kAttentionShift,
  kAttentionScale,
  kAttentionGate,
  kFfnShift,
  kFfnScale,
  kFfnGate,
  kNumModulationRows,
};

struct WanBlockTensors {
  AttentionTensors self;            // attn1
  AttentionTensors cross;           // attn2
  LinearTensors ffn_up;             // [ffn_dim, dim]
  LinearTensors ffn_down;           // [dim, ffn_dim]
  std::vector<float> norm2_weight;  // [dim]; empty without cross_attn_norm
  std::vector<float> norm2_bias;    // as norm2_weight
  std::vector<float> scale_shift;   // [6, dim], rows as in ModulationRow
};

/// What stands before and behind the blocks.
struct WanOuterTensors {
  LinearTensors patch_embedding;   // [dim, in_channels * patch volume]
  LinearTensors time_1, time_2;    // [dim, freq_dim], [dim, dim]
  LinearTensors time_proj;         // [6 * dim, dim]
  LinearTensors text_1, text_2;    // [dim, text_dim], [dim, dim]
  LinearTensors proj_out;          // [patch volume * out_channels, dim]
  std::vector<float> scale_shift;  // [2, dim]: shift, scale
};

[[nodiscard]] WanBlockTensors read_block(const TensorSource& source, const WanConfig& config,
                                         index_t layer);
[[nodiscard]] WanOuterTensors read_outer(const TensorSource& source, const WanConfig& config);

/// One layer that computes both: outputs of `first`, then those of `second`. Both take the same
/// input channels.
[[nodiscard]] LinearTensors stack(const LinearTensors& first, const LinearTensors& second);

}  // namespace psa::engine
