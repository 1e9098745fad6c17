// SPDX-License-Identifier: Apache-2.0
#pragma once

// The shapes that every stage of every backend is tested with: one token, less than a block, a
// block and one more or less, ragged tails, grouped heads, all storage types and layouts, causal
// offsets, key lengths from 0, orders per head, block and head sizes at their ends.

#include <ostream>
#include <string>
#include <vector>

#include "support/tensors.hpp"

namespace psa::testing {

struct ProblemCase {
  std::string name;  ///< letters and digits only
  Problem problem;
  std::vector<std::int32_t> kv_lengths;  ///< [B] or empty
  bool reordered = false;                ///< with a random order per head
  MemoryLayout layout = MemoryLayout::kBhld;

  [[nodiscard]] QkvTensors make_inputs(std::uint64_t seed) const;
};

/// What GoogleTest prints of a case.
inline void PrintTo(const ProblemCase& c, std::ostream* out) { *out << describe(c.problem); }

[[nodiscard]] std::vector<ProblemCase> problem_cases();

/// Enough queries for probe rows (S-25), with rest = linear.
[[nodiscard]] std::vector<ProblemCase> probed_cases();

/// A random level, skip included, for every block: [B, Hq, Nq, Nk].
[[nodiscard]] std::vector<LevelCode> random_levels(const core::Geometry& geometry,
                                                   std::uint64_t seed);
/// The same level for every block.
[[nodiscard]] std::vector<LevelCode> uniform_levels(const core::Geometry& geometry, LevelCode code);

}  // namespace psa::testing
