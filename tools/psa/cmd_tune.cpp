// SPDX-License-Identifier: Apache-2.0
// psa tune: the configuration that reads given q, k and v best, as a file.

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "call_options.hpp"
#include "command_text.hpp"
#include "commands.hpp"
#include "engine/tensors/atomic_file.hpp"
#include "engine/tensors/printable.hpp"
#include "machine.hpp"
#include "output.hpp"
#include "psa/error.hpp"
#include "report.hpp"
#include "temporary_folder.hpp"
#include "tensors_out.hpp"
#include "tuning.hpp"
#include "tuning_captures.hpp"
#include "tuning_model.hpp"
#include "tuning_output.hpp"
#include "tuning_report.hpp"
#include "tuning_search.hpp"
#include "tuning_target.hpp"
#include "tuning_videos.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

struct TuneCommand {
  CallOptions call;
  std::vector<std::string> qkv;
  TuningModelOptions model;
  std::string keep_captures;  // folder
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
  if (command.model.model.empty()) return;
  for (const std::string_view name : model_settings()) {
    if (!command.call.has_flag(name)) continue;
    throw Error(Status::kInvalidArgument, "setting " + std::string(name) +
                                              " cannot be given with --model: psa generate does "
                                              "not take it");
  }
}

/// A folder, made if need be, in which files can be written.
void check_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    throw Error(Status::kIo, "cannot make the folder " + io::printable(folder.string()) + ": " +
                                 error.message());
  }
  check_output_writable(folder / "prompt0.safetensors");
}

/// Nothing of latents, which have no PSNR.
std::optional<VideoChoice> videos_of(const TuningModel& model, const TuningSearch& search,
                                     const TuneTarget& target) {
  if (!model.makes_pixels()) return std::nullopt;
  switch (target.kind) {
    case TuneTarget::Kind::kDensity:
      return videos_of_density(model, search, target.value);
    case TuneTarget::Kind::kPsnr:
      return videos_of_psnr(model, search, target.value);
    case TuneTarget::Kind::kError:
      break;
  }
  return videos_of_budgets(model, search, budgets_of_error(search, target.value));
}

/// Where candidates are compared. A warm-up that is given takes its part of a density.
TuneTarget search_target(const TuningModel& model, const TuneTarget& target) {
  if (target.kind != TuneTarget::Kind::kDensity || !model.makes_pixels()) return target;
  const int warmup = model.fixed_warmup().value_or(0);
  const double density = density_after_warmup(target.value, warmup, model.steps());
  if (density > 0) return {target.kind, density};
  reject({"--warmup-steps", std::to_string(warmup)},
         "of " + std::to_string(model.steps()) +
             " steps they alone read more than the density of --target");
}

void check_model(const TuneCommand& command, const TuningModel& model, const TuneTarget& target) {
  check_target(command.call, model.problem(command.call), search_target(model, target));
  if (model.makes_pixels()) return;
  const char* flag = target.kind == TuneTarget::Kind::kPsnr ? "--target psnr"
                     : model.fixed_warmup()                 ? "--warmup-steps"
                                                            : nullptr;
  if (flag == nullptr) return;
  throw Error(Status::kUnsupported, std::string(flag) +
                                        " needs a model that predicts pixels: whole videos are "
                                        "compared, and latents have no PSNR");
}

Budgets budgets_of(const TuningSearch& search, const TuneTarget& target) {
  return target.kind == TuneTarget::Kind::kError ? budgets_of_error(search, target.value)
                                                 : budgets_of_density(search, target.value);
}

/// On q, k and v that the model of the command makes.
Tuning tune_model(const TuneCommand& command, const TuneTarget& target) {
  TuningModel model(command.model, command.call, command.is_json);
  check_model(command, model, target);
  std::optional<TemporaryFolder> temporary;
  if (command.keep_captures.empty()) {
    temporary.emplace();
  } else {
    check_folder(command.keep_captures);
  }
  const std::filesystem::path folder =
      temporary ? temporary->path() : std::filesystem::path(command.keep_captures);
  TuningSearch search = search_captures(command.call, find_captures(model.capture(folder)),
                                        search_target(model, target), command.is_json);
  std::optional<VideoChoice> choice = videos_of(model, search, target);
  Budgets budgets = choice ? std::move(choice->budgets) : budgets_of(search, target);
  Tuning tuning =
      try_out(command.call, target, std::move(search), std::move(budgets), command.is_json);
  if (choice) tuning.videos = std::move(choice->videos);
  return tuning;
}

Tuning tune_captures(const TuneCommand& command, const TuneTarget& target) {
  if (target.kind == TuneTarget::Kind::kPsnr) {
    reject({"--target", command.target}, "needs --model: a PSNR is of whole videos");
  }
  TuningSearch search =
      search_captures(command.call, find_captures(command.qkv), target, command.is_json);
  Budgets budgets = budgets_of(search, target);
  return try_out(command.call, target, std::move(search), std::move(budgets), command.is_json);
}

ReportFacts report_facts(const TuneCommand& command, const std::string& command_line) {
  const Machine machine = this_machine();
  return {command_line,
          command.model.model.empty() ? join(command.qkv, " ") : command.model.model,
          {{"processor", machine.cpu_model},
           {"processors", std::to_string(machine.usable) + " usable"},
           {"system", machine.system},
           {"timing", "one call for each capture and way of reading"}}};
}

void run_tune(const TuneCommand& command, const std::string& command_line) {
  if (command.qkv.empty() && command.model.model.empty()) {
    throw Error(Status::kInvalidArgument, "--model DIR or --qkv PATH is needed: what to tune for");
  }
  check_flags(command);
  const TuneTarget target = parse_target(command.target);
  check_output_writable(command.out);
  if (!command.report.empty()) check_output_writable(report_path(command.report));
  const Tuning tuning =
      command.qkv.empty() ? tune_model(command, target) : tune_captures(command, target);
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
      app.add_subcommand("tune", "the configuration that reads a model's q, k and v best");
  const auto options = std::make_shared<TuneCommand>();
  constexpr const char* kGroup = "Tuning";
  CLI::Option* qkv =
      command
          ->add_option("--qkv", options->qkv,
                       "captures: .safetensors files with q, k, v, or folders of them")
          ->type_name("PATH")
          ->group(kGroup);
  command
      ->add_option(
          "--target", options->target,
          "density=R: the least error at this density; error=E or psnr=P (dB, of --model's "
          "videos): the least density")
      ->type_name("density=R|error=E|psnr=P")
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
  options->model.add(*command);
  CLI::Option* model = command->get_option("--model")->excludes(qkv);
  command
      ->add_option("--keep-captures", options->keep_captures,
                   "keep q, k, v of the model's run in this folder (default: a temporary one)")
      ->type_name("DIR")
      ->group(kGroup)
      ->needs(model);
  options->call.add_file_options(*command);
  options->call.add_call(*command, kConfigPrefix);
  options->call.add_machine(*command);
  // What the captures of a model are is known.
  for (const char* flag : {"--names", "--layout", "--dtype", "--kv-lengths", "--layer", "--isa"}) {
    command->get_option(flag)->excludes(model);
  }
  command->footer(
      "Settings that are given are kept, all others are found.\n"
      "Examples:\n"
      "  psa tune --model DIR --target density=.10 -o tuned.yaml --report out\n"
      "  psa tune --qkv captures --target density=.10 -o tuned.yaml");
  command->callback([options, command] { run_tune(*options, command_text(*command)); });
}

}  // namespace psa::cli
