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
  const std::size_t listed = std::min(tuning.candidates.size(), kListedCandidates);
  for (std::size_t i = 0; i < listed; ++i) {
    const CandidateResult& result = tuning.candidates[i];
    table.add_row({candidate_text(result.candidate.config), fixed(result.density, 3),
                   fixed(result.candidate.selection_cost, 3), fixed(result.error, 4),
                   std::to_string(result.captures)});
  }
  std::string text = table.text();
  if (listed < tuning.candidates.size()) {
    text += "and " + std::to_string(tuning.candidates.size() - listed) + " more\n";
  }
  return text;
}

std::string head_table(const Tuning& tuning) {
  Table table({{"layer"}, {"head"}, {"density"}, {"error before"}, {"after"}});
  for (const HeadResult& head : tuning.heads) {
    table.add_row({layer_text(head.layer), std::to_string(head.head), fixed(head.density, 4),
                   head.errors ? fixed(head.errors->before, 4) : "-",
                   head.errors ? fixed(head.errors->after, 4) : "-"});
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
  for (const HeadResult& head : tuning.heads) {
    if (head.layer == layer) densities.push_back(fixed(head.density, 4));
  }
  return "[" + join(densities, ", ") + "]";
}

}  // namespace

std::string tuning_text(const Tuning& tuning) {
  std::string text =
      split_text(tuning.split) + "\n" + candidate_table(tuning) + "\n" + head_table(tuning) + "\n";
  if (tuning.steps.size() > 1) text += step_table(tuning) + "\n";
  return text + total_table(tuning) + "\nchosen     " + candidate_text(tuning.config) +
         "\npredicted  density " + fixed(tuning.predicted_density, 4) + ", error " +
         fixed(tuning.predicted_error, 4) +
         "\nerror      root mean square over heads and captures of the relative L2 error against "
         "dense\nbefore     the configuration that was given, at the same density\n";
}

Json tuning_json(const Tuning& tuning) {
  Json candidates = Json::array();
  for (const CandidateResult& result : tuning.candidates) {
    candidates.push_back({{"candidate", candidate_text(result.candidate.config)},
                          {"density", result.density},
                          {"selection_cost", result.candidate.selection_cost},
                          {"error", result.error},
                          {"ms", result.ms},
                          {"captures", result.captures}});
  }
  Json heads = Json::array();
  for (const HeadResult& head : tuning.heads) {
    Json row{{"layer", head.layer ? Json(*head.layer) : Json()},
             {"head", head.head},
             {"density", head.density},
             {"error_before", head.errors ? Json(head.errors->before) : Json()},
             {"error_after", head.errors ? Json(head.errors->after) : Json()}};
    heads.push_back(std::move(row));
  }
  Json steps = Json::array();
  for (const auto& [step, errors] : tuning.steps) {
    steps.push_back({{"step", step},
                     {"captures", errors.captures},
                     {"error_before", errors.errors.before},
                     {"error_after", errors.errors.after}});
  }
  const bool is_density = tuning.target.kind == TuneTarget::Kind::kDensity;
  return {{"target", {{is_density ? "density" : "error", tuning.target.value}}},
          {"tuned", tuning.split.tuned.size()},
          {"held_out", tuning.split.held_out.size()},
          {"chosen", candidate_text(tuning.config)},
          {"predicted_density", tuning.predicted_density},
          {"predicted_error", tuning.predicted_error},
          {"dense_ms", tuning.dense_ms},
          {"before", total_json(tuning.before)},
          {"uniform", total_json(tuning.uniform)},
          {"after", total_json(tuning.after)},
          {"heads", std::move(heads)},
          {"steps", std::move(steps)},
          {"candidates", std::move(candidates)}};
}

std::string tuning_yaml(const Tuning& tuning, const std::string& command) {
  const std::string judged =
      tuning.split.held_out.empty() ? "captures that were tuned on" : "captures that were held out";
  std::string line = command;  // a file's name may break it
  std::replace(line.begin(), line.end(), '\n', ' ');
  std::string text = "# Made by psa " + std::string(psa_version()) + ": " + line + "\n";
  text += "# On " + std::to_string(tuning.judged().size()) + " " + judged + ": error " +
          fixed(tuning.after.error, 4) + " at density " + fixed(tuning.after.density, 4) +
          "; before " + fixed(tuning.before.error, 4) + "\n";
  Problem problem;
  problem.config = tuning.config;
  problem.layout = tuning.problem.layout;
  text += settings_lines(problem);
  text += "levels: " + std::to_string(tuning.config.num_levels) + "\n";
  text += "density: " + fixed(tuning.uniform_density, 4) + "\n";
  if (!tuning.curves.front().layer) {
    return text + "head_density: " + head_densities(tuning, std::nullopt) + "\n";
  }
  text += "layers:\n";
  for (const LayerCurves& layer : tuning.curves) {
    text += "  " + layer_text(layer.layer) +
            ": {head_density: " + head_densities(tuning, layer.layer) + "}\n";
  }
  return text;
}

}  // namespace psa::cli
