// SPDX-License-Identifier: Apache-2.0
#pragma once

// The stages of run() one by one: for study, for own selection methods, and for level maps that are
// kept over many calls. Same rules as in plan.hpp: nothing is owned, failures throw psa::Error, a
// workspace of plan.workspace_bytes() is needed where `workspace` stands. Of AttentionIo each stage
// reads what its comment names; the other tensors may stay empty.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <vector>

#include "psa/plan.hpp"

namespace psa::stages {

/// How much each query block needs each KV block (S-9 to S-13). Reads q and k, kv_lengths, and
/// scores for Importance::kUserScores. Writes importance [B,Hq,Nq,Nk], >= 0. Throws
/// Error(kUnsupported) when budget[0] is 1 in every head: such a plan estimates nothing.
inline void estimate_importance(const Plan& plan, const AttentionIo& io,
                                std::span<float> importance, std::span<std::byte> workspace,
                                Stream stream = {}) {
  detail::check_count("size of importance", std::ssize(importance), plan.level_map_size());
  const psa_io c = detail::to_c(io);
  detail::check(psa_estimate_importance(plan.handle(), &c, importance.data(), workspace.data(),
                                        workspace.size(), stream.handle));
}

/// The level map that the plan's rule makes of an importance [B,Hq,Nq,Nk] (S-13 to S-18), which may
/// come from anywhere; NaN ranks last. Reads kv_lengths, k if the plan has a similarity cap, and v
/// if it weighs values.
inline void assign_levels(const Plan& plan, const AttentionIo& io,
                          std::span<const float> importance, LevelMapView levels,
                          std::span<std::byte> workspace, Stream stream = {}) {
  detail::check_count("size of importance", std::ssize(importance), plan.level_map_size());
  detail::check_levels(plan, levels);
  const psa_io c = detail::to_c(io);
  detail::check(psa_assign_levels(plan.handle(), &c, importance.data(), levels.data,
                                  workspace.data(), workspace.size(), stream.handle));
}

/// Both of the above without keeping the importance: the level map that run() would use, for
/// run_with_levels(). Reads q and k, kv_lengths and scores, and v if the plan weighs values.
inline void select_levels(const Plan& plan, const AttentionIo& io, LevelMapView levels,
                          std::span<std::byte> workspace, Stream stream = {}) {
  detail::check_levels(plan, levels);
  const psa_io c = detail::to_c(io);
  detail::check(psa_select_levels(plan.handle(), &c, levels.data, workspace.data(),
                                  workspace.size(), stream.handle));
}

/// One level of the pyramid of k and v in working order (S-4): means of `factor` tokens, where
/// factor = 2^(level-1) for level 2..5 and block_kv for kBlockMean. Reads k, v and kv_lengths.
/// `k_pooled` and `v_pooled` are contiguous [B,Hkv,ceil(Lk/factor),D] of dtype_kv; rows of tokens
/// that do not exist become zero.
inline void build_pyramid(const Plan& plan, const AttentionIo& io, int level, void* k_pooled,
                          void* v_pooled, std::span<std::byte> workspace, Stream stream = {}) {
  const psa_io c = detail::to_c(io);
  detail::check(psa_build_pyramid(plan.handle(), &c, level, k_pooled, v_pooled, workspace.data(),
                                  workspace.size(), stream.handle));
}

/// Work list of a level map in host memory. Row r = (b * Hq + h) * Nq + q_block has the entries
/// [row_begin[r], row_begin[r+1]), by rising level code, then rising KV block; skipped blocks do
/// not appear.
struct Schedule {
  std::vector<std::int64_t> row_begin;  ///< B * Hq * Nq + 1
  std::vector<psa_schedule_entry> entries;
};

[[nodiscard]] inline Schedule build_schedule(const Plan& plan, LevelMapView levels) {
  detail::check_levels(plan, levels);
  const index_t rows = levels.batch * levels.heads * levels.num_q_blocks;
  Schedule schedule;
  schedule.row_begin.resize(static_cast<std::size_t>(rows) + 1);
  detail::check(
      psa_build_schedule(plan.handle(), levels.data, schedule.row_begin.data(), nullptr, 0));
  const std::int64_t count = schedule.row_begin.back();
  schedule.entries.resize(static_cast<std::size_t>(count));
  detail::check(psa_build_schedule(plan.handle(), levels.data, schedule.row_begin.data(),
                                   schedule.entries.data(), count));
  return schedule;
}

/// Cost of a level map (S-21).
struct LevelDensity {
  double density = 0;         ///< share of the visible logit columns that it computes
  double selection_cost = 0;  ///< of the plan's estimator, in the unit of `density`
  std::array<index_t, kNumLevelCodes> blocks{};  ///< entries by code
  std::vector<double> rows;                      ///< [B,Hq,Nq]; 0 where nothing is visible
};

/// Of a level map in host memory, whatever the plan's device; `kv_lengths` [B], there too, or null.
[[nodiscard]] inline LevelDensity measure_levels(const Plan& plan, LevelMapView levels,
                                                 const std::int32_t* kv_lengths = nullptr) {
  detail::check_levels(plan, levels);
  const index_t rows = levels.batch * levels.heads * levels.num_q_blocks;
  LevelDensity result;
  result.rows.resize(static_cast<std::size_t>(rows));
  psa_stats stats;
  psa_stats_init(&stats);
  detail::check(
      psa_measure_levels(plan.handle(), levels.data, kv_lengths, result.rows.data(), &stats));
  result.density = stats.density;
  result.selection_cost = stats.selection_cost;
  std::copy(std::begin(stats.blocks), std::end(stats.blocks), result.blocks.begin());
  return result;
}

}  // namespace psa::stages
