// SPDX-License-Identifier: Apache-2.0
#include "capi/translate.hpp"

#include <algorithm>
#include <iterator>
#include <string>

#include "capi/sized_struct.hpp"
#include "core/geometry.hpp"
#include "psa/error.hpp"

namespace psa::capi {
namespace {

void check_reserved(const std::string& name, std::int32_t given) {
  if (given == 0) return;
  throw Error(Status::kInvalidArgument,
              name + ".reserved is " + std::to_string(given) + "; it must be 0");
}

/// A value that is 0 or 1: a flag or one of two enumerators.
void check_binary(const std::string& name, std::int32_t given) {
  if (given == 0 || given == 1) return;
  throw Error(Status::kInvalidArgument, name + " is " + std::to_string(given) + "; allowed: 0, 1");
}

/// Before anything is read through the pointer.
void check_head_density(const psa_config& config, index_t heads_q) {
  core::check_head_density_count(config.num_head_densities, heads_q);
  if ((config.head_density == nullptr) == (config.num_head_densities == 0)) return;
  throw Error(Status::kInvalidArgument, std::string("head_density is ") +
                                            (config.head_density == nullptr ? "null" : "given") +
                                            " and num_head_densities is " +
                                            std::to_string(config.num_head_densities) +
                                            "; allowed: NULL and 0, or heads_q floats");
}

TensorView tensor_of(const psa_tensor& tensor, const char* name) {
  check_reserved(name, tensor.reserved);
  return detail::from_c(tensor);
}

}  // namespace

detail::Problem problem_of(const psa_problem* problem) {
  const psa_problem known = read_sized(problem, "problem");
  check_reserved("problem", known.reserved);
  check_binary("device_type", known.device_type);
  return detail::from_c(known);
}

Config config_of(const psa_config* config, std::optional<index_t> heads_q) {
  psa_config known = read_sized(config, "config");
  check_binary("use_similarity_cap", known.use_similarity_cap);
  check_binary("text_keys_full", known.text_keys_full);
  check_binary("text_queries_full", known.text_queries_full);
  check_binary("share_group_map", known.share_group_map);
  check_binary("causal", known.causal);
  check_binary("weigh_values", known.weigh_values);
  check_reserved("config", known.reserved);
  if (heads_q.has_value()) {
    check_head_density(known, *heads_q);
  } else {
    known.head_density = nullptr;
    known.num_head_densities = 0;
  }
  return detail::from_c(known);
}

core::PlanOptions plan_options_of(const psa_plan_options* options) {
  if (options == nullptr) return {};
  const psa_plan_options known = read_sized(options, "plan_options");
  core::PlanOptions result;
  if (known.backend != nullptr) result.backend = known.backend;
  if (known.isa != nullptr) result.isa = known.isa;
  result.num_threads = known.num_threads;
  result.hook = {known.parallel_for, known.parallel_context};
  return result;
}

core::CallIo call_io_of(const psa_io* io) {
  const psa_io known = read_sized(io, "io");
  check_reserved("io", known.reserved);
  core::CallIo result;
  result.q = tensor_of(known.q, "q");
  result.k = tensor_of(known.k, "k");
  result.v = tensor_of(known.v, "v");
  result.out = tensor_of(known.out, "out");
  result.lse = known.lse;
  result.kv_lengths = known.kv_lengths;
  result.scores = known.scores;
  result.levels = known.levels;
  result.levels_out = known.levels_out;
  return result;
}

psa_preset to_c(const core::PresetEntry& entry) {
  psa_preset c{};
  c.struct_size = sizeof(c);
  c.warmup_steps = entry.warmup_steps;
  c.name = entry.name;
  c.description = entry.description;
  c.divisor_width = entry.divisor_width;
  c.divisor_height = entry.divisor_height;
  c.divisor_frames = entry.divisor_frames;
  c.text_tokens = static_cast<std::int32_t>(entry.text_tokens);
  c.config = detail::to_c(entry.config);
  return c;
}

psa_stats to_c(const core::RunStats& stats) {
  psa_stats c{};
  c.struct_size = sizeof(c);
  c.density = stats.density;
  c.selection_cost = stats.selection_cost;
  std::copy(stats.blocks.begin(), stats.blocks.end(), std::begin(c.blocks));
  c.reorder_ms = stats.reorder_ms;
  c.pyramid_ms = stats.pyramid_ms;
  c.importance_ms = stats.importance_ms;
  c.levels_ms = stats.levels_ms;
  c.attention_ms = stats.attention_ms;
  return c;
}

psa_backend_info to_c(const core::BackendEntry& entry) {
  psa_backend_info c{};
  c.struct_size = sizeof(c);
  c.available = entry.backend != nullptr ? 1 : 0;
  c.name = entry.name;
  c.isa = entry.isa;
  c.reason = entry.reason;
  return c;
}

}  // namespace psa::capi
