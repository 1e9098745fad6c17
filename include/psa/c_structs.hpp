// SPDX-License-Identifier: Apache-2.0
#pragma once

// The structs of psa.h and the C++ types with the same fields, converted into each other. The one
// list of fields for both sides of the C ABI: the library uses it, and so do plan.hpp and
// presets.hpp. Nothing is checked here; values that are no enumerator are carried as they are.

#include <algorithm>
#include <iterator>

#include "psa/config.hpp"
#include "psa/psa.h"
#include "psa/types.hpp"

namespace psa::detail {

/// What psa_problem holds.
struct Problem {
  ProblemShape shape;
  TokenLayout layout;
  Device device;
};

[[nodiscard]] inline TensorView from_c(const psa_tensor& c) {
  TensorView view;
  view.data = c.data;
  view.dtype = static_cast<DType>(c.dtype);
  view.device = {static_cast<DeviceType>(c.device_type), c.device_index};
  std::copy(std::begin(c.shape), std::end(c.shape), view.shape.begin());
  std::copy(std::begin(c.stride), std::end(c.stride), view.stride.begin());
  return view;
}

[[nodiscard]] inline psa_tensor to_c(const TensorView& view) {
  psa_tensor c{};
  c.data = view.data;
  c.dtype = static_cast<std::int32_t>(view.dtype);
  c.device_type = static_cast<std::int32_t>(view.device.type);
  c.device_index = view.device.index;
  std::copy(view.shape.begin(), view.shape.end(), std::begin(c.shape));
  std::copy(view.stride.begin(), view.stride.end(), std::begin(c.stride));
  return c;
}

[[nodiscard]] inline Problem from_c(const psa_problem& c) {
  Problem problem;
  problem.shape = {.batch = c.batch,
                   .heads_q = c.heads_q,
                   .heads_kv = c.heads_kv,
                   .len_q = c.len_q,
                   .len_kv = c.len_kv,
                   .head_dim = c.head_dim,
                   .dtype_q = static_cast<DType>(c.dtype_q),
                   .dtype_kv = static_cast<DType>(c.dtype_kv),
                   .dtype_out = static_cast<DType>(c.dtype_out)};
  problem.layout = {.text_tokens = c.text_tokens,
                    .text_side = static_cast<TextSide>(c.text_side),
                    .grid = {c.grid_frames, c.grid_height, c.grid_width}};
  problem.device = {static_cast<DeviceType>(c.device_type), c.device_index};
  return problem;
}

[[nodiscard]] inline psa_problem to_c(const Problem& problem) {
  const ProblemShape& shape = problem.shape;
  const TokenLayout& layout = problem.layout;
  psa_problem c{};
  c.struct_size = sizeof(c);
  c.dtype_q = static_cast<std::int32_t>(shape.dtype_q);
  c.dtype_kv = static_cast<std::int32_t>(shape.dtype_kv);
  c.dtype_out = static_cast<std::int32_t>(shape.dtype_out);
  c.batch = shape.batch;
  c.heads_q = shape.heads_q;
  c.heads_kv = shape.heads_kv;
  c.len_q = shape.len_q;
  c.len_kv = shape.len_kv;
  c.head_dim = shape.head_dim;
  c.grid_frames = layout.grid.frames;
  c.grid_height = layout.grid.height;
  c.grid_width = layout.grid.width;
  c.text_tokens = layout.text_tokens;
  c.text_side = static_cast<std::int32_t>(layout.text_side);
  c.device_type = static_cast<std::int32_t>(problem.device.type);
  c.device_index = problem.device.index;
  return c;
}

[[nodiscard]] inline Config from_c(const psa_config& c) {
  Config config;
  config.block_q = c.block_q;
  config.block_kv = c.block_kv;
  config.rule = static_cast<LevelRule>(c.rule);
  config.num_levels = c.num_levels;
  std::copy(std::begin(c.budget), std::end(c.budget), config.budget.begin());
  config.budget_scope = static_cast<BudgetScope>(c.budget_scope);
  config.rest = static_cast<Rest>(c.rest);
  config.rest_cutoff = c.rest_cutoff;
  config.min_full_blocks = c.min_full_blocks;
  config.importance = static_cast<Importance>(c.importance);
  config.samples_q = c.samples_q;
  config.samples_kv = c.samples_kv;
  config.antidiagonal_stride = c.antidiagonal_stride;
  config.pooled_tokens = c.pooled_tokens;
  config.seed = c.seed;
  config.weigh_values = c.weigh_values != 0;
  if (c.use_similarity_cap != 0) {
    config.similarity_cap.emplace();
    std::copy(std::begin(c.min_cosine), std::end(c.min_cosine), config.similarity_cap->begin());
  }
  config.text_keys_full = c.text_keys_full != 0;
  config.text_queries_full = c.text_queries_full != 0;
  config.sink_blocks = c.sink_blocks;
  config.share_group_map = c.share_group_map != 0;
  config.reorder = static_cast<Reorder>(c.reorder);
  std::copy(std::begin(c.tile), std::end(c.tile), config.tile.begin());
  config.clusters_q = c.clusters_q;
  config.clusters_kv = c.clusters_kv;
  config.kmeans_iterations = c.kmeans_iterations;
  config.causal = c.causal != 0;
  config.softmax_scale = c.softmax_scale;
  config.compat = static_cast<Compat>(c.compat);
  config.head_density.assign(c.head_density, c.head_density + c.num_head_densities);
  return config;
}

/// Points to config.head_density: `config` must outlive what is returned.
[[nodiscard]] inline psa_config to_c(const Config& config) {
  psa_config c{};
  c.struct_size = sizeof(c);
  c.block_q = config.block_q;
  c.block_kv = config.block_kv;
  c.rule = static_cast<std::int32_t>(config.rule);
  c.num_levels = config.num_levels;
  std::copy(config.budget.begin(), config.budget.end(), std::begin(c.budget));
  c.budget_scope = static_cast<std::int32_t>(config.budget_scope);
  c.rest = static_cast<std::int32_t>(config.rest);
  c.rest_cutoff = config.rest_cutoff;
  c.min_full_blocks = config.min_full_blocks;
  c.importance = static_cast<std::int32_t>(config.importance);
  c.samples_q = config.samples_q;
  c.samples_kv = config.samples_kv;
  c.antidiagonal_stride = config.antidiagonal_stride;
  c.pooled_tokens = config.pooled_tokens;
  c.seed = config.seed;
  c.weigh_values = config.weigh_values ? 1 : 0;
  if (config.similarity_cap.has_value()) {
    c.use_similarity_cap = 1;
    std::copy(config.similarity_cap->begin(), config.similarity_cap->end(),
              std::begin(c.min_cosine));
  }
  c.text_keys_full = config.text_keys_full ? 1 : 0;
  c.text_queries_full = config.text_queries_full ? 1 : 0;
  c.sink_blocks = config.sink_blocks;
  c.share_group_map = config.share_group_map ? 1 : 0;
  c.reorder = static_cast<std::int32_t>(config.reorder);
  std::copy(config.tile.begin(), config.tile.end(), std::begin(c.tile));
  c.clusters_q = config.clusters_q;
  c.clusters_kv = config.clusters_kv;
  c.kmeans_iterations = config.kmeans_iterations;
  c.causal = config.causal ? 1 : 0;
  c.softmax_scale = config.softmax_scale;
  c.compat = static_cast<std::int32_t>(config.compat);
  if (!config.head_density.empty()) c.head_density = config.head_density.data();
  c.num_head_densities = std::ssize(config.head_density);
  return c;
}

}  // namespace psa::detail
