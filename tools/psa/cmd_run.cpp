// SPDX-License-Identifier: Apache-2.0
// psa run: attention over tensors of files, result to a file.

#include <CLI/CLI.hpp>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "call_options.hpp"
#include "commands.hpp"
#include "level_file.hpp"
#include "level_summary.hpp"
#include "output.hpp"
#include "placement.hpp"
#include "progress.hpp"
#include "psa/error.hpp"
#include "psa/psa.hpp"
#include "table.hpp"
#include "tensors_out.hpp"
#include "timing.hpp"

namespace psa::cli {
namespace {

using Json = nlohmann::ordered_json;

struct RunCommand {
  CallOptions call;
  std::string out;
  std::string out_dtype;
  std::string lse;
  std::string levels_out;
  std::string levels_in;
  bool is_json = false;
};

struct RunResult {
  OwnedTensor out;
  std::vector<float> lse;  // [B, Hq, Lq]
  std::optional<LevelMap> levels;
  RunStats stats;
  std::size_t workspace_bytes = 0;
  double ms = 0;
};

void check_outputs(const RunCommand& command) {
  const std::vector<std::pair<std::string, const std::string*>> outputs{
      {"--out", &command.out}, {"--lse", &command.lse}, {"--levels-out", &command.levels_out}};
  for (const auto& [flag, path] : outputs) {
    if (path->empty()) continue;
    check_output_name(*path, flag);
    check_output_writable(*path);
  }
}

void check_out_dtype(const std::string& out, DType dtype) {
  if (dtype != DType::kBF16 || !out.ends_with(".npy")) return;
  throw Error(Status::kInvalidArgument,
              "the result would be bf16, which a .npy file cannot hold; write a .safetensors file "
              "or give --out-dtype f32 or f16");
}

/// What a call writes, still without values.
RunResult make_result(const RunCommand& command, const Call& call, const Plan& plan) {
  const ProblemShape& shape = call.problem.shape;
  RunResult result;
  result.workspace_bytes = plan.workspace_bytes();
  result.out = OwnedTensor({shape.batch, shape.heads_q, shape.len_q, shape.head_dim},
                           shape.dtype_out, call.inputs.axis_order);
  if (!command.lse.empty()) {
    result.lse.resize(static_cast<std::size_t>(shape.batch * shape.heads_q * shape.len_q));
  }
  if (!command.levels_in.empty()) {
    result.levels = load_levels(command.levels_in);
  } else if (!command.levels_out.empty()) {
    result.levels.emplace(shape.batch, shape.heads_q, plan.num_q_blocks(), plan.num_kv_blocks());
  }
  return result;
}

RunResult compute(const RunCommand& command, const Call& call) {
  const Plan plan = make_plan(call.problem, call.plan_options);
  RunResult result = make_result(command, call, plan);
  const PlacedInputs inputs(call.io(), device_of(call.plan_options));
  PlacedWorkspace workspace(inputs.device());
  const std::span<std::byte> bytes = workspace.of(plan);
  const Placed out(inputs.device(), result.out.view());
  const Placed lse(inputs.device(), std::span(result.lse));
  const Placed levels(inputs.device(),
                      result.levels ? result.levels->codes() : std::span<LevelCode>());
  AttentionIo io = inputs.io();
  io.out = out.view();
  io.lse = lse.data<float>();
  const bool are_given = !command.levels_in.empty();
  if (are_given) levels.copy_from_host();
  const Stopwatch watch;
  if (are_given) {
    LevelMapView given = result.levels->view();
    given.data = levels.data<LevelCode>();
    run_with_levels(plan, io, given, bytes, {}, &result.stats);
  } else {
    io.levels_out = levels.data<LevelCode>();
    run(plan, io, bytes, {}, &result.stats);
  }
  result.ms = watch.ms();
  for (const Placed* written : {&out, &lse, &levels}) written->copy_to_host();
  return result;
}

// Outputs that name the same file share it.
void write_outputs(const RunCommand& command, const Call& call, const RunResult& result) {
  const ProblemShape& shape = call.problem.shape;
  std::map<std::string, std::vector<io::TensorInfo>> files;
  files[command.out].push_back(result.out.info("out"));
  if (!command.lse.empty()) {
    files[command.lse].push_back({"lse",
                                  io::FileDType::kF32,
                                  {shape.batch, shape.heads_q, shape.len_q},
                                  std::as_bytes(std::span(result.lse))});
  }
  if (!command.levels_out.empty()) files[command.levels_out].push_back(result.levels->info());
  const std::map<std::string, std::string> metadata{
      {"problem", format_problem(call.problem)},
      {"psa_version", kVersion},
      {"density", significant(result.stats.density, 6)},
      {"levels", command.levels_in.empty() ? "selected" : "given"},
      {"layout", call.inputs.axis_order == AxisOrder::kBhld ? "bhld" : "blhd"}};
  for (const auto& [path, tensors] : files) write_tensors(path, tensors, metadata);
}

Json result_json(const Call& call, const RunResult& result) {
  const RunStats& s = result.stats;
  return {{"problem", format_problem(call.problem)},
          {"density", s.density},
          {"selection_cost", s.selection_cost},
          {"blocks", blocks_json(s.blocks)},
          {"ms", result.ms},
          {"reorder_ms", s.reorder_ms},
          {"pyramid_ms", s.pyramid_ms},
          {"importance_ms", s.importance_ms},
          {"levels_ms", s.levels_ms},
          {"attention_ms", s.attention_ms},
          {"workspace_bytes", result.workspace_bytes}};
}

std::string result_text(const Call& call, const RunResult& result) {
  const RunStats& s = result.stats;
  std::string text = "problem    " + format_problem(call.problem) + "\n";
  text += "density    " + fixed(s.density, 4) + " (selection costs " + fixed(s.selection_cost, 4) +
          " more)\n";
  text += "blocks     " + blocks_text(s.blocks) + "\n";
  text += "time       " + fixed(result.ms, 1) + " ms: reorder " + fixed(s.reorder_ms, 1) +
          ", pyramid " + fixed(s.pyramid_ms, 1) + ", selection " + fixed(s.selection_ms(), 1) +
          ", attention " + fixed(s.attention_ms, 1) + "\n";
  text += "workspace  " + bytes_text(static_cast<double>(result.workspace_bytes)) + "\n";
  return text;
}

void run_run(const RunCommand& command) {
  check_outputs(command);
  Progress progress("run", 3, command.is_json);
  progress.step("load");
  Call call = load_call(command.call);
  if (!command.out_dtype.empty()) {
    call.problem.shape.dtype_out = parse_dtype("--out-dtype", command.out_dtype);
  }
  check_out_dtype(command.out, call.problem.shape.dtype_out);
  progress.step("attention " + format_shape(call.problem.shape));
  const RunResult result = compute(command, call);
  progress.step("write " + command.out);
  write_outputs(command, call, result);
  if (command.is_json) {
    print_json(result_json(call, result));
  } else {
    print(result_text(call, result));
  }
}

}  // namespace

void add_run_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("run", "attention over q, k, v of files, into a file");
  const auto options = std::make_shared<RunCommand>();
  options->call.add_inputs(*command);
  constexpr const char* kGroup = "Output";
  command->add_option("-o,--out", options->out, "where the result goes: .safetensors or .npy")
      ->type_name("FILE")
      ->required()
      ->group(kGroup);
  command->add_option("--out-dtype", options->out_dtype, "type of the result (default: that of q)")
      ->type_name("f32|f16|bf16")
      ->group(kGroup);
  command
      ->add_option("--lse", options->lse, "also write the log-sum-exp; may name the file of --out")
      ->type_name("FILE")
      ->group(kGroup);
  command
      ->add_option("--levels-out", options->levels_out,
                   "also write the level map; may name the file of --out")
      ->type_name("FILE")
      ->group(kGroup);
  command->add_flag("--json", options->is_json, "print JSON")->group(kGroup);
  options->call.add_call(*command);
  command->add_option("--levels-in", options->levels_in, "use this level map, select nothing")
      ->type_name("FILE")
      ->group("Selection");
  options->call.add_machine(*command);
  command->footer(
      "Examples:\n"
      "  psa run qkv.safetensors -o out.safetensors --preset balanced --grid 16,32,32\n"
      "  psa run q.npy k.npy v.npy -o out.npy --layout blhd --density .2 --causal");
  command->callback([options] { run_run(*options); });
}

}  // namespace psa::cli
