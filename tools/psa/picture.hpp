// SPDX-License-Identifier: Apache-2.0
#pragma once

// Pictures made of pixels: level maps, values over the tokens of a video, color scales; and PNG.

#include <span>
#include <string>

#include "engine/video/image.hpp"
#include "psa/level_map.hpp"
#include "psa/types.hpp"

namespace psa::cli {

using Picture = engine::Image;

/// One head of a level map: row = query block, column = KV block, `scale` pixels square each.
[[nodiscard]] Picture level_map_picture(const LevelMapView& levels, index_t b, index_t h,
                                        int scale);

/// One value per video token [frames, height, width]: the frames side by side, `columns` in a row,
/// one grey pixel apart. Value v has the color v / top of the scale.
[[nodiscard]] Picture frame_grid_picture(std::span<const float> values, const VideoGrid& grid,
                                         int columns, double top);

/// One value per token without a grid, in token order, `columns` in a row.
[[nodiscard]] Picture token_strip_picture(std::span<const float> values, int columns, double top);

/// The color scale from left to right.
[[nodiscard]] Picture heat_scale_picture(int width, int height);

/// "data:image/png;base64,...", for HTML.
[[nodiscard]] std::string png_data_url(const Picture& picture);

}  // namespace psa::cli
