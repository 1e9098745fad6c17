// SPDX-License-Identifier: Apache-2.0
#include "tuning_output.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "psa/psa.h"
#include "settings.hpp"
#include "table.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

using Json = nlohmann::ordered_json;
using Align = Table::Align;

constexpr std::size_t kListedCandidates = 10;

std::string layer_text(std::optional<index_t> layer) {
  return layer ? std::to_string(*layer) : "-";
}

std::string split_text(const CaptureSplit& split) {
  std::string text = "captures   " + std::to_string(split.tuned.size()) + " to tune on, ";
  if (split.held_out.empty()) {
    return text + "none held out: the errors below are of the captures that were tuned on\n";
  }
  return text + std::to_string(split.held_out.size()) + " held out (" + split.rule +
         "): the errors below are of these\n";
}

std::string candidate_table(const Tuning& tuning) {
  Table table({{"candidate", Align::kLeft}, {"density"}, {"selection"}, {"error"}, {"captures"}});
  const std::size_t listed = std::min(tuning.search.candidates.size(), kListedCandidates);
  for (std::size_t i = 0; i < listed; ++i) {
    const CandidateResult& result = tuning.search.candidates[i];
    table.add_row({candidate_text(result.candidate.config), fixed(result.density, 3),
                   fixed(result.candidate.selection_cost, 3), fixed(result.error, 4),
                   std::to_string(result.captures)});
  }
  std::string text = table.text();
  if (listed < tuning.search.candidates.size()) {
    text += "and " + std::to_string(tuning.search.candidates.size() - listed) + " more\n";
  }
  return text;
}

std::string head_table(const Tuning& tuning) {
  Table table({{"layer"}, {"head"}, {"density"}, {"error before"}, {"after"}});
  for (std::size_t i = 0; i < tuning.heads.size(); ++i) {
    const HeadBudget& head = tuning.budgets.heads[i];
    const std::optional<ErrorPair>& errors = tuning.heads[i];
    table.add_row({layer_text(head.layer), std::to_string(head.head), fixed(head.density, 4),
                   errors ? fixed(errors->before, 4) : "-",
                   errors ? fixed(errors->after, 4) : "-"});
  }
  return table.text();
}

std::string step_table(const Tuning& tuning) {
  Table table({{"step"}, {"captures"}, {"error before"}, {"after"}});
  for (const auto& [step, errors] : tuning.steps) {
    table.add_row({std::to_string(step), std::to_string(errors.captures),
                   fixed(errors.errors.before, 4), fixed(errors.errors.after, 4)});
  }
  return table.text();
}

std::string total_table(const Tuning& tuning) {
  Table table({{"all", Align::kLeft}, {"density"}, {"selection"}, {"error"}, {"s"}, {"speed-up"}});
  const auto add = [&](const std::string& name, const MethodTotal& total) {
    table.add_row({name, fixed(total.density, 4), fixed(total.selection_cost, 4),
                   fixed(total.error, 4), fixed(total.ms / 1000, 2),
                   fixed(tuning.dense_ms / total.ms, 2)});
  };
  add("dense", {1, 0, 0, tuning.dense_ms});
  add("before", tuning.before);
  add("after, one density", tuning.uniform);
  add("after", tuning.after);
  return table.text();
}

std::string video_table(const VideoSearch& videos) {
  Table table({{"video of a prompt", Align::kLeft},
               {"density"},
               {"dense steps"},
               {"then"},
               {"PSNR dB"},
               {"s"},
               {"speed-up"}});
  for (const VideoTrial& trial : videos.trials) {
    table.add_row({trial.is_held_out ? "held out" : "tuned on", fixed(trial.total_density, 4),
                   std::to_string(trial.warmup_steps), fixed(trial.density, 4),
                   fixed(trial.psnr_db, 2), fixed(trial.seconds, 1),
                   fixed(trial.dense_seconds / trial.seconds, 2)});
  }
  return table.text();
}

/// "density 0.1000 with 1 of 20 steps dense: PSNR 31.20 dB, the least of its prompts"
std::string video_text(const VideoSearch& videos) {
  return "density " + fixed(videos.total_density, 4) + " with " +
         std::to_string(videos.warmup_steps) + " of " + std::to_string(videos.steps) +
         " steps dense: PSNR " + fixed(videos.least_psnr_db, 2) + " dB";
}

Json videos_json(const VideoSearch& videos) {
  Json trials = Json::array();
  for (const VideoTrial& trial : videos.trials) {
    trials.push_back({{"prompt", trial.prompt},
                      {"held_out", trial.is_held_out},
                      {"total_density", trial.total_density},
                      {"warmup_steps", trial.warmup_steps},
                      {"density", trial.density},
                      {"psnr_db", trial.psnr_db},
                      {"seconds", trial.seconds},
                      {"dense_seconds", trial.dense_seconds}});
  }
  return {{"steps", videos.steps},
          {"warmup_steps", videos.warmup_steps},
          {"total_density", videos.total_density},
          {"psnr_db", videos.least_psnr_db},
          {"trials", std::move(trials)}};
}

Json total_json(const MethodTotal& total) {
  return {{"density", total.density},
          {"selection_cost", total.selection_cost},
          {"error", total.error},
          {"ms", total.ms}};
}

/// "name: value" for everything that is not the default, in the form that a file gives it.
std::string settings_lines(const Problem& problem) {
  const Problem defaults;
  std::string text;
  for (const Setting& setting : settings()) {
    // The rule is said by levels and density, and the grid belongs to the tensors.
    if (setting.name == "rule" || setting.name == "grid") continue;
    const std::optional<std::string> value = setting.format(problem, defaults);
    if (!value) continue;
    const bool is_list = value->find(',') != std::string::npos;
    text += std::string(setting.name) + ": " + (is_list ? "[" + *value + "]" : *value) + "\n";
  }
  return text;
}

/// "[0.0912, 0.1034]"
std::string head_densities(const Tuning& tuning, std::optional<index_t> layer) {
  std::vector<std::string> densities;
  for (const HeadBudget& head : tuning.budgets.heads) {
    if (head.layer == layer) densities.push_back(fixed(head.density, 4));
  }
  return "[" + join(densities, ", ") + "]";
}

}  // namespace

std::string tuning_text(const Tuning& tuning) {
  std::string text = split_text(tuning.search.split) + "\n" + candidate_table(tuning) + "\n" +
                     head_table(tuning) + "\n";
  if (tuning.steps.size() > 1) text += step_table(tuning) + "\n";
  text += total_table(tuning) + "\n";
  if (tuning.videos) text += video_table(*tuning.videos) + "\n";
  text += "chosen     " + candidate_text(tuning.budgets.config) + "\npredicted  density " +
          fixed(tuning.budgets.predicted_density, 4) + ", error " +
          fixed(tuning.budgets.predicted_error, 4) +
          "\nerror      root mean square over heads and captures of the relative L2 error against "
          "dense\nbefore     the configuration that was given, at the same density\n";
  if (tuning.videos) {
    text += "videos     " + video_text(*tuning.videos) + " against dense attention's\n";
  }
  return text;
}

Json tuning_json(const Tuning& tuning) {
  Json candidates = Json::array();
  for (const CandidateResult& result : tuning.search.candidates) {
    candidates.push_back({{"candidate", candidate_text(result.candidate.config)},
                          {"density", result.density},
                          {"selection_cost", result.candidate.selection_cost},
                          {"error", result.error},
                          {"ms", result.ms},
                          {"captures", result.captures}});
  }
  Json heads = Json::array();
  for (std::size_t i = 0; i < tuning.heads.size(); ++i) {
    const HeadBudget& head = tuning.budgets.heads[i];
    const std::optional<ErrorPair>& errors = tuning.heads[i];
    Json row{{"layer", head.layer ? Json(*head.layer) : Json()},
             {"head", head.head},
             {"density", head.density},
             {"error_before", errors ? Json(errors->before) : Json()},
             {"error_after", errors ? Json(errors->after) : Json()}};
    heads.push_back(std::move(row));
  }
  Json steps = Json::array();
  for (const auto& [step, errors] : tuning.steps) {
    steps.push_back({{"step", step},
                     {"captures", errors.captures},
                     {"error_before", errors.errors.before},
                     {"error_after", errors.errors.after}});
  }
  return {{"target", {{name_of(tuning.target.kind), tuning.target.value}}},
          {"tuned", tuning.search.split.tuned.size()},
          {"held_out", tuning.search.split.held_out.size()},
          {"chosen", candidate_text(tuning.budgets.config)},
          {"predicted_density", tuning.budgets.predicted_density},
          {"predicted_error", tuning.budgets.predicted_error},
          {"dense_ms", tuning.dense_ms},
          {"before", total_json(tuning.before)},
          {"uniform", total_json(tuning.uniform)},
          {"after", total_json(tuning.after)},
          {"heads", std::move(heads)},
          {"steps", std::move(steps)},
          {"videos", tuning.videos ? videos_json(*tuning.videos) : Json()},
          {"candidates", std::move(candidates)}};
}

std::string tuning_yaml(const Tuning& tuning, const std::string& command) {
  const std::string judged = tuning.search.split.held_out.empty() ? "captures that were tuned on"
                                                                  : "captures that were held out";
  std::string line = command;  // a file's name may break it
  std::replace(line.begin(), line.end(), '\n', ' ');
  std::string text = "# Made by psa " + std::string(psa_version()) + ": " + line + "\n";
  text += "# On " + std::to_string(tuning.judged().size()) + " " + judged + ": error " +
          fixed(tuning.after.error, 4) + " at density " + fixed(tuning.after.density, 4) +
          "; before " + fixed(tuning.before.error, 4) + "\n";
  if (tuning.videos) text += "# Videos: " + video_text(*tuning.videos) + "\n";
  Problem problem;
  problem.config = tuning.budgets.config;
  problem.layout = tuning.search.problem.layout;
  text += settings_lines(problem);
  text += "levels: " + std::to_string(tuning.budgets.config.num_levels) + "\n";
  text += "density: " + fixed(tuning.budgets.uniform_density, 4) + "\n";
  if (tuning.videos) text += "warmup_steps: " + std::to_string(tuning.videos->warmup_steps) + "\n";
  if (!tuning.budgets.curves.front().layer) {
    return text + "head_density: " + head_densities(tuning, std::nullopt) + "\n";
  }
  text += "layers:\n";
  for (const LayerCurves& layer : tuning.budgets.curves) {
    text += "  " + layer_text(layer.layer) +
            ": {head_density: " + head_densities(tuning, layer.layer) + "}\n";
  }
  return text;
}

}  // namespace psa::cli
