// SPDX-License-Identifier: Apache-2.0
#include "tuning_report.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "chart.hpp"
#include "color.hpp"
#include "comparison_output.hpp"
#include "psa/psa.h"
#include "report_figures.hpp"
#include "report_parts.hpp"
#include "table.hpp"
#include "video_model.hpp"

namespace psa::cli {
namespace {

constexpr std::string_view kTuneStyle = R"css(
.heat { background: var(--panel); border: 1px solid var(--rule); border-radius: 10px;
  padding: 16px; overflow-x: auto; }
.figures + .caption { margin-top: 14px; }
.heat svg { display: block; max-width: 100%; height: auto; margin-bottom: 12px; }
)css";

std::string layer_name(std::optional<index_t> layer) {
  return layer ? "Layer " + std::to_string(*layer) : "All heads";
}

std::string key_figures(const Tuning& tuning) {
  std::string html = "<div class=\"figures\">\n";
  html +=
      figure_cell(percent_text(tuning.after.density), "of the attention logits computed (density)");
  html += figure_cell(significant(tuning.after.error, 3),
                      "relative error of the output; before, at the same density, " +
                          significant(tuning.before.error, 3));
  html += figure_cell(fixed(tuning.dense_ms / tuning.after.ms, 1) + "×",
                      "as fast as dense attention here; before, " +
                          fixed(tuning.dense_ms / tuning.before.ms, 1) + "×");
  if (tuning.videos) {
    html += figure_cell(fixed(tuning.videos->least_psnr_db, 1) + " dB",
                        "PSNR of videos against dense attention's, the least of the prompts that "
                        "judge it");
  }
  return html + "</div>\n";
}

std::string judged_text(const Tuning& tuning) {
  const std::string count = std::to_string(tuning.judged().size());
  if (tuning.search.split.held_out.empty()) {
    return "Errors and times are of the " + count +
           " captures that were tuned on: there were too few to hold any out.";
  }
  return "Errors and times are of " + count + " captures that were held out (" +
         escape_xml(tuning.search.split.rule) + "); the curves are of the " +
         std::to_string(tuning.search.split.tuned.size()) + " that were tuned on.";
}

/// A cell for each head (left to right) of each layer (top to bottom).
std::string density_map(const Tuning& tuning) {
  constexpr int kCell = 26;
  constexpr int kMargin = 66;
  double top = 0;
  for (const HeadBudget& head : tuning.budgets.heads) top = std::max(top, head.density);
  const auto heads = static_cast<int>(tuning.search.problem.shape.heads_q);
  const auto layers = static_cast<int>(tuning.budgets.curves.size());
  const int width = kMargin + heads * kCell;
  const int height = layers * kCell;
  std::string svg = "<svg width=\"" + std::to_string(width) + "\" viewBox=\"0 0 " +
                    std::to_string(width) + " " + std::to_string(height) +
                    "\" role=\"img\">\n<title>Density of each head</title>\n";
  for (std::size_t i = 0; i < tuning.budgets.heads.size(); ++i) {
    const HeadBudget& head = tuning.budgets.heads[i];
    const int y = static_cast<int>(i) / heads * kCell;
    const std::string name = layer_name(head.layer);
    if (head.head == 0) {
      svg += "<text x=\"0\" y=\"" + std::to_string(y + kCell - 8) + "\" class=\"label\">" + name +
             "</text>\n";
    }
    svg += "<rect x=\"" + std::to_string(kMargin + static_cast<int>(head.head) * kCell) +
           "\" y=\"" + std::to_string(y) + "\" width=\"" + std::to_string(kCell - 1) +
           "\" height=\"" + std::to_string(kCell - 1) + "\" fill=\"" +
           css_color(heat_color(head.density / top)) + "\"><title>" + name + ", head " +
           std::to_string(head.head) + ": density " + percent_text(head.density) +
           "</title></rect>\n";
  }
  return heading("Where the density goes") +
         paragraph("caption", "Density of each head (from left to right) of each layer.") +
         "<div class=\"heat\">" + svg + "</svg>\n" + heat_legend("0", percent_text(top)) +
         "</div>\n";
}

LineChart layer_chart(const Tuning& tuning, const LayerCurves& layer) {
  LineChart chart{"Error against density", "", "relative L2 error (logarithmic)", {}, {}};
  const auto point = [](double density, double squared_error, const std::string& what) {
    const double error = std::sqrt(squared_error);
    return Point{density, error,
                 what + ": density " + percent_text(density) + ", error " + significant(error, 3)};
  };
  for (std::size_t h = 0; h < layer.heads.size(); ++h) {
    const std::string name = "head " + std::to_string(h);
    Line line{std::to_string(h), "psa", {}};
    for (const engine::DensityError& at : layer.heads[h]) {
      line.points.push_back(point(at.density, at.squared_error, name));
    }
    chart.lines.push_back(std::move(line));
    for (const HeadBudget& head : tuning.budgets.heads) {
      if (head.layer != layer.layer || head.head != static_cast<index_t>(h)) continue;
      chart.marks.push_back(
          {point(head.expected_density,
                 engine::squared_error_at(layer.heads[h], head.expected_density), name),
           "psa", ""});
    }
  }
  return chart;
}

std::string curves_section(const Tuning& tuning) {
  constexpr ChartSize kChart{400, 260};
  std::string html =
      heading("Error against density") +
      paragraph("caption",
                "A line for each head, over the captures that were tuned on; rings are the "
                "densities that were chosen. The mean of all squared errors is least where all "
                "curves fall equally fast.") +
      "<div class=\"heads curves\">\n";
  for (const LayerCurves& layer : tuning.budgets.curves) {
    html += "<div class=\"head\"><header><h3>" + layer_name(layer.layer) + "</h3></header>" +
            line_chart_svg(layer_chart(tuning, layer), kChart) + "</div>\n";
  }
  return html + "</div>\n";
}

std::string candidates_section(const Tuning& tuning) {
  std::string html = heading("What was tried") +
                     paragraph("caption",
                               "All cost the same: what a selection takes more than the cheapest "
                               "one, it reads less. Bad candidates ran on fewer captures.") +
                     "<div class=\"scroll\"><table>\n<tr><th>candidate</th><th>density</th>"
                     "<th>selection</th><th>error</th><th>captures</th></tr>\n";
  for (const CandidateResult& result : tuning.search.candidates) {
    html += "<tr><td>" + candidate_text(result.candidate.config) + "</td><td>" +
            percent_text(result.density) + "</td><td>" +
            percent_text(result.candidate.selection_cost) + "</td><td>" + fixed(result.error, 4) +
            "</td><td>" + std::to_string(result.captures) + "</td></tr>\n";
  }
  return html + "</table></div>\n";
}

std::string videos_section(const Tuning& tuning) {
  if (!tuning.videos) return "";
  std::string html = heading("Whole videos") +
                     paragraph("caption",
                               "Each beside the video of dense attention from the same noise. The "
                               "density is the mean of all steps, the dense ones included.") +
                     "<div class=\"scroll\"><table>\n<tr><th>prompt</th><th>density</th>"
                     "<th>dense steps</th><th>density after them</th><th>PSNR</th>"
                     "<th>over dense</th></tr>\n";
  for (const VideoTrial& trial : tuning.videos->trials) {
    html += "<tr><td>" + escape_xml(trial.prompt) + (trial.is_held_out ? " (held out)" : "") +
            "</td><td>" + percent_text(trial.total_density) + "</td><td>" +
            std::to_string(trial.warmup_steps) + "</td><td>" + percent_text(trial.density) +
            "</td><td>" + fixed(trial.psnr_db, 1) + " dB</td><td>" +
            fixed(trial.dense_seconds / trial.seconds, 1) + "×</td></tr>\n";
  }
  html += "</table></div>\n";
  for (const VideoPair& pair : tuning.videos->shown) {
    const int factor = visible_enlargement(pair.dense.height(), pair.dense.width());
    const engine::Video tuned = engine::enlarged(pair.tuned, factor);
    const engine::Video dense = engine::enlarged(pair.dense, factor);
    const std::array<engine::LabelledVideo, 2> rows{{{"psa", &tuned}, {"dense", &dense}}};
    html += frames_figure(rows, "Frames of \"" + escape_xml(pair.prompt) + "\":");
  }
  return html;
}

std::string facts_section(const Tuning& tuning, const std::string& preset,
                          const ReportFacts& facts) {
  std::string html = heading("How this was made") + "<pre>" + escape_xml(facts.command) +
                     "</pre>\n<pre>" + escape_xml(preset) + "</pre>\n<dl>\n";
  html += fact("problem", format_problem(tuning.search.problem));
  for (const auto& [name, value] : facts.machine) html += fact(name, value);
  html += fact("psa", psa_version());
  return html + "</dl>\n";
}

}  // namespace

std::string tuning_report_html(const Tuning& tuning, const std::string& preset,
                               const ReportFacts& facts) {
  return page("Tuned Pyramid Sparse Attention", kTuneStyle,
              "<h1>Tuned Pyramid Sparse Attention</h1>\n" +
                  paragraph("origin", escape_xml(facts.origin)) + key_figures(tuning) +
                  paragraph("caption", judged_text(tuning)) + density_map(tuning) +
                  curves_section(tuning) + videos_section(tuning) + candidates_section(tuning) +
                  facts_section(tuning, preset, facts));
}

}  // namespace psa::cli
