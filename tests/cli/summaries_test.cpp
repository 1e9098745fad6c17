// SPDX-License-Identifier: Apache-2.0
// Tables, order statistics, summaries of tensors and level maps, pictures.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "color.hpp"
#include "contact_sheet.hpp"
#include "level_file.hpp"
#include "level_summary.hpp"
#include "psa/error.hpp"
#include "table.hpp"
#include "tensor_summary.hpp"
#include "timing.hpp"

namespace psa::cli {
namespace {

TEST(Table, AlignsColumnsAndCountsCharactersNotBytes) {
  Table table({{"name", Table::Align::kLeft}, {"n"}});
  table.add_row({"▁█", "7"});
  table.add_row({"longer", "123"});
  EXPECT_EQ(table.text(),
            "name      n\n"
            "------  ---\n"
            "▁█        7\n"
            "longer  123\n");
}

TEST(Table, BytesHaveBinaryUnits) {
  EXPECT_EQ(bytes_text(512), "512 B");
  EXPECT_EQ(bytes_text(1536), "1.5 KiB");
  EXPECT_EQ(bytes_text(3.5 * 1024 * 1024 * 1024), "3.5 GiB");
}

TEST(Timing, SpreadInterpolates) {
  const Spread s = spread_of({5, 1, 2, 4, 3});
  EXPECT_DOUBLE_EQ(s.median, 3);
  EXPECT_DOUBLE_EQ(s.p10, 1.4);
  EXPECT_DOUBLE_EQ(s.p90, 4.6);
  EXPECT_DOUBLE_EQ(s.best, 1);
  EXPECT_DOUBLE_EQ(spread_of({1, 2}).median, 1.5);
  EXPECT_DOUBLE_EQ(spread_of({}).median, 0);
}

template <typename T>
io::TensorInfo tensor_of(io::FileDType dtype, const std::vector<T>& data) {
  return {"x", dtype, {static_cast<index_t>(data.size())}, std::as_bytes(std::span(data))};
}

TEST(TensorSummary, CountsNanAndInfAndKeepsThemOutOfTheRest) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> data{1, -3, std::nanf(""), inf, -inf, 8};
  const TensorSummary s = summarize(tensor_of(io::FileDType::kF32, data));
  EXPECT_TRUE(s.is_readable);
  EXPECT_EQ(s.elements, 6);
  EXPECT_EQ(s.nan, 1);
  EXPECT_EQ(s.infinite, 2);
  EXPECT_EQ(s.min, -3);
  EXPECT_EQ(s.max, 8);
  EXPECT_EQ(s.mean, 2);
}

TEST(TensorSummary, ReadsHalfPrecision) {
  const std::vector<std::uint16_t> bf16{0x3F80, 0xC000};  // 1, -2
  EXPECT_EQ(summarize(tensor_of(io::FileDType::kBF16, bf16)).min, -2);
  const std::vector<std::uint16_t> f16{0x3C00, 0xC000};  // 1, -2
  EXPECT_EQ(summarize(tensor_of(io::FileDType::kF16, f16)).min, -2);
}

TEST(TensorSummary, EmptyAndUnreadableTensorsHaveNoRange) {
  EXPECT_EQ(summarize(tensor_of(io::FileDType::kF32, std::vector<float>{})).min, 0);
  EXPECT_FALSE(
      summarize(tensor_of(io::FileDType::kF8E4M3, std::vector<std::uint8_t>{1})).is_readable);
}

TEST(LevelSummary, ListsWhatOccursSkippedLast) {
  EXPECT_EQ(blocks_text({1, 2, 0, 0, 0, 0, 1}), "level 1: 50.0 %, mean: 25.0 %, skip: 25.0 %");
  const nlohmann::ordered_json counts = blocks_json({1, 2, 0, 0, 0, 0, 3});
  EXPECT_EQ(counts["skip"], 1);
  EXPECT_EQ(counts["level_1"], 2);
  EXPECT_EQ(counts["mean"], 3);
}

TEST(LevelSummary, SparklineAveragesBuckets) {
  const std::vector<double> values{0, 0, 1, 1};
  EXPECT_EQ(sparkline(values, 2, 1), " █");
  EXPECT_EQ(sparkline(values, 64, 2), "  ▄▄");
  EXPECT_EQ(sparkline({}, 64, 1), "");
  EXPECT_EQ(sparkline(values, 4, 0), "    ");
}

LevelMap checkered() {
  LevelMap levels(1, 2, 4, 6);
  const LevelMapView view = levels.view();
  for (index_t i = 0; i < view.size(); ++i) {
    view.data[i] = static_cast<LevelCode>(i % 2 == 0 ? 1 : kBlockMean);
  }
  return levels;
}

TEST(ContactSheet, ShowsEveryBlockInItsColor) {
  LevelMap levels = checkered();
  const Picture sheet = contact_sheet(levels.view(), {{0, 0}}, 3);
  const int top = 12 + 10 + 2;  // margin, text, gap
  EXPECT_EQ(sheet.at(12, top), level_color(1));
  EXPECT_EQ(sheet.at(12 + 3, top), level_color(kBlockMean));
  EXPECT_EQ(sheet.at(12 + 2, top + 3), level_color(1));
}

TEST(ContactSheet, RefusesPicturesThatAreTooLarge) {
  LevelMap levels(1, 1, 2000, 2000);
  EXPECT_THROW((void)contact_sheet(levels.view(), {{0, 0}}, 64), Error);
}

TEST(ContactSheet, DefaultScaleFitsAHead) {
  EXPECT_EQ(default_scale(LevelMap(1, 1, 64, 32).view()), 4);
  EXPECT_EQ(default_scale(LevelMap(1, 1, 600, 600).view()), 1);
}

}  // namespace
}  // namespace psa::cli
