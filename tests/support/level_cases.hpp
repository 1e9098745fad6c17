// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the levels stage of every backend is tested with: importance of every kind, similarity caps,
// and configurations that differ in the rule, in what is forced and in the rest.

#include <cstdint>
#include <vector>

#include "core/backend.hpp"
#include "support/problem_cases.hpp"

namespace psa::testing {

/// What the importance of a row can look like.
enum class ImportanceKind { kSpread, kClose, kTies, kZeros, kSpecial };
inline constexpr ImportanceKind kImportanceKinds[] = {
    ImportanceKind::kSpread, ImportanceKind::kClose, ImportanceKind::kTies, ImportanceKind::kZeros,
    ImportanceKind::kSpecial};

/// [B, Hq, Nq, Nk].
[[nodiscard]] std::vector<float> random_importance(const core::Geometry& geometry,
                                                   ImportanceKind kind, std::uint64_t seed);
/// [B, Hkv, Nk], each 1..5.
[[nodiscard]] std::vector<std::uint8_t> random_caps(const core::Geometry& geometry,
                                                    std::uint64_t seed);
/// [B, Hkv, Nk], some of them 0 and some the largest float.
[[nodiscard]] std::vector<float> random_weights(const core::Geometry& geometry, std::uint64_t seed);
/// Causal calls with query blocks that see from few to some hundred blocks (S-14), in 16-bit types.
[[nodiscard]] std::vector<ProblemCase> long_causal_cases();
[[nodiscard]] std::vector<Config> level_configs(const Config& base);
/// S-24. The quota configurations of level_configs() with other densities in every head, 1
/// included.
[[nodiscard]] std::vector<Config> head_density_configs(const Config& base, index_t heads_q);

/// S-28. The quota configurations of both, made not causal, with query blocks that share a budget.
[[nodiscard]] std::vector<Config> shared_budget_configs(const Config& base, index_t heads_q);

}  // namespace psa::testing
