// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/wan_tensors.hpp"

#include <string>

namespace psa::engine {
namespace {

LinearTensors read_linear(const TensorSource& source, const std::string& name,
                          const LinearShape& shape) {
  return {shape, source.values(name + ".weight", {shape.out, shape.in}),
          source.values(name + ".bias", {shape.out})};
}

AttentionTensors read_attention(const TensorSource& source, const std::string& name, index_t dim) {
  const LinearShape square{dim, dim};
  return {read_linear(source, name + ".to_q", square),
          read_linear(source, name + ".to_k", square),
          read_linear(source, name + ".to_v", square),
          read_linear(source, name + ".to_out.0", square),
          source.values(name + ".norm_q.weight", {dim}),
          source.values(name + ".norm_k.weight", {dim})};
}

/// A convolution whose stride is its kernel is a linear layer of the patch.
LinearTensors read_patch_embedding(const TensorSource& source, const WanConfig& config) {
  const std::string name = "patch_embedding";
  const auto [frames, height, width] = config.patch_size;
  return {
      {config.in_channels * config.patch_volume(), config.dim()},
      source.values(name + ".weight", {config.dim(), config.in_channels, frames, height, width}),
      source.values(name + ".bias", {config.dim()})};
}

}  // namespace

WanBlockTensors read_block(const TensorSource& source, const WanConfig& config, index_t layer) {
  const std::string name = "blocks." + std::to_string(layer);
  const index_t dim = config.dim();
  WanBlockTensors block;
  block.self = read_attention(source, name + ".attn1", dim);
  block.cross = read_attention(source, name + ".attn2", dim);
  block.ffn_up = read_linear(source, name + ".ffn.net.0.proj", {dim, config.ffn_dim});
  block.ffn_down = read_linear(source, name + ".ffn.net.2", {config.ffn_dim, dim});
  if (config.cross_attn_norm) {
    block.norm2_weight = source.values(name + ".norm2.weight", {dim});
    block.norm2_bias = source.values(name + ".norm2.bias", {dim});
  }
  block.scale_shift = source.values(name + ".scale_shift_table", {1, 6, dim});
  return block;
}

WanOuterTensors read_outer(const TensorSource& source, const WanConfig& config) {
  const std::string embedder = "condition_embedder.";
  const index_t dim = config.dim();
  WanOuterTensors outer;
  outer.patch_embedding = read_patch_embedding(source, config);
  outer.time_1 = read_linear(source, embedder + "time_embedder.linear_1", {config.freq_dim, dim});
  outer.time_2 = read_linear(source, embedder + "time_embedder.linear_2", {dim, dim});
  outer.time_proj = read_linear(source, embedder + "time_proj", {dim, 6 * dim});
  outer.text_1 = read_linear(source, embedder + "text_embedder.linear_1", {config.text_dim, dim});
  outer.text_2 = read_linear(source, embedder + "text_embedder.linear_2", {dim, dim});
  outer.proj_out =
      read_linear(source, "proj_out", {dim, config.out_channels * config.patch_volume()});
  outer.scale_shift = source.values("scale_shift_table", {1, 2, dim});
  return outer;
}

LinearTensors stack(const LinearTensors& first, const LinearTensors& second) {
  LinearTensors both = first;
  both.shape.out += second.shape.out;
  both.weight.insert(both.weight.end(), second.weight.begin(), second.weight.end());
  both.bias.insert(both.bias.end(), second.bias.begin(), second.bias.end());
  return both;
}

}  // namespace psa::engine
