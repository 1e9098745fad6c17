// SPDX-License-Identifier: Apache-2.0
// psa plan: what would run for a problem or for given tensors, and why. Computes nothing.

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "call_options.hpp"
#include "commands.hpp"
#include "output.hpp"
#include "placement.hpp"
#include "psa/psa.hpp"
#include "table.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

using Json = nlohmann::ordered_json;

struct PlanCommand {
  CallOptions call;
  bool is_json = false;
  bool lists_presets = false;
  std::vector<std::string> problem_words;
};

void print_presets(bool is_json) {
  if (is_json) {
    Json document = Json::array();
    for (const Preset& preset : presets()) {
      const Problem problem{{}, {}, preset.config};
      document.push_back({{"name", preset.name},
                          {"description", preset.description},
                          {"settings", format_settings(problem)},
                          {"text_tokens", preset.text_tokens},
                          {"warmup_steps", preset.warmup_steps},
                          {"divisor_width", preset.divisor_width},
                          {"divisor_height", preset.divisor_height},
                          {"divisor_frames", preset.divisor_frames}});
    }
    print_json(document);
    return;
  }
  Table table({{"preset", Table::Align::kLeft}, {"description", Table::Align::kLeft}});
  for (const Preset& preset : presets()) {
    table.add_row({std::string(preset.name), std::string(preset.description)});
  }
  print(table.text());
}

double tensor_bytes(const ProblemShape& s) {
  const double q = static_cast<double>(s.batch * s.heads_q * s.len_q * s.head_dim);
  const double kv = static_cast<double>(s.batch * s.heads_kv * s.len_kv * s.head_dim);
  return q * static_cast<double>(size_of(s.dtype_q) + size_of(s.dtype_out)) +
         2 * kv * static_cast<double>(size_of(s.dtype_kv));
}

void print_plan(const PlanCommand& command, const Problem& problem) {
  const Plan plan = make_plan(problem, command.call.plan_options());
  const double tensors = tensor_bytes(problem.shape);
  if (command.is_json) {
    print_json({{"problem", format_problem(problem)},
                {"num_q_blocks", plan.num_q_blocks()},
                {"num_kv_blocks", plan.num_kv_blocks()},
                {"workspace_bytes", plan.workspace_bytes()},
                {"tensor_bytes", tensors},
                {"configuration", command.call.base_name()},
                {"description", plan.describe()}});
    return;
  }
  std::string text = "call       " + format_problem(problem) + "\n";
  const std::string base = command.call.base_name();
  if (!base.empty()) text += "from       " + base + "\n";
  text += "tensors    " + bytes_text(tensors) + " for q, k, v and out\n";
  text += plan.describe();
  if (text.back() != '\n') text += "\n";
  print(text);
}

void run_plan(const PlanCommand& command) {
  if (command.lists_presets) {
    print_presets(command.is_json);
    return;
  }
  if (command.problem_words.empty()) {
    reject({"PROBLEM", ""}, "expected a problem such as b1h12q4096d64:bf16, or tensor files");
  }
  if (names_tensor_file(command.problem_words.front())) {
    CallOptions call = command.call;
    call.set_files(command.problem_words);
    print_plan(command, load_call(call).problem);
    return;
  }
  Problem base;
  command.call.apply_base(base);
  for (const std::string& line : problem_lines(command.problem_words)) {
    Problem problem = parse_problem(line, base);
    command.call.apply_flags(problem);
    print_plan(command, problem);
  }
}

}  // namespace

void add_plan_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("plan", "what would run for a problem or for tensors, and why");
  const auto options = std::make_shared<PlanCommand>();
  command
      ->add_option("problem", options->problem_words,
                   "problem string(s), or tensor files as for psa run")
      ->type_name("PROBLEM|FILE");
  command->add_flag("--presets", options->lists_presets, "list the built-in presets");
  command->add_flag("--json", options->is_json, "print JSON");
  options->call.add_file_options(*command);
  options->call.add_call(*command);
  options->call.add_machine(*command);
  command->footer(
      "Example:\n"
      "  psa plan b1h12q32760d128:bf16 grid=21x30x52 order=gilbert density=.15");
  command->callback([options] { run_plan(*options); });
}

}  // namespace psa::cli
