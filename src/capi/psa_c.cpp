// SPDX-License-Identifier: Apache-2.0

// The functions of psa.h: translate, call core, catch. No logic of their own.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "capi/sized_struct.hpp"
#include "capi/status.hpp"
#include "capi/translate.hpp"
#include "core/geometry.hpp"
#include "core/io_checks.hpp"
#include "core/level_stats.hpp"
#include "core/plan.hpp"
#include "core/presets.hpp"
#include "core/registry.hpp"
#include "psa/c_structs.hpp"
#include "psa/error.hpp"
#include "psa/psa.h"
#include "psa/version.hpp"

struct psa_plan {
  psa::core::Plan plan;
};

namespace {

using psa::capi::guarded;
using psa::capi::require;

const psa::core::Plan& plan_of(const psa_plan* plan) {
  require(plan, "plan");
  return plan->plan;
}

std::span<std::byte> span_of(void* workspace, std::size_t bytes) {
  return {static_cast<std::byte*>(workspace), bytes};
}

void check_index(std::int32_t index, std::size_t count) {
  if (index >= 0 && static_cast<std::size_t>(index) < count) return;
  throw psa::Error(psa::Status::kInvalidArgument,
                   "index is " + std::to_string(index) + "; allowed: 0.." +
                       std::to_string(static_cast<std::int64_t>(count) - 1));
}

/// Result of `count`, or 0 with a message in psa_last_error() if it throws.
template <typename Count>
std::int32_t count_or_zero(const Count& count) noexcept {
  std::int32_t result = 0;
  static_cast<void>(guarded([&] { result = static_cast<std::int32_t>(count()); }));
  return result;
}

const psa::core::PresetEntry& preset_named(const std::string& name) {
  std::string known;
  for (const psa::core::PresetEntry& entry : psa::core::presets()) {
    if (name == entry.name) return entry;
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw psa::Error(psa::Status::kInvalidArgument, "preset is \"" + name + "\"; known: " + known);
}

}  // namespace

// ---- status and version -------------------------------------------------------------------------

const char* psa_status_string(psa_status status) {
  static constexpr std::array<const char*, 6> kNames{"ok",
                                                     "invalid argument",
                                                     "unsupported",
                                                     "out of memory",
                                                     "input/output error",
                                                     "internal error"};
  const auto index = static_cast<std::size_t>(status);  // negative values become large
  return index < kNames.size() ? kNames.at(index) : "unknown status";
}

const char* psa_last_error(void) { return psa::capi::last_error(); }

const char* psa_version(void) { return psa::kVersion; }

int32_t psa_abi_version(void) { return psa::kAbiVersion; }

// ---- initial values -----------------------------------------------------------------------------

void psa_problem_init(psa_problem* problem) {
  if (problem == nullptr) return;
  psa::detail::Problem initial;
  initial.shape.dtype_q = psa::DType::kBF16;
  initial.shape.dtype_kv = psa::DType::kBF16;
  initial.shape.dtype_out = psa::DType::kBF16;
  *problem = psa::detail::to_c(initial);
}

void psa_config_init(psa_config* config) {
  if (config != nullptr) *config = psa::detail::to_c(psa::Config{});
}

psa_status psa_config_set_density(psa_config* config, double density) {
  return guarded([&] {
    const psa::Config known = psa::capi::config_of(config);
    const auto budget = psa::core::budget_for_density(known, density);
    config->rule = PSA_RULE_QUOTA;
    std::copy(budget.begin(), budget.end(), std::begin(config->budget));
    config->head_density = nullptr;
    config->num_head_densities = 0;
  });
}

void psa_plan_options_init(psa_plan_options* options) {
  if (options == nullptr) return;
  *options = {};
  options->struct_size = sizeof(*options);
}

void psa_io_init(psa_io* io) {
  if (io == nullptr) return;
  *io = {};
  io->struct_size = sizeof(*io);
}

void psa_stats_init(psa_stats* stats) {
  if (stats == nullptr) return;
  *stats = {};
  stats->struct_size = sizeof(*stats);
}

// ---- presets ------------------------------------------------------------------------------------

int32_t psa_preset_count(void) {
  return count_or_zero([] { return psa::core::presets().size(); });
}

psa_status psa_preset_at(int32_t index, psa_preset* preset) {
  return guarded([&] {
    psa::capi::check_sized(preset, "preset");
    const std::span<const psa::core::PresetEntry> all = psa::core::presets();
    check_index(index, all.size());
    psa::capi::write_sized(psa::capi::to_c(all[static_cast<std::size_t>(index)]), preset);
  });
}

psa_status psa_preset_find(const char* name, psa_preset* preset) {
  return guarded([&] {
    require(name, "name");
    psa::capi::check_sized(preset, "preset");
    psa::capi::write_sized(psa::capi::to_c(preset_named(name)), preset);
  });
}

// ---- plan ---------------------------------------------------------------------------------------

psa_status psa_plan_create(const psa_problem* problem, const psa_config* config,
                           const psa_plan_options* options, psa_plan** plan) {
  return guarded([&] {
    require(plan, "plan");
    *plan = nullptr;
    const psa::detail::Problem described = psa::capi::problem_of(problem);
    const psa::Config wanted = psa::capi::config_of(config, described.shape.heads_q);
    auto created = std::make_unique<psa_plan>(
        psa_plan{{described.shape, described.layout, wanted, described.device,
                  psa::capi::plan_options_of(options)}});
    *plan = created.release();
  });
}

void psa_plan_destroy(psa_plan* plan) { delete plan; }

psa_status psa_plan_workspace_size(const psa_plan* plan, size_t* bytes) {
  return guarded([&] {
    require(bytes, "bytes");
    *bytes = plan_of(plan).workspace_bytes();
  });
}

psa_status psa_plan_blocks(const psa_plan* plan, int64_t* num_q_blocks, int64_t* num_kv_blocks) {
  return guarded([&] {
    require(num_q_blocks, "num_q_blocks");
    require(num_kv_blocks, "num_kv_blocks");
    const psa::core::Geometry& geometry = plan_of(plan).geometry();
    *num_q_blocks = geometry.num_q_blocks;
    *num_kv_blocks = geometry.num_kv_blocks;
  });
}

psa_status psa_plan_describe(const psa_plan* plan, char* buffer, size_t capacity, size_t* length) {
  return guarded([&] {
    if (capacity > 0) require(buffer, "buffer");
    const std::string text = plan_of(plan).describe();
    if (length != nullptr) *length = text.size();
    if (capacity == 0) return;
    const std::size_t written = std::min(text.size(), capacity - 1);
    std::memcpy(buffer, text.data(), written);
    buffer[written] = '\0';
  });
}

psa_status psa_plan_token_order(const psa_plan* plan, int32_t* order) {
  return guarded([&] {
    require(order, "order");
    const psa::core::Plan& known = plan_of(plan);
    const psa::core::Geometry& geometry = known.geometry();
    if (psa::core::orders_keys_by_content(geometry.config)) {
      throw psa::Error(psa::Status::kUnsupported,
                       "reorder depends on the content of q and k; only none, gilbert and tile3d "
                       "have an order that is known before the call");
    }
    const std::vector<std::int32_t>& fixed = known.token_order();
    if (fixed.empty()) {
      std::iota(order, order + geometry.shape.len_q, 0);
    } else {
      std::copy(fixed.begin(), fixed.end(), order);
    }
  });
}

// ---- run ----------------------------------------------------------------------------------------

psa_status psa_forward(const psa_plan* plan, const psa_io* io, void* workspace,
                       size_t workspace_bytes, void* stream, psa_stats* stats) {
  return guarded([&] {
    const psa::core::Plan& known = plan_of(plan);
    if (stats != nullptr) psa::capi::check_sized(stats, "stats");
    psa::core::RunStats measured;
    known.forward(psa::capi::call_io_of(io), span_of(workspace, workspace_bytes),
                  stats == nullptr ? nullptr : &measured, psa::Stream{stream});
    if (stats != nullptr) psa::capi::write_sized(psa::capi::to_c(measured), stats);
  });
}

// ---- stages -------------------------------------------------------------------------------------

psa_status psa_estimate_importance(const psa_plan* plan, const psa_io* io, float* importance,
                                   void* workspace, size_t workspace_bytes, void* stream) {
  return guarded([&] {
    require(importance, "importance");
    plan_of(plan).estimate_importance(psa::capi::call_io_of(io), importance,
                                      span_of(workspace, workspace_bytes), psa::Stream{stream});
  });
}

psa_status psa_assign_levels(const psa_plan* plan, const psa_io* io, const float* importance,
                             uint8_t* levels, void* workspace, size_t workspace_bytes,
                             void* stream) {
  return guarded([&] {
    require(importance, "importance");
    require(levels, "levels");
    plan_of(plan).assign_levels(psa::capi::call_io_of(io), importance, levels,
                                span_of(workspace, workspace_bytes), psa::Stream{stream});
  });
}

psa_status psa_select_levels(const psa_plan* plan, const psa_io* io, uint8_t* levels,
                             void* workspace, size_t workspace_bytes, void* stream) {
  return guarded([&] {
    require(levels, "levels");
    plan_of(plan).select_levels(psa::capi::call_io_of(io), levels,
                                span_of(workspace, workspace_bytes), psa::Stream{stream});
  });
}

psa_status psa_build_pyramid(const psa_plan* plan, const psa_io* io, int32_t level, void* k_pooled,
                             void* v_pooled, void* workspace, size_t workspace_bytes,
                             void* stream) {
  return guarded([&] {
    require(k_pooled, "k_pooled");
    require(v_pooled, "v_pooled");
    plan_of(plan).build_pyramid(psa::capi::call_io_of(io), level, k_pooled, v_pooled,
                                span_of(workspace, workspace_bytes), psa::Stream{stream});
  });
}

psa_status psa_build_schedule(const psa_plan* plan, const uint8_t* levels, int64_t* row_begin,
                              psa_schedule_entry* entries, int64_t capacity) {
  return guarded([&] {
    const psa::core::Geometry& geometry = plan_of(plan).geometry();
    require(levels, "levels");
    require(row_begin, "row_begin");
    psa::core::check_levels(geometry, levels);
    psa::core::build_schedule(geometry, levels, row_begin, nullptr, 0);
    if (entries == nullptr) return;
    const std::int64_t count =
        row_begin[geometry.shape.batch * geometry.shape.heads_q * geometry.num_q_blocks];
    std::vector<psa::core::ScheduleEntry> list(static_cast<std::size_t>(count));
    psa::core::build_schedule(geometry, levels, row_begin, list.data(), capacity);
    for (const psa::core::ScheduleEntry& entry : list) *entries++ = {entry.kv_block, entry.level};
  });
}

psa_status psa_measure_levels(const psa_plan* plan, const uint8_t* levels,
                              const int32_t* kv_lengths, double* row_density, psa_stats* stats) {
  return guarded([&] {
    const psa::core::Geometry& geometry = plan_of(plan).geometry();
    require(levels, "levels");
    psa::capi::check_sized(stats, "stats");
    psa::core::check_levels(geometry, levels);
    psa::core::check_kv_lengths(geometry, kv_lengths);
    const psa::core::LevelStats measured =
        psa::core::measure_levels(geometry, levels, kv_lengths, row_density);
    psa::core::RunStats result;
    result.density = measured.density;
    result.selection_cost = measured.selection_cost + measured.correction_cost;
    result.blocks = measured.blocks;
    psa::capi::write_sized(psa::capi::to_c(result), stats);
  });
}

// ---- what this machine offers -------------------------------------------------------------------

int32_t psa_backend_count(void) {
  return count_or_zero([] { return psa::core::backend_entries().size(); });
}

psa_status psa_backend_at(int32_t index, psa_backend_info* info) {
  return guarded([&] {
    psa::capi::check_sized(info, "backend_info");
    const std::vector<psa::core::BackendEntry>& all = psa::core::backend_entries();
    check_index(index, all.size());
    psa::capi::write_sized(psa::capi::to_c(all[static_cast<std::size_t>(index)]), info);
  });
}
