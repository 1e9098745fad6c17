// SPDX-License-Identifier: Apache-2.0
#include "generation_report.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "base64.hpp"
#include "chart.hpp"
#include "color.hpp"
#include "comparison_output.hpp"
#include "engine/video/gif.hpp"
#include "engine/video/image.hpp"
#include "picture.hpp"
#include "psa/psa.h"
#include "report_figures.hpp"
#include "report_parts.hpp"
#include "table.hpp"

namespace psa::cli {
namespace {

constexpr std::string_view kVideoStyle = R"css(
.pair.videos { margin-bottom: 18px; } .pair.videos img { image-rendering: auto; }
.strip img { display: block; width: 100%; height: auto; border-radius: 3px; }
.heat { background: var(--panel); border: 1px solid var(--rule); border-radius: 10px;
  padding: 16px; }
.heat > img { display: block; max-width: 100%; height: auto; image-rendering: pixelated;
  border-radius: 3px; margin-bottom: 12px; }
svg .bar-rest { fill: var(--dense); } svg .bar-psa { fill: var(--psa); }
.swatch.psa { background: var(--psa); } .swatch.dense { background: var(--dense); }
)css";

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
  constexpr int kStripFrames = 8;
  const engine::Image strip =
      engine::frame_strip(rows, std::min(kStripFrames, run.psa.shown->num_frames()));
  return html + paragraph("caption", "Frames from the first to the last:") +
         "<div class=\"strip\"><img alt=\"frames of the videos\" src=\"data:image/png;base64," +
         encode_base64(engine::encode_png(strip)) + "\"></div>\n";
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
  constexpr int kWide = 900;
  constexpr int kNarrow = 420;
  return heading("Where the time goes") +
         paragraph("caption",
                   "Mean of the steps after the warm-up, both branches of the guidance together: "
                   "self-attention with "
                   "everything that PSA does for it, then the rest of the model.") +
         "<ul class=\"legend\"><li><i class=\"swatch psa\"></i>self-attention</li>"
         "<li><i class=\"swatch dense\"></i>everything else</li></ul>\n"
         "<div class=\"chart\"><div class=\"wide\">" +
         bar_chart_svg(chart, kWide) + "</div><div class=\"narrow\">" +
         bar_chart_svg(chart, kNarrow) + "</div></div>\n";
}

/// One cell per layer (from top to bottom) and step (from left to right).
Picture density_picture(const engine::Generation& generation, double top) {
  constexpr int kCell = 24;
  const auto steps = static_cast<int>(generation.steps.size());
  const auto layers = static_cast<int>(generation.steps.front().layer_density.size());
  Picture picture(steps * kCell, layers * kCell);
  for (int y = 0; y < picture.height(); ++y) {
    for (int x = 0; x < picture.width(); ++x) {
      const engine::StepReport& step = generation.steps[static_cast<std::size_t>(x / kCell)];
      const double density = step.layer_density[static_cast<std::size_t>(y / kCell)];
      picture.set(x, y, heat_color(density / top));
    }
  }
  return picture;
}

std::string density_section(const GenerationRun& run) {
  double top = 0;
  for (const engine::StepReport& step : run.psa.generation.steps) {
    for (const double density : step.layer_density) top = std::max(top, density);
  }
  return heading("What each layer reads in each step") +
         paragraph("caption",
                   "Density of self-attention: layers from top to bottom, steps from left (noise) "
                   "to right (video).") +
         "<div class=\"heat\"><img alt=\"density by layer and step\" src=\"" +
         png_data_url(density_picture(run.psa.generation, top)) + "\">" +
         heat_legend("0", fixed(top, 3)) + "</div>\n";
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
  for (const auto& [name, value] : facts.machine) html += fact(name, value);
  html += fact("psa", psa_version());
  return html + "</dl>\n";
}

}  // namespace

std::string generation_report_html(const GenerationRun& run, int frames_per_second,
                                   const ReportFacts& facts) {
  return page("A video with Pyramid Sparse Attention", kVideoStyle,
              "<h1>“" + escape_xml(run.prompt) + "”</h1>\n" +
                  paragraph("origin", escape_xml(run.model)) + key_figures(run) +
                  heading("The videos") + videos_section(run, frames_per_second) +
                  time_section(run) + density_section(run) + facts_section(run, facts));
}

}  // namespace psa::cli
