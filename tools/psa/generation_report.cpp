// SPDX-License-Identifier: Apache-2.0
#include "generation_report.hpp"

#include <algorithm>
#include <cstddef>

#include "base64.hpp"
#include "chart.hpp"
#include "comparison_output.hpp"
#include "engine/video/gif.hpp"
#include "psa/psa.h"
#include "report_figures.hpp"
#include "report_parts.hpp"
#include "table.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

constexpr std::string_view kVideoStyle = R"css(
.pair.videos { margin-bottom: 18px; } .pair.videos img { image-rendering: auto; }
.results { margin-top: 18px; } .chart > .scale { margin-bottom: 10px; }
svg .bar-rest { fill: var(--dense); } svg .bar-psa { fill: var(--psa); }
h1.part { margin-top: 72px; padding-top: 44px; border-top: 1px solid var(--rule); }
.swatch.psa { background: var(--psa); } .swatch.dense { background: var(--dense); }
)css";

constexpr int kWide = 900;
constexpr int kNarrow = 420;

std::string ratio_text(double dense, double psa) { return fixed(dense / psa, 1) + "×"; }

std::string key_figures(const GenerationRun& run) {
  const engine::Generation& psa = run.psa.generation;
  std::string html = "<div class=\"figures\">\n";
  html += figure_cell(percent_text(psa.step_density()),
                      "of the attention logits computed (density, after the warm-up)");
  if (run.dense) {
    const engine::Generation& dense = run.dense->generation;
    html += figure_cell(ratio_text(dense.step_attention_ms(), psa.step_attention_ms()),
                        "as fast as dense self-attention, step by step after the warm-up");
    html += figure_cell(
        ratio_text(dense.total_ms(), psa.total_ms()),
        "as fast as the whole model with dense attention: " + fixed(psa.total_ms() / 1000, 0) +
            " s against " + fixed(dense.total_ms() / 1000, 0) + " s");
  } else {
    html += figure_cell(fixed(psa.total_ms() / 1000, 0) + " s", "for the whole video");
  }
  if (run.quality) {
    const std::string ssim = run.quality->ssim ? ", SSIM " + fixed(*run.quality->ssim, 3) : "";
    html +=
        figure_cell(fixed(run.quality->psnr_db, 1) + " dB", "PSNR against the dense video" + ssim);
  }
  return html + "</div>\n";
}

std::string video_figure(const GeneratedVideo& video, int frames_per_second,
                         const std::string& caption) {
  return "<figure><img alt=\"video with " + video.name +
         " attention\" src=\"data:image/gif;base64," +
         encode_base64(engine::encode_gif(*video.shown, frames_per_second)) + "\"><figcaption>" +
         caption + "</figcaption></figure>\n";
}

std::string videos_section(const GenerationRun& run, int frames_per_second) {
  const auto caption = [](const GeneratedVideo& video) {
    return "<b>" + video.name + "</b> attention, " + fixed(video.generation.step_ms() / 1000, 2) +
           " s a step";
  };
  std::string html =
      "<div class=\"pair videos\">\n" + video_figure(run.psa, frames_per_second, caption(run.psa));
  std::vector<engine::LabelledVideo> rows{{"psa", &*run.psa.shown}};
  if (run.dense) {
    html += video_figure(*run.dense, frames_per_second, caption(*run.dense));
    rows.push_back({"dense", &*run.dense->shown});
  }
  html += "</div>\n";
  if (run.skipped_dense_seconds) {
    html += paragraph("caption", "The dense video would take about " +
                                     fixed(*run.skipped_dense_seconds, 0) +
                                     " s on this machine and was left out.");
  }
  return html + frames_figure(rows, "Frames from the first to the last:");
}

std::string results_row(const GeneratedVideo& video, const GenerationRun& run) {
  const engine::Generation& g = video.generation;
  const bool is_psa = &video == &run.psa;
  const auto cell = [](const std::string& text) { return "<td>" + text + "</td>"; };
  const auto speedup = [](double dense_ms, double ms) {
    return "<td class=\"extra\">" + fixed(dense_ms / ms, 2) + "</td>";
  };
  const engine::Generation& dense = run.dense->generation;
  std::string html = (is_psa ? "<tr class=\"chosen\">" : "<tr>") + cell(video.name) +
                     cell(percent_text(g.step_density()));
  html += cell(fixed(g.step_attention_ms() / 1000, 2)) +
          speedup(dense.step_attention_ms(), g.step_attention_ms());
  html += cell(fixed(g.step_ms() / 1000, 2)) + speedup(dense.step_ms(), g.step_ms());
  html += cell(fixed(g.total_ms() / 1000, 1)) + speedup(dense.total_ms(), g.total_ms());
  html += cell(is_psa ? fixed(run.quality->psnr_db, 2) : "–") +
          cell(is_psa && run.quality->ssim ? fixed(*run.quality->ssim, 4) : "–");
  return html + "</tr>\n";
}

/// Nothing without the dense video.
std::string results_table(const GenerationRun& run) {
  if (!run.dense) return "";
  const std::string speedup = "<th class=\"extra\">speed-<br>up</th>";
  return "<div class=\"scroll results\"><table>\n<tr><th>attention</th><th>density</th>"
         "<th>attention<br>s a step</th>" +
         speedup + "<th>whole step<br>s</th>" + speedup + "<th>whole video<br>s</th>" + speedup +
         "<th>PSNR<br>dB</th><th>SSIM</th></tr>\n" + results_row(run.psa, run) +
         results_row(*run.dense, run) + "</table></div>\n" +
         paragraph("note",
                   "Density and times of a step are means of the steps after the warm-up. PSNR and "
                   "SSIM are against the video of dense attention from the same noise.");
}

std::string time_section(const GenerationRun& run) {
  BarChart chart{.title = "Seconds of a step", .bars = {}};
  const auto add = [&chart](const GeneratedVideo& video) {
    const engine::Generation& g = video.generation;
    const double attention = g.step_attention_ms() / 1000;
    const double rest = g.step_ms() / 1000 - attention;
    chart.bars.push_back({.label = video.name,
                          .note = fixed(attention + rest, 2) + " s",
                          .segments = {{"psa", attention, fixed(attention, 2) + " s attention"},
                                       {"rest", rest, fixed(rest, 2) + " s everything else"}}});
  };
  add(run.psa);
  if (run.dense) add(*run.dense);
  return heading("Where the time of a step goes") +
         paragraph("caption",
                   "Mean of the steps after the warm-up, both branches of the guidance together: "
                   "self-attention with "
                   "everything that PSA does for it, then the rest of the model.") +
         "<ul class=\"legend\"><li><i class=\"swatch psa\"></i>self-attention</li>"
         "<li><i class=\"swatch dense\"></i>everything else</li></ul>\n"
         "<div class=\"chart\">" +
         in_both_widths(bar_chart_svg(chart, kWide), bar_chart_svg(chart, kNarrow)) + "</div>\n";
}

std::string density_section(const GenerationRun& run) {
  const std::vector<engine::StepReport>& steps = run.psa.generation.steps;
  HeatMap map{.title = "Density by layer and step",
              .row_name = "layer",
              .column_name = "step",
              .rows = std::vector<std::vector<double>>(steps.front().layer_density.size()),
              .top = 0};
  for (const engine::StepReport& step : steps) {
    for (std::size_t layer = 0; layer < step.layer_density.size(); ++layer) {
      map.rows[layer].push_back(step.layer_density[layer]);
      map.top = std::max(map.top, step.layer_density[layer]);
    }
  }
  return heading("What each layer reads in each step") +
         paragraph("caption",
                   "Density of self-attention: the share of the logits that is computed. Steps go "
                   "from noise to video.") +
         "<div class=\"chart\">" + heat_legend("0", fixed(map.top, 3)) +
         in_both_widths(heat_map_svg(map, kWide), heat_map_svg(map, kNarrow)) + "</div>\n";
}

std::string capture_part(const WrittenCapture& capture, const GenerationRun& run) {
  std::string note =
      "What the model's self-attention got in " + place_text(capture) +
      " of this very run (both counted from 0), computed by PSA as configured and by other ways.";
  const std::vector<index_t>& dense = run.dense_layers;
  if (capture.step < run.warmup_steps ||
      std::find(dense.begin(), dense.end(), capture.layer) != dense.end()) {
    note += " The run itself used dense attention here.";
  }
  return report_part("Inside the model: " + place_text(capture), note, *capture.comparison,
                     capture.path.string());
}

std::string capture_parts(const GenerationRun& run) {
  std::string html;
  for (const WrittenCapture& capture : run.captures) {
    if (capture.comparison) html += capture_part(capture, run);
  }
  return html;
}

std::string facts_section(const GenerationRun& run, const ReportFacts& facts) {
  std::string html =
      heading("How this was made") + "<pre>" + escape_xml(facts.command) + "</pre>\n<dl>\n";
  html += fact("model", run.model);
  html += fact("prompt", run.prompt);
  html += fact("tokens",
               std::to_string(run.grid.tokens()) + " = " + std::to_string(run.grid.frames) + " × " +
                   std::to_string(run.grid.height) + " × " + std::to_string(run.grid.width));
  html += fact("attention", run.attention.empty() ? "the default configuration" : run.attention);
  html += fact("steps", std::to_string(run.steps));
  if (const std::string parts = dense_parts_text(run); !parts.empty()) html += fact("dense", parts);
  html += fact("seed", std::to_string(run.seed));
  html += fact("guidance", fixed(run.guidance, 2));
  html += fact("computed in", run.compute + " on " + run.backend);
  html += fact("files", join(file_names(run), ", "));
  for (const auto& [name, value] : facts.machine) html += fact(name, value);
  html += fact("psa", psa_version());
  return html + "</dl>\n";
}

}  // namespace

std::string generation_report_html(const GenerationRun& run, int frames_per_second,
                                   const ReportFacts& facts) {
  return page("A video with Pyramid Sparse Attention", std::string(kVideoStyle) + stage_style(),
              "<h1>“" + escape_xml(run.prompt) + "”</h1>\n" +
                  paragraph("origin", escape_xml(run.model)) + key_figures(run) +
                  heading("The videos") + videos_section(run, frames_per_second) +
                  results_table(run) + time_section(run) + density_section(run) +
                  capture_parts(run) + facts_section(run, facts));
}

}  // namespace psa::cli
