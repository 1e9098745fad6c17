// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "psa/level_map.hpp"

namespace psa::cli {

using Rgb = std::array<std::uint8_t, 3>;

/// The one scale of every picture: t in [0, 1] (clamped; NaN counts as 0) goes from near black over
/// violet, red and orange to pale yellow. Lightness rises in equal perceived steps (it is linear in
/// OKLab), so that the order survives grey printing and color blindness.
[[nodiscard]] Rgb heat_color(double t);

/// Finer reading is brighter: skip is the dark end, then the mean, then levels 5 to 1.
[[nodiscard]] Rgb level_color(LevelCode code);
/// "token by token", "means of 2 tokens", ..., "one mean per block", "skipped".
[[nodiscard]] std::string_view level_text(LevelCode code);

/// WCAG 2 relative luminance, 0 (black) to 1 (white).
[[nodiscard]] double luminance(Rgb color);

/// "#rrggbb".
[[nodiscard]] std::string css_color(Rgb color);

}  // namespace psa::cli
