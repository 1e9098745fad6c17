// SPDX-License-Identifier: Apache-2.0
// psa tune: the configuration that reads given q, k and v best, as a file.

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "call_options.hpp"
#include "command_text.hpp"
#include "commands.hpp"
#include "engine/tensors/atomic_file.hpp"
#include "machine.hpp"
#include "output.hpp"
#include "psa/error.hpp"
#include "report.hpp"
#include "tensors_out.hpp"
#include "tuning.hpp"
#include "tuning_output.hpp"
#include "tuning_report.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

struct TuneCommand {
  CallOptions call;
  std::vector<std::string> qkv;
  std::string target;
  std::string out;
  std::string report;  // folder
  bool is_json = false;
};

void check_flags(const TuneCommand& command) {
  for (const std::string name : {"rule", "budget", "density", "head_density"}) {
    if (!command.call.has_flag(name)) continue;
    throw Error(Status::kInvalidArgument,
                "setting " + name + " cannot be given: psa tune finds it for its --target");
  }
  if (command.call.has_flag("compat")) {
    throw Error(Status::kInvalidArgument,
                "setting compat cannot be given: results of the published code have one density");
  }
}

ReportFacts report_facts(const TuneCommand& command, const std::string& command_line) {
  const Machine machine = this_machine();
  return {command_line,
          join(command.qkv, " "),
          {{"processor", machine.cpu_model},
           {"processors", std::to_string(machine.usable) + " usable"},
           {"system", machine.system},
           {"timing", "one call for each capture and way of reading"}}};
}

void run_tune(const TuneCommand& command, const std::string& command_line) {
  check_flags(command);
  const TuneTarget target = parse_target(command.target);
  check_output_writable(command.out);
  if (!command.report.empty()) check_output_writable(report_path(command.report));
  const Tuning tuning = tune(command.call, find_captures(command.qkv), target, command.is_json);
  const std::string preset = tuning_yaml(tuning, command_line);
  io::write_file(command.out, preset);
  if (command.is_json) {
    print_json(tuning_json(tuning));
  } else {
    print(tuning_text(tuning) + "wrote      " + command.out + "\n");
  }
  if (command.report.empty()) return;
  const std::filesystem::path path = report_path(command.report);
  write_report(path, tuning_report_html(tuning, preset, report_facts(command, command_line)));
  if (!command.is_json) print("report     " + path.string() + "\n");
}

}  // namespace

void add_tune_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("tune", "the configuration that reads captured q, k, v best");
  const auto options = std::make_shared<TuneCommand>();
  constexpr const char* kGroup = "Tuning";
  command
      ->add_option("--qkv", options->qkv,
                   "captures: .safetensors files with q, k, v, or folders of them")
      ->type_name("PATH")
      ->required()
      ->group(kGroup);
  command
      ->add_option("--target", options->target,
                   "density=R: the least error at this density; error=E: the least density")
      ->type_name("density=R|error=E")
      ->required()
      ->group(kGroup);
  command->add_option("-o,--out", options->out, "the configuration file to write")
      ->type_name("FILE")
      ->required()
      ->group(kGroup);
  command->add_option("--report", options->report, "write DIR/report.html, with pictures")
      ->type_name("DIR")
      ->group(kGroup);
  command->add_flag("--json", options->is_json, "print JSON")->group(kGroup);
  options->call.add_file_options(*command);
  options->call.add_call(*command);
  options->call.add_machine(*command);
  command->footer(
      "Settings that are given are kept, all others are found.\n"
      "Example:\n"
      "  psa tune --qkv captures --target density=.10 -o tuned.yaml --report out");
  command->callback([options, command] { run_tune(*options, command_text(*command)); });
}

}  // namespace psa::cli
