// SPDX-License-Identifier: Apache-2.0
#pragma once

// Level maps in words and numbers.

#include <array>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

#include "psa/level_map.hpp"

namespace psa::cli {

using BlockCounts = std::array<index_t, kNumLevelCodes>;

/// "skip", "level 1", ..., "mean".
[[nodiscard]] std::string_view level_label(LevelCode code);

/// "level 1: 8.3 %, level 2: 4.5 %, mean: 87.2 %" of the entries that are not zero.
[[nodiscard]] std::string blocks_text(const BlockCounts& blocks);
/// {"skip": 0, "level_1": 12, ...}
[[nodiscard]] nlohmann::ordered_json blocks_json(const BlockCounts& blocks);

[[nodiscard]] BlockCounts count_blocks(std::span<const LevelCode> codes);

/// One character per bucket of `values`, at most `width`: the height of each is the bucket's mean
/// over `top`, in eighths. Empty for no values.
[[nodiscard]] std::string sparkline(std::span<const double> values, std::size_t width, double top);

}  // namespace psa::cli
