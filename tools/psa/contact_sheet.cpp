// SPDX-License-Identifier: Apache-2.0
#include "contact_sheet.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "color.hpp"
#include "engine/video/bitmap_font.hpp"
#include "level_summary.hpp"
#include "psa/error.hpp"
#include "table.hpp"

namespace psa::cli {
namespace {

constexpr Rgb kPaper{255, 255, 255};
constexpr Rgb kInk{40, 40, 40};
constexpr int kMargin = 12;
constexpr int kTextSize = 2;
constexpr int kLegendRow = 20;
constexpr int kSwatch = 14;
constexpr index_t kHeadPixels = 256;

BlockCounts count_all(const LevelMapView& levels, const std::vector<SheetHead>& heads) {
  BlockCounts counts{};
  const auto entries = static_cast<std::size_t>(levels.num_q_blocks * levels.num_kv_blocks);
  for (const SheetHead& h : heads) {
    const BlockCounts of_head = count_blocks({levels.row(h.batch, h.head, 0), entries});
    for (std::size_t code = 0; code < counts.size(); ++code) counts[code] += of_head[code];
  }
  return counts;
}

struct LegendLine {
  LevelCode code;
  std::string text;
};

std::vector<LegendLine> legend_of(const BlockCounts& counts) {
  double all = 0;
  for (const index_t n : counts) all += static_cast<double>(n);
  std::vector<LegendLine> lines;
  for (std::size_t i = 1; i <= counts.size(); ++i) {  // skipped blocks last
    const std::size_t code = i % counts.size();
    if (counts[code] == 0) continue;
    const auto level = static_cast<LevelCode>(code);
    lines.push_back({level, std::string(level_label(level)) + ": " +
                                fixed(100 * static_cast<double>(counts[code]) / all, 1) + "%"});
  }
  return lines;
}

/// Where things stand, in pixels.
struct SheetLayout {
  index_t columns, rows;
  index_t map_width, map_height;
  index_t pitch_x, pitch_y;
  index_t width, height;
};

SheetLayout lay_out(const LevelMapView& levels, index_t heads, index_t legend_lines, int scale) {
  SheetLayout s{};
  s.columns = static_cast<index_t>(std::ceil(std::sqrt(static_cast<double>(heads))));
  s.rows = (heads + s.columns - 1) / s.columns;
  s.map_width = levels.num_kv_blocks * scale;
  s.map_height = levels.num_q_blocks * scale;
  s.pitch_x = std::max<index_t>(s.map_width, engine::text_width("b0 h000", kTextSize)) + kMargin;
  s.pitch_y = s.map_height + engine::text_height(kTextSize) + kMargin;
  s.width =
      std::max<index_t>(s.columns * s.pitch_x,
                        kSwatch + engine::text_width(" level 0: 100.0%", kTextSize) + kMargin) +
      kMargin;
  s.height = s.rows * s.pitch_y + kMargin + legend_lines * kLegendRow + kMargin;
  return s;
}

}  // namespace

int default_scale(const LevelMapView& levels) {
  return static_cast<int>(
      std::max<index_t>(1, kHeadPixels / std::max(levels.num_kv_blocks, levels.num_q_blocks)));
}

Picture contact_sheet(const LevelMapView& levels, const std::vector<SheetHead>& heads, int scale) {
  const std::vector<LegendLine> legend = legend_of(count_all(levels, heads));
  const SheetLayout s = lay_out(levels, static_cast<index_t>(heads.size()),
                                static_cast<index_t>(legend.size()), scale);
  constexpr index_t kMaxSide = 65535;
  if (s.width > kMaxSide || s.height > kMaxSide || s.width * s.height > kMaxSheetPixels) {
    throw Error(Status::kInvalidArgument, "the picture would have " + std::to_string(s.width) +
                                              "x" + std::to_string(s.height) +
                                              " pixels; choose one --head or a smaller --zoom");
  }
  Picture sheet(static_cast<int>(s.width), static_cast<int>(s.height), kPaper);
  for (std::size_t i = 0; i < heads.size(); ++i) {
    const auto place = static_cast<index_t>(i);
    const int x = static_cast<int>(kMargin + place % s.columns * s.pitch_x);
    const int y = static_cast<int>(kMargin + place / s.columns * s.pitch_y);
    const std::string name =
        "b" + std::to_string(heads[i].batch) + " h" + std::to_string(heads[i].head);
    engine::draw_text(sheet, x, y, name, kInk, kTextSize);
    engine::paste(sheet, level_map_picture(levels, heads[i].batch, heads[i].head, scale), x,
                  y + engine::text_height(kTextSize) + 2);
  }
  int y = static_cast<int>(s.rows * s.pitch_y) + kMargin;
  for (const LegendLine& line : legend) {
    engine::fill(sheet, kMargin, y, kSwatch, kSwatch, kInk);
    engine::fill(sheet, kMargin + 1, y + 1, kSwatch - 2, kSwatch - 2, level_color(line.code));
    engine::draw_text(sheet, kMargin + kSwatch + kTextSize * 4, y + 2, line.text, kInk, kTextSize);
    y += kLegendRow;
  }
  return sheet;
}

}  // namespace psa::cli
