// SPDX-License-Identifier: Apache-2.0
#include "chart.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "color.hpp"
#include "psa/error.hpp"
#include "table.hpp"

namespace psa::cli {
namespace {

constexpr double kGlyphWidth = 7.2;  // px of an average glyph at the charts' 13 px
constexpr double kLineHeight = 17;   // px

std::string number(double value) { return fixed(value, 1); }

std::string open_svg(const std::string& title, double width, double height) {
  return "<svg viewBox=\"0 0 " + number(width) + " " + number(height) +
         "\" role=\"img\">\n<title>" + escape_xml(title) + "</title>\n";
}

std::string text_at(double x, double y, const std::string& css_class, const std::string& anchor,
                    const std::string& content) {
  return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" class=\"" + css_class +
         "\" text-anchor=\"" + anchor + "\">" + escape_xml(content) + "</text>\n";
}

std::string segment(double x1, double y1, double x2, double y2, const std::string& css_class) {
  return "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) +
         "\" y2=\"" + number(y2) + "\" class=\"" + css_class + "\"/>\n";
}

double text_width(const std::string& text) {
  return kGlyphWidth * static_cast<double>(text.size());
}

bool is_plottable(const Point& point) {
  return std::isfinite(point.x) && std::isfinite(point.y) && point.y > 0;
}

/// Where values land in the plot rectangle, in pixels.
class Frame {
 public:
  Frame(ChartSize size, double right_margin, double bottom_margin, std::vector<Tick> x,
        std::vector<Tick> y)
      : left_(46),
        right_(size.width - right_margin),
        top_(30),
        bottom_(size.height - bottom_margin),
        x_ticks_(std::move(x)),
        y_ticks_(std::move(y)) {}

  [[nodiscard]] double x(double value) const {
    return left_ + (right_ - left_) * value / x_ticks_.back().value;
  }
  [[nodiscard]] double y(double value) const {
    const double low = std::log(y_ticks_.front().value);
    const double high = std::log(y_ticks_.back().value);
    return bottom_ - (bottom_ - top_) * (std::log(value) - low) / (high - low);
  }
  [[nodiscard]] double left() const { return left_; }
  [[nodiscard]] double right() const { return right_; }

  [[nodiscard]] std::string axes(const LineChart& chart) const {
    std::string svg = text_at(0, 14, "label", "start", chart.y_label);
    for (const Tick& tick : y_ticks_) {
      svg += segment(left_, y(tick.value), right_, y(tick.value), "grid");
      svg += text_at(left_ - 8, y(tick.value) + 4, "label", "end", tick.label);
    }
    for (const Tick& tick : x_ticks_) {
      svg += segment(x(tick.value), bottom_, x(tick.value), bottom_ + 5, "axis");
      svg += text_at(x(tick.value), bottom_ + 20, "label", "middle", tick.label);
    }
    svg += segment(left_, bottom_, right_, bottom_, "axis");
    return svg + text_at((left_ + right_) / 2, bottom_ + 40, "label", "middle", chart.x_label);
  }

 private:
  double left_, right_, top_, bottom_;
  std::vector<Tick> x_ticks_;
  std::vector<Tick> y_ticks_;
};

std::string line_svg(const Line& line, const Frame& frame) {
  std::string path;
  std::string dots;
  for (const Point& point : line.points) {
    if (!is_plottable(point)) continue;
    const std::string x = number(frame.x(point.x));
    const std::string y = number(frame.y(point.y));
    path += (path.empty() ? "M" : "L") + x + " " + y;
    dots += "<circle cx=\"" + x + "\" cy=\"" + y + "\" r=\"3.5\" class=\"dot-" + line.css_class +
            "\"><title>" + escape_xml(point.tooltip) + "</title></circle>\n";
  }
  if (path.empty()) return "";
  return "<path d=\"" + path + "\" class=\"line-" + line.css_class + "\"/>\n" + dots;
}

std::string ring_svg(const Mark& mark, const Frame& frame) {
  return "<circle cx=\"" + number(frame.x(mark.point.x)) + "\" cy=\"" +
         number(frame.y(mark.point.y)) + "\" r=\"7\" class=\"mark-" + mark.css_class +
         "\"><title>" + escape_xml(mark.point.tooltip) + "</title></circle>\n";
}

// Rings, and their notes beside them on the side that has room, pushed apart where they are close.
std::string marks_svg(std::vector<Mark> marks, const Frame& frame) {
  marks.erase(std::remove_if(marks.begin(), marks.end(),
                             [](const Mark& mark) { return !is_plottable(mark.point); }),
              marks.end());
  std::stable_sort(marks.begin(), marks.end(),
                   [](const Mark& a, const Mark& b) { return a.point.y > b.point.y; });
  std::string rings;
  std::string notes;
  double free_from = 0;
  for (const Mark& mark : marks) {
    rings += ring_svg(mark, frame);
    if (mark.note.empty()) continue;
    const double x = frame.x(mark.point.x);
    const double y = std::max(frame.y(mark.point.y) + 5, free_from);
    const bool fits = x + 14 + text_width(mark.note) <= frame.right();
    notes += text_at(fits ? x + 14 : x - 14, y, "strong", fits ? "start" : "end", mark.note);
    free_from = y + kLineHeight;
  }
  return rings + notes;
}

// Names at the right ends, pushed apart where lines end close together.
std::string end_labels(const LineChart& chart, const Frame& frame) {
  struct EndLabel {
    double x;
    double y;
    const Line* line;
  };
  std::vector<EndLabel> labels;
  for (const Line& line : chart.lines) {
    const auto last = std::find_if(line.points.rbegin(), line.points.rend(), is_plottable);
    if (last == line.points.rend()) continue;
    double right = last->x;
    for (const Mark& mark : chart.marks) {  // a ring behind the end would be under the name
      if (mark.css_class == line.css_class && is_plottable(mark.point)) {
        right = std::max(right, mark.point.x);
      }
    }
    labels.push_back({frame.x(right), frame.y(last->y), &line});
  }
  std::stable_sort(labels.begin(), labels.end(),
                   [](const EndLabel& a, const EndLabel& b) { return a.y < b.y; });
  std::string svg;
  double free_from = 0;
  for (const EndLabel& label : labels) {
    const double y = std::max(label.y, free_from);
    svg += text_at(label.x + 12, y + 4, "name-" + label.line->css_class, "start", label.line->name);
    free_from = y + kLineHeight;
  }
  return svg;
}

struct Extent {
  double low = 0;
  double high = 0;
  double right = 0;
  bool has_points = false;

  void include(const Point& point) {
    if (!is_plottable(point)) return;
    low = has_points ? std::min(low, point.y) : point.y;
    high = has_points ? std::max(high, point.y) : point.y;
    right = std::max(right, point.x);
    has_points = true;
  }
};

}  // namespace

std::string escape_xml(std::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::vector<Tick> linear_ticks(double top, int max_steps) {
  const double bound = std::isfinite(top) && top > 0 ? top : 1;
  double power = std::pow(10, std::floor(std::log10(bound / max_steps)));
  double step = power;
  // A tenth of a step of tolerance would show; 1e-9 only absorbs the rounding of pow.
  for (int turn = 0; step * max_steps < bound * (1 - 1e-9); ++turn) {
    constexpr double kFactor[] = {2, 5, 10};
    step = power * kFactor[turn % 3];
    if (turn % 3 == 2) power *= 10;
  }
  std::vector<Tick> ticks;
  for (int i = 0; i <= max_steps; ++i) {
    ticks.push_back({i * step, significant(i * step, 6)});
    if (ticks.back().value >= bound * (1 - 1e-9)) break;
  }
  return ticks;
}

std::vector<Tick> logarithmic_ticks(double low, double high) {
  if (!(low > 0) || !(high >= low) || !std::isfinite(high)) {
    throw Error(Status::kInvalidArgument, "a logarithmic axis from " + significant(low, 6) +
                                              " to " + significant(high, 6) +
                                              "; both must be finite and 0 < low <= high");
  }
  std::vector<Tick> ticks;
  for (int power = static_cast<int>(std::floor(std::log10(low)));; ++power) {
    for (const int digit : {1, 2, 5}) {
      const double value = digit * std::pow(10, power);
      if (value <= low * (1 + 1e-9)) ticks.clear();
      ticks.push_back({value, significant(value, 3)});
      if (value >= high * (1 - 1e-9) && ticks.size() > 1) return ticks;
    }
  }
}

std::string line_chart_svg(const LineChart& chart, ChartSize size) {
  Extent extent;
  double longest_name = 0;
  for (const Line& line : chart.lines) {
    for (const Point& point : line.points) extent.include(point);
    longest_name = std::max(longest_name, text_width(line.name));
  }
  for (const Mark& mark : chart.marks) extent.include(mark.point);
  std::string svg = open_svg(chart.title, size.width, size.height);
  if (!extent.has_points) {
    return svg + text_at(size.width / 2.0, size.height / 2.0, "label", "middle", "no data") +
           "</svg>\n";
  }
  std::vector<Tick> x_ticks = linear_ticks(extent.right, size.width < 480 ? 4 : 8);
  for (Tick& tick : x_ticks) tick.label = significant(tick.value * 100, 6) + "%";
  const Frame frame(size, longest_name + 14, chart.x_label.empty() ? 26 : 46, std::move(x_ticks),
                    logarithmic_ticks(extent.low, extent.high));
  svg += frame.axes(chart);
  for (const Line& line : chart.lines) svg += line_svg(line, frame);
  svg += marks_svg(chart.marks, frame);
  return svg + end_labels(chart, frame) + "</svg>\n";
}

std::string bar_chart_svg(const BarChart& chart, int width) {
  constexpr double kBarHeight = 22;
  double longest_label = 0;
  double longest_note = 0;
  double longest_bar = 0;
  for (const Bar& bar : chart.bars) {
    longest_label = std::max(longest_label, text_width(bar.label));
    longest_note = std::max(longest_note, 1.15 * text_width(bar.note));  // bold
    double sum = 0;
    for (const BarSegment& part : bar.segments) sum += std::max(part.value, 0.0);
    longest_bar = std::max(longest_bar, sum);
  }
  const bool is_narrow = width < 480;
  const double left = is_narrow ? 0 : longest_label + 12;
  const double pitch = kBarHeight + (is_narrow ? kLineHeight + 12 : 10);
  const double room = width - left - longest_note - 10;
  const double scale = longest_bar > 0 ? room / longest_bar : 0;
  std::string svg =
      open_svg(chart.title, width, pitch * static_cast<double>(chart.bars.size()) - 10);
  for (std::size_t i = 0; i < chart.bars.size(); ++i) {
    const Bar& bar = chart.bars[i];
    const double y = pitch * static_cast<double>(i) + (is_narrow ? kLineHeight : 0);
    svg += is_narrow ? text_at(0, y - 4, "label", "start", bar.label)
                     : text_at(left - 12, y + 16, "label", "end", bar.label);
    double x = left;
    for (const BarSegment& part : bar.segments) {
      const double length = std::max(part.value, 0.0) * scale;
      svg += "<rect x=\"" + number(x) + "\" y=\"" + number(y) + "\" width=\"" + number(length) +
             "\" height=\"" + number(kBarHeight) + "\" class=\"bar-" + part.css_class +
             "\"><title>" + escape_xml(part.tooltip) + "</title></rect>\n";
      x += length;
    }
    svg += text_at(x + 8, y + 16, "strong", "start", bar.note);
  }
  return svg + "</svg>\n";
}

std::string heat_map_svg(const HeatMap& map, int width) {
  constexpr double kMaxCellWidth = 40;
  constexpr double kCellHeight = 20;
  constexpr double kTop = kLineHeight + 4;  // below the name of the rows
  const std::size_t columns = map.rows.front().size();
  const double left =
      std::max(text_width(map.row_name), text_width(std::to_string(map.rows.size()))) + 10;
  const double cell_width = std::min(kMaxCellWidth, (width - left) / static_cast<double>(columns));
  const double bottom = kTop + kCellHeight * static_cast<double>(map.rows.size());
  std::string svg = open_svg(map.title, width, bottom + 2.5 * kLineHeight);
  svg += text_at(left - 10, kLineHeight - 4, "label", "end", map.row_name);
  for (std::size_t row = 0; row < map.rows.size(); ++row) {
    const double y = kTop + kCellHeight * static_cast<double>(row);
    svg += text_at(left - 10, y + 15, "label", "end", std::to_string(row));
    for (std::size_t column = 0; column < columns; ++column) {
      const double value = map.rows[row][column];
      svg += "<rect x=\"" + number(left + cell_width * static_cast<double>(column)) + "\" y=\"" +
             number(y) + "\" width=\"" + number(cell_width) + "\" height=\"" + number(kCellHeight) +
             "\" fill=\"" + css_color(heat_color(value / map.top)) +
             "\" shape-rendering=\"crispEdges\"><title>" +
             escape_xml(map.row_name + " " + std::to_string(row) + ", " + map.column_name + " " +
                        std::to_string(column) + ": " + significant(value, 3)) +
             "</title></rect>\n";
    }
  }
  // Only as many numbers as stand clear of each other.
  const double label_width = text_width(std::to_string(columns)) + 4;
  const auto stride = static_cast<std::size_t>(std::ceil(label_width / cell_width));
  for (std::size_t column = 0; column < columns; column += stride) {
    svg += text_at(left + cell_width * (static_cast<double>(column) + 0.5), bottom + kLineHeight,
                   "label", "middle", std::to_string(column));
  }
  svg += text_at(left + cell_width * static_cast<double>(columns) / 2, bottom + 2 * kLineHeight,
                 "label", "middle", map.column_name);
  return svg + "</svg>\n";
}

}  // namespace psa::cli
