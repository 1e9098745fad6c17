// SPDX-License-Identifier: Apache-2.0
#include "level_summary.hpp"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "table.hpp"

namespace psa::cli {

std::string_view level_label(LevelCode code) {
  constexpr std::array<std::string_view, kNumLevelCodes> kLabels{
      "skip", "level 1", "level 2", "level 3", "level 4", "level 5", "mean"};
  return code < kNumLevelCodes ? kLabels[code] : "unknown";
}

std::string blocks_text(const BlockCounts& blocks) {
  const auto all = static_cast<double>(std::accumulate(blocks.begin(), blocks.end(), index_t{0}));
  std::string text;
  for (std::size_t code = 1; code <= blocks.size(); ++code) {  // skipped blocks last
    const std::size_t c = code % blocks.size();
    if (blocks[c] == 0) continue;
    if (!text.empty()) text += ", ";
    text += level_label(static_cast<LevelCode>(c));
    text += ": " + fixed(100 * static_cast<double>(blocks[c]) / all, 1) + " %";
  }
  return text;
}

nlohmann::ordered_json blocks_json(const BlockCounts& blocks) {
  nlohmann::ordered_json counts;
  for (std::size_t c = 0; c < blocks.size(); ++c) {
    std::string key(level_label(static_cast<LevelCode>(c)));
    std::replace(key.begin(), key.end(), ' ', '_');
    counts[key] = blocks[c];
  }
  return counts;
}

BlockCounts count_blocks(std::span<const LevelCode> codes) {
  BlockCounts counts{};
  for (const LevelCode code : codes) {
    if (code < kNumLevelCodes) ++counts[code];
  }
  return counts;
}

std::string sparkline(std::span<const double> values, std::size_t width, double top) {
  constexpr std::array<std::string_view, 9> kBars{" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const std::size_t buckets = std::min(width, values.size());
  std::string text;
  for (std::size_t i = 0; i < buckets; ++i) {
    const std::size_t begin = i * values.size() / buckets;
    const std::size_t end = (i + 1) * values.size() / buckets;
    const double sum = std::accumulate(values.begin() + static_cast<std::ptrdiff_t>(begin),
                                       values.begin() + static_cast<std::ptrdiff_t>(end), 0.0);
    const double share = top > 0 ? sum / static_cast<double>(end - begin) / top : 0;
    text += kBars[static_cast<std::size_t>(std::lround(8 * std::clamp(share, 0.0, 1.0)))];
  }
  return text;
}

}  // namespace psa::cli
