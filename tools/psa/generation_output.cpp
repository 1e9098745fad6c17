// SPDX-License-Identifier: Apache-2.0
#include "generation_output.hpp"

#include <nlohmann/json.hpp>

#include "comparison_output.hpp"
#include "table.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

using Json = nlohmann::ordered_json;

double seconds(double ms) { return ms / 1000; }

std::vector<std::string> table_row(const GeneratedVideo& video, const GenerationRun& run) {
  const engine::Generation& g = video.generation;
  const auto speedup = [&](double (engine::Generation::*ms)() const) {
    return run.dense ? fixed((run.dense->generation.*ms)() / (g.*ms)(), 2) : "-";
  };
  return {video.name,
          fixed(g.step_density(), 4),
          fixed(seconds(g.step_attention_ms()), 2),
          speedup(&engine::Generation::step_attention_ms),
          fixed(seconds(g.step_ms()), 2),
          speedup(&engine::Generation::step_ms),
          fixed(seconds(g.total_ms()), 1)};
}

Json video_json(const GeneratedVideo& video) {
  Json steps = Json::array();
  for (const engine::StepReport& step : video.generation.steps) {
    steps.push_back({{"step", step.index},
                     {"timestep", step.timestep},
                     {"warmup", step.is_dense},
                     {"density", step.density()},
                     {"layer_density", step.layer_density},
                     {"attention_ms", step.attention_ms},
                     {"total_ms", step.total_ms}});
  }
  Json files = Json::array();
  for (const std::filesystem::path& file : video.files) files.push_back(file.string());
  return {{"files", files},
          {"density", video.generation.step_density()},
          {"step_attention_ms", video.generation.step_attention_ms()},
          {"step_ms", video.generation.step_ms()},
          {"total_ms", video.generation.total_ms()},
          {"steps", steps}};
}

}  // namespace

std::string generation_text(const GenerationRun& run) {
  Table table({{"attention", Table::Align::kLeft},
               {"density"},
               {"attention s/step"},
               {"speed-up"},
               {"whole s/step"},
               {"speed-up"},
               {"whole s"}});
  table.add_row(table_row(run.psa, run));
  if (run.dense) table.add_row(table_row(*run.dense, run));
  std::string text = table.text() + "\n";
  if (run.quality) {
    text += "quality    PSNR " + fixed(run.quality->psnr_db, 2) + " dB";
    if (run.quality->ssim) text += ", SSIM " + fixed(*run.quality->ssim, 4);
    text += " against the video of dense attention from the same noise\n";
  }
  if (run.skipped_dense_seconds) {
    text += "skipped    the dense video, which would take about " +
            fixed(*run.skipped_dense_seconds, 0) + " s here (--dense-limit)\n";
  }
  if (const std::string parts = dense_parts_text(run); !parts.empty()) {
    text += "dense      " + parts + "; density and seconds per step are of the steps after\n";
  }
  text += "attention  " + (run.attention.empty() ? "the default configuration" : run.attention) +
          "; " + run.compute + " on " + run.backend + "\n";
  for (const std::string& file : file_names(run)) text += "wrote      " + file + "\n";
  return text;
}

std::vector<std::string> file_names(const GenerationRun& run) {
  std::vector<std::string> names;
  for (const std::filesystem::path& file : run.psa.files) names.push_back(file.string());
  if (run.dense) {
    for (const std::filesystem::path& file : run.dense->files) names.push_back(file.string());
  }
  for (const WrittenCapture& capture : run.captures) names.push_back(capture.path.string());
  return names;
}

std::string place_text(const WrittenCapture& capture) {
  return "layer " + std::to_string(capture.layer) + " in step " + std::to_string(capture.step);
}

std::string captures_text(const GenerationRun& run) {
  std::string text;
  for (const WrittenCapture& capture : run.captures) {
    if (!capture.comparison) continue;
    text += "\nSelf-attention of " + place_text(capture) + ", by every method:\n\n" +
            comparison_text(*capture.comparison, false);
  }
  return text;
}

std::string dense_parts_text(const GenerationRun& run) {
  std::string text;
  if (run.warmup_steps > 0) text = std::to_string(run.warmup_steps) + " first steps";
  if (!run.dense_layers.empty()) {
    std::vector<std::string> layers;
    for (const index_t layer : run.dense_layers) layers.push_back(std::to_string(layer));
    text += (text.empty() ? "layers " : " and layers ") + join(layers, ", ");
  }
  return text.empty() ? text : text + " with dense attention";
}

nlohmann::ordered_json generation_json(const GenerationRun& run) {
  Json json{{"model", run.model},
            {"prompt", run.prompt},
            {"attention", run.attention},
            {"grid", {run.grid.frames, run.grid.height, run.grid.width}},
            {"steps", run.steps},
            {"warmup_steps", run.warmup_steps},
            {"dense_layers", run.dense_layers},
            {"seed", run.seed},
            {"guidance", run.guidance},
            {"compute", run.compute},
            {"backend", run.backend},
            {"psa", video_json(run.psa)}};
  if (run.dense) json["dense"] = video_json(*run.dense);
  if (run.skipped_dense_seconds) json["skipped_dense_seconds"] = *run.skipped_dense_seconds;
  if (run.quality) {
    Json quality{{"psnr_db", run.quality->psnr_db}};
    if (run.quality->ssim) quality["ssim"] = *run.quality->ssim;
    json["quality"] = quality;
  }
  Json captures = Json::array();
  for (const WrittenCapture& capture : run.captures) {
    captures.push_back(
        {{"file", capture.path.string()}, {"layer", capture.layer}, {"step", capture.step}});
    if (!capture.comparison) continue;
    captures.back()["comparison"] = comparison_json(*capture.comparison, false);
  }
  json["captures"] = captures;
  return json;
}

}  // namespace psa::cli
