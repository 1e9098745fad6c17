// SPDX-License-Identifier: Apache-2.0
#pragma once

// Level maps of several heads on one picture, with numbers and a legend.

#include <string_view>
#include <vector>

#include "picture.hpp"
#include "psa/level_map.hpp"

namespace psa::cli {

struct SheetHead {
  index_t batch = 0;
  index_t head = 0;
};

/// Largest number of pixels of a sheet.
inline constexpr index_t kMaxSheetPixels = index_t{1} << 27;

/// Pixels per block so that a head is about 256 pixels wide; at least 1.
[[nodiscard]] int default_scale(const LevelMapView& levels);

/// The maps of `heads` in rows, each under its "b<batch> h<head>", and below them the color and the
/// share of every level that occurs. Throws Error(kInvalidArgument) if that is too large a picture.
[[nodiscard]] Picture contact_sheet(const LevelMapView& levels, const std::vector<SheetHead>& heads,
                                    int scale);

}  // namespace psa::cli
