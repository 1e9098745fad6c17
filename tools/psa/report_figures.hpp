// SPDX-License-Identifier: Apache-2.0
#pragma once

// The figures of the report, each an HTML fragment with its caption. A fragment is empty when its
// data are missing.

#include <span>
#include <string>

#include "comparison.hpp"

namespace psa::cli {

/// Most heads that are drawn; the page says how many there are.
inline constexpr index_t kDrawnHeads = 8;

/// The value that a share `quantile` of the finite `values` does not exceed; 0 if there are none.
[[nodiscard]] double quantile_of(std::span<const float> values, double quantile);

/// "scale 0 to 1" of the heat pictures with its end labels.
[[nodiscard]] std::string heat_legend(const std::string& low, const std::string& high);

[[nodiscard]] std::string level_map_figures(const Comparison& comparison);
[[nodiscard]] std::string error_figures(const Comparison& comparison, const TokenLayout& layout);
[[nodiscard]] std::string curve_figure(const Comparison& comparison);
[[nodiscard]] std::string time_figure(const Comparison& comparison);
/// CSS of the stages' colors in time_figure.
[[nodiscard]] std::string stage_style();

/// A bar of the shares of the level codes, as a table cell's content.
[[nodiscard]] std::string level_shares_bar(const std::array<index_t, kNumLevelCodes>& blocks);

}  // namespace psa::cli
