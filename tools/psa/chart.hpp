// SPDX-License-Identifier: Apache-2.0
#pragma once

// SVG charts, written as text: lines over two axes, stacked horizontal bars, and heat maps.
// Colours and fonts come from CSS classes of the page (`line-<class>`, `bar-<class>`, `axis`,
// `grid`, `label`, `strong`), so that one chart serves light and dark pages.

#include <string>
#include <vector>

namespace psa::cli {

/// `text` with the characters that XML reserves replaced.
[[nodiscard]] std::string escape_xml(std::string_view text);

/// A tick of an axis: its value and what is written beside it.
struct Tick {
  double value = 0;
  std::string label;
};

/// Linear axis from 0: multiples of 1, 2 or 5 times a power of ten up to the first that is not
/// below `top`, at most `max_steps` steps. `top` <= 0 or not finite counts as 1.
[[nodiscard]] std::vector<Tick> linear_ticks(double top, int max_steps);

/// Logarithmic axis: values 1, 2 and 5 times powers of ten; the first is not above `low`, the last
/// not below `high`. Both must be finite and 0 < low <= high, else Error(kInvalidArgument).
[[nodiscard]] std::vector<Tick> logarithmic_ticks(double low, double high);

struct ChartSize {
  int width = 640;
  int height = 360;
};

struct Point {
  double x = 0;
  double y = 0;
  std::string tooltip;
};

struct Line {
  std::string name;       ///< written at the line's right end
  std::string css_class;  ///< of the line and its points
  std::vector<Point> points;
};

/// One highlighted point with a short note.
struct Mark {
  Point point;
  std::string css_class;
  std::string note;
};

struct LineChart {
  std::string title;    ///< for screen readers
  std::string x_label;  ///< below the axis; x is a share, ticks are written in percent
  std::string y_label;  ///< above the axis; y > 0 on a logarithmic axis
  std::vector<Line> lines;
  std::vector<Mark> marks;
};

/// Points with y <= 0 or that are not finite cannot stand on a logarithmic axis and are left out.
/// Without any point the chart says so.
[[nodiscard]] std::string line_chart_svg(const LineChart& chart, ChartSize size);

struct BarSegment {
  std::string css_class;
  double value = 0;
  std::string tooltip;
};

struct Bar {
  std::string label;  ///< left of the bar
  std::string note;   ///< right of the bar
  std::vector<BarSegment> segments;
};

struct BarChart {
  std::string title;
  std::vector<Bar> bars;  ///< all on one linear scale from 0
};

/// The height follows from the number of bars; labels stand above their bar when `width` is small.
[[nodiscard]] std::string bar_chart_svg(const BarChart& chart, int width);

/// Numbers by row (from top to bottom) and column (from left to right), both counted from 0.
struct HeatMap {
  std::string title;
  std::string row_name;                   ///< "layer"
  std::string column_name;                ///< "step"
  std::vector<std::vector<double>> rows;  ///< at least one row and column; rows of equal length
  double top = 1;                         ///< value v has the color v / top of heat_color()
};

/// The height follows from the number of rows; columns are as wide as there is room, up to a bound.
[[nodiscard]] std::string heat_map_svg(const HeatMap& map, int width);

}  // namespace psa::cli
