// SPDX-License-Identifier: Apache-2.0
#include "report_figures.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <vector>

#include "chart.hpp"
#include "color.hpp"
#include "comparison_output.hpp"
#include "picture.hpp"
#include "report_parts.hpp"
#include "table.hpp"

namespace psa::cli {
namespace {

constexpr ChartSize kWideChart{900, 400};
constexpr ChartSize kNarrowChart{360, 320};
constexpr ChartSize kHeadChart{400, 260};

std::string image(const Picture& picture, const std::string& alt) {
  return "<img src=\"" + png_data_url(picture) + "\" alt=\"" + escape_xml(alt) + "\">";
}

/// A stage of a call and its color in the time bars. Attention, the work itself, is grey.
struct StageOfCall {
  const char* name;
  double position;  ///< on the heat scale
  double RunStats::*ms;
};
constexpr std::array<StageOfCall, 4> kSelectionStages{
    {{"reorder", 0.28, &RunStats::reorder_ms},
     {"pyramid", 0.45, &RunStats::pyramid_ms},
     {"importance", 0.62, &RunStats::importance_ms},
     {"levels", 0.80, &RunStats::levels_ms}}};

/// Coarser codes are read with less detail: from the finest to skip.
constexpr std::array<LevelCode, kNumLevelCodes> kCodesByDetail{1, 2, 3, 4, 5, kBlockMean, kSkip};

std::string level_legend(const Comparison& comparison) {
  std::array<bool, kNumLevelCodes> is_used{};
  for (const MethodResult& result : comparison.methods) {
    for (const LevelCode code : result.levels) is_used[code] = true;
  }
  std::string html = "<ul class=\"legend\">";
  for (const LevelCode code : kCodesByDetail) {
    if (!is_used[code]) continue;
    html += "<li><i class=\"swatch\" style=\"background:" + css_color(level_color(code)) +
            "\"></i>" + std::string(level_text(code)) + "</li>";
  }
  return html + "</ul>\n";
}

std::string stage_legend() {
  std::string html = "<ul class=\"legend\">";
  for (const StageOfCall& stage : kSelectionStages) {
    html += "<li><i class=\"swatch\" style=\"background:" + css_color(heat_color(stage.position)) +
            "\"></i>" + stage.name + "</li>";
  }
  return html + "<li><i class=\"swatch attention\"></i>attention</li></ul>\n";
}

std::string stage_table(const Comparison& comparison) {
  std::string html = "<div class=\"scroll times\"><table>\n<tr><th>ms</th>";
  for (const StageOfCall& stage : kSelectionStages) {
    html += std::string("<th>") + stage.name + "</th>";
  }
  html += "<th>attention</th><th>all stages</th></tr>\n";
  for (const MethodResult& result : comparison.methods) {
    html += "<tr><td>" + std::string(name_of(result.method)) + "</td>";
    for (const StageOfCall& stage : kSelectionStages) {
      html += "<td>" + fixed(result.stats.*stage.ms, 1) + "</td>";
    }
    html += "<td>" + fixed(result.stats.attention_ms, 1) + "</td><td>" +
            fixed(result.stats.total_ms(), 1) + "</td></tr>\n";
  }
  return html + "</table></div>\n";
}

std::string head_title(index_t h, const Comparison& comparison) {
  const index_t heads = static_cast<index_t>(comparison.find(Method::kPsa)->head_density.size());
  return "<h3>Head " + std::to_string(h) + "</h3>" +
         (heads > kDrawnHeads ? "<span class=\"note\">of " + std::to_string(heads) + "</span>"
                              : "");
}

/// Few heads are drawn large, more of them two in a row.
std::string open_heads(index_t heads) {
  return heads <= 3 ? "<div class=\"heads few\">\n" : "<div class=\"heads\">\n";
}

/// PSA, and binary where it ran.
std::vector<const MethodResult*> drawn_methods(const Comparison& comparison) {
  std::vector<const MethodResult*> drawn{comparison.find(Method::kPsa)};
  if (const MethodResult* binary = comparison.find(Method::kBinary)) drawn.push_back(binary);
  return drawn;
}

std::string title_of(Method method) {
  return method == Method::kPsa ? "PSA" : "Binary block-sparse";
}

std::string level_map_figure(const MethodResult& result, index_t h) {
  const auto head = static_cast<std::size_t>(h);
  const index_t map_size = result.num_q_blocks * result.num_kv_blocks;
  // Of batch element 0. A copy, since a view wants mutable codes.
  std::vector<LevelCode> codes(result.levels.begin() + h * map_size,
                               result.levels.begin() + (h + 1) * map_size);
  const LevelMapView map{codes.data(), 1, 1, result.num_q_blocks, result.num_kv_blocks};
  const std::string name = title_of(result.method);
  return "<figure>" +
         image(level_map_picture(map, 0, 0, 1), name + ", level map of head " + std::to_string(h)) +
         "<figcaption><b>" + name + "</b><br>density " + percent_text(result.head_density[head]) +
         ", error " + significant(result.errors.heads[head].rel_l2, 3) + "</figcaption></figure>\n";
}

/// Row errors of the video tokens of batch element 0, head h.
std::span<const float> video_rows(const MethodResult& result, const TokenLayout& layout,
                                  index_t h) {
  const index_t length = result.problem.shape.len_q;
  std::span<const float> rows =
      std::span(result.errors.rows)
          .subspan(static_cast<std::size_t>(h * length), static_cast<std::size_t>(length));
  const index_t tokens = layout.grid.tokens();
  if (tokens == 0 || tokens + layout.text_tokens != length) return rows;
  const index_t first = layout.text_side == TextSide::kFront ? layout.text_tokens : 0;
  return rows.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(tokens));
}

int frame_columns(const VideoGrid& grid) {
  const double square =
      std::sqrt(static_cast<double>(grid.frames * grid.height) / static_cast<double>(grid.width));
  return static_cast<int>(std::clamp<index_t>(std::lround(square), 1, grid.frames));
}

std::string error_figure(const MethodResult& result, const TokenLayout& layout, index_t h,
                         double top) {
  constexpr int kStripColumns = 256;
  const std::span<const float> rows = video_rows(result, layout, h);
  const bool has_frames = layout.grid.tokens() == static_cast<index_t>(rows.size());
  const Picture picture =
      has_frames ? frame_grid_picture(rows, layout.grid, frame_columns(layout.grid), top)
                 : token_strip_picture(rows, kStripColumns, top);
  const std::string name = title_of(result.method);
  const auto head = static_cast<std::size_t>(h);
  return "<figure>" + image(picture, name + ", error of each token of head " + std::to_string(h)) +
         "<figcaption><b>" + name + "</b><br>error " +
         significant(result.errors.heads[head].rel_l2, 3) + "</figcaption></figure>\n";
}

std::string tooltip(const std::string& name, double density, double error) {
  return name + ": density " + percent_text(density) + ", error " + significant(error, 3);
}

/// Head of a curve; none: all heads together.
using HeadChoice = std::optional<std::size_t>;

const ErrorMetrics& errors_of(const OutputErrors& errors, HeadChoice head) {
  return head ? errors.heads[*head] : errors.all;
}

Line curve_line(const Comparison& comparison, Method method, const std::string& name,
                HeadChoice head) {
  Line line{name, std::string(name_of(method)), {}};
  for (const CurvePoint& point : comparison.curve) {
    if (point.method != method) continue;
    const double error = errors_of(point.errors, head).rel_l2;
    line.points.push_back(
        {point.density, error, tooltip(name, point.density, error) + ", " + ms_text(point.ms)});
  }
  return line;
}

std::string mark_class(Method method) {
  return method == Method::kPsa || method == Method::kBinary ? std::string(name_of(method))
                                                             : "other";
}

// Rings are the methods of the table; only where their errors have the same reference. Those of the
// two curves need no name. The small charts of single heads show these two only.
LineChart curve_chart(const Comparison& comparison, HeadChoice head) {
  LineChart chart{"Error against density",
                  head ? "" : "density: share of the attention logits computed",
                  "relative L2 error (logarithmic)",
                  {curve_line(comparison, Method::kPsa, "PSA", head),
                   curve_line(comparison, Method::kBinary, "binary", head)},
                  {}};
  for (const MethodResult& result : comparison.methods) {
    const std::string css_class = mark_class(result.method);
    if (result.method == Method::kDense || !comparison.against_dense) continue;
    if (head && css_class == "other") continue;
    const std::string name(name_of(result.method));
    const double error = errors_of(result.errors, head).rel_l2;
    chart.marks.push_back(
        {{result.stats.density, error, tooltip(name, result.stats.density, error)},
         css_class,
         css_class == "other" ? name : ""});
  }
  return chart;
}

}  // namespace

double quantile_of(std::span<const float> values, double quantile) {
  std::vector<float> finite;
  std::copy_if(values.begin(), values.end(), std::back_inserter(finite),
               [](float value) { return std::isfinite(value); });
  if (finite.empty()) return 0;
  const auto place =
      static_cast<std::ptrdiff_t>(std::floor(quantile * static_cast<double>(finite.size() - 1)));
  std::nth_element(finite.begin(), finite.begin() + place, finite.end());
  return static_cast<double>(finite[static_cast<std::size_t>(place)]);
}

std::string heat_legend(const std::string& low, const std::string& high) {
  constexpr int kSteps = 128;
  return "<span class=\"scale\">" + escape_xml(low) +
         image(heat_scale_picture(kSteps, 1), "dark to bright") + escape_xml(high) + "</span>";
}

std::string level_map_figures(const Comparison& comparison) {
  const MethodResult& psa = *comparison.find(Method::kPsa);
  const index_t heads = std::min(psa.problem.shape.heads_q, kDrawnHeads);
  std::string html = level_legend(comparison) + open_heads(heads);
  for (index_t h = 0; h < heads; ++h) {
    html += "<div class=\"head\"><header>" + head_title(h, comparison) +
            "</header><div class=\"pair\">\n";
    for (const MethodResult* result : drawn_methods(comparison)) {
      html += level_map_figure(*result, h);
    }
    html += "</div></div>\n";
  }
  return html + "</div>\n";
}

std::string error_figures(const Comparison& comparison, const TokenLayout& layout) {
  const MethodResult& psa = *comparison.find(Method::kPsa);
  const index_t heads = std::min(psa.problem.shape.heads_q, kDrawnHeads);
  std::string html = open_heads(heads);
  for (index_t h = 0; h < heads; ++h) {
    double top = 0;
    for (const MethodResult* result : drawn_methods(comparison)) {
      top = std::max(top, quantile_of(video_rows(*result, layout, h), 0.99));
    }
    html += "<div class=\"head\"><header>" + head_title(h, comparison) +
            heat_legend("0", significant(top, 2)) + "</header><div class=\"pair\">\n";
    for (const MethodResult* result : drawn_methods(comparison)) {
      html += error_figure(*result, layout, h, top);
    }
    html += "</div></div>\n";
  }
  return html + "</div>\n";
}

std::string curve_figure(const Comparison& comparison) {
  if (comparison.curve.empty()) return "";
  const LineChart all = curve_chart(comparison, {});
  LineChart all_narrow = all;  // no room for the notes of methods beside the two curves
  for (Mark& mark : all_narrow.marks) {
    if (mark.css_class == "other") mark.note.clear();
  }
  std::string html =
      "<div class=\"chart\">" +
      in_both_widths(line_chart_svg(all, kWideChart), line_chart_svg(all_narrow, kNarrowChart)) +
      "</div>\n";
  const std::size_t heads = comparison.curve.front().errors.heads.size();
  if (heads < 2) return html;
  html += "<div class=\"heads curves\">\n";
  for (std::size_t h = 0; h < std::min(heads, static_cast<std::size_t>(kDrawnHeads)); ++h) {
    html += "<div class=\"head\"><header>" + head_title(static_cast<index_t>(h), comparison) +
            "</header>" + line_chart_svg(curve_chart(comparison, h), kHeadChart) + "</div>\n";
  }
  return html + "</div>\n";
}

std::string time_figure(const Comparison& comparison) {
  BarChart chart{"Time of each method by stage", {}};
  for (const MethodResult& result : comparison.methods) {
    const RunStats& stats = result.stats;
    const std::string name(name_of(result.method));
    Bar bar{name, ms_text(result.ms.median), {}};
    const auto add_stage = [&bar, &name](const char* stage, double ms) {
      bar.segments.push_back({stage, ms, name + ", " + stage + ": " + ms_text(ms)});
    };
    for (const StageOfCall& stage : kSelectionStages) add_stage(stage.name, stats.*stage.ms);
    add_stage("attention", stats.attention_ms);
    chart.bars.push_back(std::move(bar));
  }
  return stage_legend() + "<div class=\"chart\">" +
         in_both_widths(bar_chart_svg(chart, kWideChart.width),
                        bar_chart_svg(chart, kNarrowChart.width)) +
         "</div>\n" + stage_table(comparison);
}

std::string stage_style() {
  std::string css;
  for (const StageOfCall& stage : kSelectionStages) {
    css += "svg .bar-" + std::string(stage.name) +
           " { fill: " + css_color(heat_color(stage.position)) + "; }\n";
  }
  return css;
}

std::string level_shares_bar(const std::array<index_t, kNumLevelCodes>& blocks) {
  double total = 0;
  for (const index_t count : blocks) total += static_cast<double>(count);
  std::string html = "<span class=\"shares\">";
  for (const LevelCode code : kCodesByDetail) {
    const double share = total > 0 ? static_cast<double>(blocks[code]) / total : 0;
    if (share <= 0) continue;
    html += "<i style=\"width:" + fixed(share * 100, 2) +
            "%;background:" + css_color(level_color(code)) + "\" title=\"" +
            std::string(level_text(code)) + ": " + percent_text(share) + "\"></i>";
  }
  return html + "</span>";
}

}  // namespace psa::cli
