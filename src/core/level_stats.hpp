// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a level map costs (S-21), and its work list.

#include <array>
#include <cstdint>
#include <span>

#include "core/backend.hpp"
#include "psa/level_map.hpp"

namespace psa::core {

struct LevelStats {
  double density = 0;
  double selection_cost = 0;                     ///< of the estimator
  double correction_cost = 0;                    ///< of the rest of rest = linear (S-23, S-25)
  std::array<index_t, kNumLevelCodes> blocks{};  ///< entries of the map by code
};

/// `levels` [B, Hq, Nq, Nk]; `kv_lengths` [B] or null; `row_density` [B, Hq, Nq] or null. Rows that
/// see no key have density 0.
LevelStats measure_levels(const Geometry& geometry, const LevelCode* levels,
                          const std::int32_t* kv_lengths, double* row_density);

/// Throws Error(kInvalidArgument) at the first entry that is not skip, a level up to num_levels,
/// or, where the rest is read, the block mean.
void check_levels(const Geometry& geometry, const LevelCode* levels);

/// Turns every other code into skip, which is how backends of a device read them: their maps cannot
/// be checked before a call.
void skip_unknown_levels(const Geometry& geometry, std::span<LevelCode> levels);

struct ScheduleEntry {
  std::int32_t kv_block;
  std::int32_t level;
};

/// Entries of row r are [row_begin[r], row_begin[r+1]), by rising level, then rising KV block;
/// skipped blocks do not appear. Null `entries`: only the counts. Throws if `capacity` is too
/// small.
void build_schedule(const Geometry& geometry, const LevelCode* levels, index_t* row_begin,
                    ScheduleEntry* entries, index_t capacity);

}  // namespace psa::core
