// SPDX-License-Identifier: Apache-2.0
#include "picture.hpp"

#include <array>

#include "base64.hpp"
#include "color.hpp"

namespace psa::cli {
namespace {

constexpr Rgb kGap{0x77, 0x74, 0x7E};  // grey is not on the scale

}  // namespace

Picture level_map_picture(const LevelMapView& levels, index_t b, index_t h, int scale) {
  Picture picture(levels.num_kv_blocks * scale, levels.num_q_blocks * scale);
  std::array<Rgb, kNumLevelCodes> colors{};
  for (LevelCode code = 0; code < kNumLevelCodes; ++code) colors[code] = level_color(code);
  for (int y = 0; y < picture.height(); ++y) {
    const LevelCode* row = levels.row(b, h, y / scale);
    for (int x = 0; x < picture.width(); ++x) picture.set(x, y, colors.at(row[x / scale]));
  }
  return picture;
}

Picture frame_grid_picture(std::span<const float> values, const VideoGrid& grid, int columns,
                           double top) {
  const index_t rows = (grid.frames + columns - 1) / columns;
  const index_t pitch_x = grid.width + 1;
  const index_t pitch_y = grid.height + 1;
  Picture picture(columns * pitch_x - 1, rows * pitch_y - 1, kGap);
  for (index_t token = 0; token < grid.tokens(); ++token) {
    const index_t frame = token / (grid.height * grid.width);
    const index_t y = token / grid.width % grid.height + frame / columns * pitch_y;
    const index_t x = token % grid.width + frame % columns * pitch_x;
    const auto value = static_cast<double>(values[static_cast<std::size_t>(token)]);
    picture.set(static_cast<int>(x), static_cast<int>(y), heat_color(value / top));
  }
  return picture;
}

Picture token_strip_picture(std::span<const float> values, int columns, double top) {
  const auto count = static_cast<index_t>(values.size());
  Picture picture(columns, (count + columns - 1) / columns, heat_color(0));
  for (index_t token = 0; token < count; ++token) {
    const auto value = static_cast<double>(values[static_cast<std::size_t>(token)]);
    picture.set(static_cast<int>(token % columns), static_cast<int>(token / columns),
                heat_color(value / top));
  }
  return picture;
}

Picture heat_scale_picture(int width, int height) {
  Picture picture(width, height);
  for (int x = 0; x < width; ++x) {
    const Rgb color = heat_color(width > 1 ? static_cast<double>(x) / (width - 1) : 0);
    for (int y = 0; y < height; ++y) picture.set(x, y, color);
  }
  return picture;
}

std::string png_data_url(const Picture& picture) {
  return "data:image/png;base64," + encode_base64(engine::encode_png(picture));
}

}  // namespace psa::cli
