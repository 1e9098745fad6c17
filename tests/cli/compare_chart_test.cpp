// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <regex>

#include "chart.hpp"
#include "color.hpp"
#include "psa/error.hpp"

namespace psa::cli {
namespace {

std::vector<double> values_of(const std::vector<Tick>& ticks) {
  std::vector<double> values;
  for (const Tick& tick : ticks) values.push_back(tick.value);
  return values;
}

std::vector<std::string> labels_of(const std::vector<Tick>& ticks) {
  std::vector<std::string> labels;
  for (const Tick& tick : ticks) labels.push_back(tick.label);
  return labels;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t times = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++times;
  }
  return times;
}

/// Attribute `name` of every element that begins with `element`.
std::vector<double> attributes(const std::string& svg, const std::string& element,
                               const std::string& name) {
  std::vector<double> values;
  const std::regex pattern("<" + element + " [^>]*\\b" + name + "=\"([-0-9.]+)\"");
  for (std::sregex_iterator found(svg.begin(), svg.end(), pattern), end; found != end; ++found) {
    values.push_back(std::stod((*found)[1]));
  }
  return values;
}

TEST(LinearTicks, AreRoundNumbersThatReachTheTop) {
  EXPECT_THAT(labels_of(linear_ticks(0.3, 8)),
              testing::ElementsAre("0", "0.05", "0.1", "0.15", "0.2", "0.25", "0.3"));
  EXPECT_THAT(labels_of(linear_ticks(0.3, 4)), testing::ElementsAre("0", "0.1", "0.2", "0.3"));
  EXPECT_THAT(labels_of(linear_ticks(7.2, 4)), testing::ElementsAre("0", "2", "4", "6", "8"));
  EXPECT_THAT(labels_of(linear_ticks(1000, 5)),
              testing::ElementsAre("0", "200", "400", "600", "800", "1000"));
}

TEST(LinearTicks, NeverExceedTheWantedNumber) {
  for (double top = 1e-3; top < 1e4; top *= 1.037) {
    for (const int steps : {1, 3, 4, 8}) {
      const std::vector<Tick> ticks = linear_ticks(top, steps);
      EXPECT_LE(ticks.size(), static_cast<std::size_t>(steps) + 1) << top;
      EXPECT_GE(ticks.back().value, top * (1 - 1e-8)) << top;
      EXPECT_LT(ticks[ticks.size() - 2].value, top) << top;
    }
  }
}

TEST(LinearTicks, ReplaceATopThatIsNoLength) {
  EXPECT_EQ(linear_ticks(0, 4).back().value, 1);
  EXPECT_EQ(linear_ticks(std::numeric_limits<double>::infinity(), 4).back().value, 1);
}

TEST(LogarithmicTicks, EncloseTheValuesInOneTwoFiveSteps) {
  EXPECT_THAT(labels_of(logarithmic_ticks(0.03, 0.7)),
              testing::ElementsAre("0.02", "0.05", "0.1", "0.2", "0.5", "1"));
  EXPECT_THAT(labels_of(logarithmic_ticks(0.05, 0.5)),
              testing::ElementsAre("0.05", "0.1", "0.2", "0.5"));
  EXPECT_THAT(labels_of(logarithmic_ticks(3, 3)), testing::ElementsAre("2", "5"));
  EXPECT_THAT(values_of(logarithmic_ticks(1, 1)), testing::ElementsAre(1, 2));
}

TEST(LogarithmicTicks, RefuseWhatHasNoLogarithm) {
  EXPECT_THROW(logarithmic_ticks(0, 1), Error);
  EXPECT_THROW(logarithmic_ticks(2, 1), Error);
  EXPECT_THROW(logarithmic_ticks(1, std::numeric_limits<double>::infinity()), Error);
  EXPECT_THROW(logarithmic_ticks(std::nan(""), 1), Error);
}

LineChart sample_chart() {
  LineChart chart;
  chart.title = "title";
  chart.x_label = "x";
  chart.y_label = "y";
  Line line{"PSA", "psa", {}};
  for (const double density : {0.1, 0.2, 0.4}) line.points.push_back({density, 0.04 / density, ""});
  chart.marks.push_back({line.points[1], "psa", "this run"});
  chart.lines.push_back(line);
  return chart;
}

TEST(LineChart, PutsHigherValuesHigherAndDenserPointsToTheRight) {
  const std::string svg = line_chart_svg(sample_chart(), {640, 360});
  const std::vector<double> x = attributes(svg, "circle", "cx");
  const std::vector<double> y = attributes(svg, "circle", "cy");
  ASSERT_EQ(x.size(), 4U);
  EXPECT_LT(x[0], x[1]);
  EXPECT_LT(x[1], x[2]);
  EXPECT_LT(y[0], y[1]);
  // Halves are equally far apart on a logarithmic axis; densities are linear.
  EXPECT_NEAR(y[1] - y[0], y[2] - y[1], 0.11);
  EXPECT_NEAR(2 * (x[1] - x[0]), x[2] - x[1], 0.21);
  // The mark lies on its point.
  EXPECT_EQ(x[3], x[1]);
  EXPECT_EQ(y[3], y[1]);
}

TEST(LineChart, StaysInsideItsBoxAtAnyWidth) {
  for (const ChartSize size : {ChartSize{360, 320}, ChartSize{640, 360}, ChartSize{900, 400}}) {
    const std::string svg = line_chart_svg(sample_chart(), size);
    for (const double x : attributes(svg, "circle", "cx")) {
      EXPECT_GE(x, 0);
      EXPECT_LE(x, size.width);
    }
    for (const double y : attributes(svg, "text", "y")) {
      EXPECT_GE(y, 0);
      EXPECT_LE(y, size.height);
    }
  }
}

TEST(LineChart, LeavesOutWhatHasNoPlace) {
  LineChart chart = sample_chart();
  chart.lines[0].points.push_back({0.5, 0, "zero"});
  chart.lines[0].points.push_back({0.6, std::nan(""), "nan"});
  chart.lines[0].points.push_back({std::numeric_limits<double>::infinity(), 0.1, "far"});
  const std::string svg = line_chart_svg(chart, {640, 360});
  EXPECT_EQ(count(svg, "<circle"), 4U);
  EXPECT_EQ(svg.find("nan\""), std::string::npos);
}

TEST(LineChart, SaysThatThereIsNoData) {
  LineChart chart = sample_chart();
  chart.lines[0].points.clear();
  chart.marks.clear();
  EXPECT_THAT(line_chart_svg(chart, {640, 360}), testing::HasSubstr("no data"));
}

TEST(LineChart, NamesOfCloseLinesDoNotOverlap) {
  LineChart chart = sample_chart();
  chart.marks.clear();
  Line line{"binary", "binary", {}};
  for (const Point& point : chart.lines[0].points)
    line.points.push_back({point.x, point.y * 1.01, ""});
  chart.lines.push_back(line);
  const std::string svg = line_chart_svg(chart, {640, 360});
  const std::regex name("<text x=\"[0-9.]+\" y=\"([0-9.]+)\" class=\"name-");
  std::vector<double> y;
  for (std::sregex_iterator found(svg.begin(), svg.end(), name), end; found != end; ++found) {
    y.push_back(std::stod((*found)[1]));
  }
  ASSERT_EQ(y.size(), 2U);
  EXPECT_GE(std::abs(y[0] - y[1]), 13);
}

TEST(BarChart, LengthsAreProportionalAndStacked) {
  BarChart chart;
  chart.bars.push_back({"dense", "100 ms", {{"attention", 100, ""}}});
  chart.bars.push_back({"psa", "25 ms", {{"levels", 5, ""}, {"attention", 20, ""}}});
  for (const int width : {360, 900}) {
    const std::string svg = bar_chart_svg(chart, width);
    const std::vector<double> x = attributes(svg, "rect", "x");
    const std::vector<double> w = attributes(svg, "rect", "width");
    ASSERT_EQ(w.size(), 3U);
    EXPECT_NEAR(w[1] + w[2], w[0] / 4, 0.2);
    EXPECT_NEAR(w[2], 4 * w[1], 0.4);
    EXPECT_NEAR(x[2], x[1] + w[1], 0.11);
    EXPECT_LE(x[0] + w[0], width);
  }
}

TEST(Xml, ReservedCharactersAreEscaped) {
  EXPECT_EQ(escape_xml("a<b & \"c\">'d'"), "a&lt;b &amp; &quot;c&quot;&gt;&#39;d&#39;");
}

HeatMap heat_map(std::size_t rows, std::size_t columns) {
  return {"densities", "layer", "step", std::vector(rows, std::vector<double>(columns, 0.25)), 1};
}

TEST(HeatMap, HasOneCellPerValueInItsColor) {
  HeatMap map = heat_map(2, 3);
  map.rows[1][2] = 1;
  const std::string svg = heat_map_svg(map, 900);
  EXPECT_EQ(count(svg, "<rect"), 6U);
  EXPECT_EQ(count(svg, css_color(heat_color(0.25))), 5U);
  EXPECT_EQ(count(svg, css_color(heat_color(1))), 1U);
  EXPECT_THAT(svg, testing::HasSubstr("<title>layer 1, step 2: 1</title>"));
  EXPECT_THAT(svg, testing::HasSubstr("<title>layer 0, step 1: 0.25</title>"));
  map.top = 0.25;
  EXPECT_EQ(count(heat_map_svg(map, 900), css_color(heat_color(1))), 6U);
}

TEST(HeatMap, FitsTheWidthWithClearNumbers) {
  for (const int width : {420, 900}) {
    for (const std::size_t columns : {1U, 20U, 50U, 200U}) {
      const std::string svg = heat_map_svg(heat_map(3, columns), width);
      const std::vector<double> x = attributes(svg, "rect", "x");
      const std::vector<double> widths = attributes(svg, "rect", "width");
      ASSERT_EQ(x.size(), 3 * columns);
      EXPECT_LE(x.back() + widths.back(), width + 0.2);
      const std::regex number("<text x=\"([-0-9.]+)\"[^>]*text-anchor=\"middle\">([0-9]+)<");
      double end = -100;
      for (std::sregex_iterator found(svg.begin(), svg.end(), number), last; found != last;
           ++found) {
        const double half = 3.6 * static_cast<double>((*found)[2].length());
        EXPECT_GT(std::stod((*found)[1]) - half, end) << (*found)[2];
        end = std::stod((*found)[1]) + half;
      }
      EXPECT_GT(end, 0);
    }
  }
}

}  // namespace
}  // namespace psa::cli
