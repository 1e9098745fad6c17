// SPDX-License-Identifier: Apache-2.0
// psa compare: PSA beside dense and block-sparse attention on the same tensors.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "call_options.hpp"
#include "command_text.hpp"
#include "commands.hpp"
#include "comparison.hpp"
#include "comparison_output.hpp"
#include "machine.hpp"
#include "output.hpp"
#include "report.hpp"
#include "table.hpp"
#include "tensors_out.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

struct CompareCommand {
  CallOptions call;
  std::string methods = "dense,psa,binary";
  std::optional<std::string> densities;  // none: kCurveDensities
  std::string reference = "dense";
  int reference_tokens = 64;
  int repeats = 5;
  bool has_curve = false;
  bool is_per_head = false;
  bool is_json = false;
  std::string report;  // folder
};

constexpr int kMaxRepeats = 1000;
constexpr int kMaxReferenceTokens = 1 << 20;

void check_range(const std::string& flag, int given, int least, int most) {
  if (given >= least && given <= most) return;
  throw Error(Status::kInvalidArgument, flag + " is " + std::to_string(given) + "; allowed are " +
                                            std::to_string(least) + " to " + std::to_string(most));
}

std::vector<double> parse_curve(const std::optional<std::string>& densities) {
  if (!densities) return {kCurveDensities.begin(), kCurveDensities.end()};
  constexpr std::size_t kMaxPoints = 64;
  const std::vector<float> parsed = parse_numbers({"--densities", *densities}, kMaxPoints, 0, 1);
  std::vector<double> curve(parsed.begin(), parsed.end());
  std::sort(curve.begin(), curve.end());
  return curve;
}

ComparisonOptions comparison_options(const CompareCommand& command) {
  check_range("--repeats", command.repeats, 1, kMaxRepeats);
  check_range("--reference-tokens", command.reference_tokens, 1, kMaxReferenceTokens);
  ComparisonOptions options;
  options.methods = parse_methods(command.methods);
  options.repeats = command.repeats;
  options.quiet = command.is_json;
  options.keep_rows = !command.report.empty();
  if (command.reference == "double") {
    options.reference_tokens = command.reference_tokens;
  } else if (command.reference != "dense") {
    throw Error(Status::kInvalidArgument,
                "--reference is '" + command.reference + "'; allowed are dense and double");
  }
  if (command.has_curve || options.keep_rows) options.curve = parse_curve(command.densities);
  return options;
}

ReportFacts report_facts(const CompareCommand& command, const Call& call,
                         const std::string& command_line) {
  const Machine machine = this_machine();
  return {command_line,
          call.inputs.origin,
          {{"processor", machine.cpu_model},
           {"processors", std::to_string(machine.usable) + " usable"},
           {"system", machine.system},
           {"memory", bytes_text(static_cast<double>(machine.memory_bytes))},
           {"timing", "median of " + std::to_string(command.repeats) +
                          " calls of each method, taken in turn"}}};
}

void warn_nonfinite(const Comparison& comparison) {
  constexpr std::array<const char*, 3> kNames{"q", "k", "v"};
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (comparison.nonfinite[i].values == 0) continue;
    const std::string text = nonfinite_text(kNames[i], comparison.nonfinite[i]);
    std::fprintf(stderr, "psa compare: warning: %s\n", text.c_str());
  }
}

// Fails before the work when the report could not be written after it.
void check_report(const CompareCommand& command, const ComparisonOptions& options) {
  if (command.report.empty()) return;
  for (const Method method : {Method::kDense, Method::kPsa}) {
    const std::vector<Method>& given = options.methods;
    if (std::find(given.begin(), given.end(), method) == given.end()) {
      reject({"--methods", command.methods}, "--report needs dense and psa");
    }
  }
  check_output_writable(report_path(command.report));
}

void run_compare(const CompareCommand& command, const std::string& command_line) {
  const ComparisonOptions options = comparison_options(command);
  check_report(command, options);
  const Call call = load_call(command.call);
  const Comparison comparison = compare_methods(call, options);
  warn_nonfinite(comparison);
  if (command.is_json) {
    print_json(comparison_json(comparison, command.is_per_head));
  } else {
    print(comparison_text(comparison, command.is_per_head));
  }
  if (command.report.empty()) return;
  const std::filesystem::path path = report_path(command.report);
  write_report(path,
               report_html(comparison, call.problem, report_facts(command, call, command_line)));
  if (!command.is_json) print("report     " + path.string() + "\n");
}

void add_compare_options(CLI::App& command, CompareCommand& options) {
  constexpr const char* kGroup = "Comparison";
  command
      .add_option("--methods", options.methods,
                  "dense, psa, binary, binary-unordered, binary+mean, official-split (default: "
                  "first three)")
      ->type_name("NAME,...")
      ->group(kGroup);
  command.add_option("--repeats", options.repeats, "timed calls of each method (default 5)")
      ->type_name("N")
      ->group(kGroup);
  command
      .add_option("--reference", options.reference,
                  "errors against dense (default), or the exact oracle on some tokens (slow)")
      ->type_name("dense|double")
      ->group(kGroup);
  command
      .add_option("--reference-tokens", options.reference_tokens,
                  "query tokens of --reference double (default 64)")
      ->type_name("N")
      ->group(kGroup);
  command.add_flag("--per-head", options.is_per_head, "also the errors of each head")
      ->group(kGroup);
  command.add_flag("--curve", options.has_curve, "also psa and binary at other densities")
      ->group(kGroup);
  command
      .add_option("--densities", options.densities,
                  "of --curve and of the report (default .03,.05,.08,.12,.15,.20,.30)")
      ->type_name("R,...")
      ->group(kGroup);
  command.add_flag("--json", options.is_json, "print JSON")->group(kGroup);
  command.add_option("--report", options.report, "write DIR/report.html, with pictures")
      ->type_name("DIR")
      ->group(kGroup);
}

}  // namespace

void add_compare_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("compare", "PSA beside dense and block-sparse attention: errors, times");
  const auto options = std::make_shared<CompareCommand>();
  options->call.add_inputs(*command);
  add_compare_options(*command, *options);
  options->call.add_call(*command);
  options->call.add_machine(*command);
  command->footer(
      "Examples:\n"
      "  psa compare qkv.safetensors --grid 16,32,32 --density .15 --order gilbert\n"
      "  psa compare qkv.safetensors --methods dense,psa,binary,binary+mean --report out");
  command->callback([options, command] { run_compare(*options, command_text(*command)); });
}

}  // namespace psa::cli
