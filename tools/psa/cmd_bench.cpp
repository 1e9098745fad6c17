// SPDX-License-Identifier: Apache-2.0
// psa bench: time of whole calls on made-up data, beside dense attention in the same process.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "call_options.hpp"
#include "commands.hpp"
#include "machine.hpp"
#include "output.hpp"
#include "placement.hpp"
#include "progress.hpp"
#include "psa/psa.hpp"
#include "synthetic.hpp"
#include "table.hpp"
#include "timing.hpp"

namespace psa::cli {
namespace {

using Json = nlohmann::ordered_json;

struct BenchCommand {
  CallOptions call;
  std::vector<std::string> problem_words;
  int repeats = 5;
  double time_limit_s = 120;
  std::uint64_t data_seed = 1;
  bool is_without_dense = false;
  bool is_structured = false;
  bool is_json = false;
};

/// One plan with the times of its runs.
struct Contestant {
  Plan plan;
  std::vector<RunStats> stats;
  std::vector<double> ms;

  Contestant(const Problem& problem, const PlanOptions& options)
      : plan(make_plan(problem, options)) {}

  void run_once(const AttentionIo& io, PlacedWorkspace& workspace, CallTimer& timer) {
    RunStats s;
    ms.push_back(timer.run(plan, io, workspace.of(plan), &s));
    stats.push_back(s);
  }

  /// The first run warms caches and page tables; it counts only if there is no other.
  void drop_warm_up() {
    if (ms.size() < 2) return;
    ms.erase(ms.begin());
    stats.erase(stats.begin());
  }

  [[nodiscard]] double median_of(double RunStats::*stage) const {
    std::vector<double> samples;
    for (const RunStats& s : stats) samples.push_back(s.*stage);
    return spread_of(samples).median;
  }
};

struct Measurement {
  Contestant sparse;
  std::optional<Contestant> dense;
  std::size_t workspace_bytes = 0;
};

SyntheticInputs make_data(const BenchCommand& command, const Problem& problem, const Plan& plan) {
  const int threads = executed_by(plan).threads;
  return make_synthetic(problem,
                        command.is_structured ? SyntheticData::kStructured : SyntheticData::kNormal,
                        command.data_seed, threads > 0 ? threads : this_machine().usable);
}

Measurement measure(const BenchCommand& command, const Problem& problem, Progress& progress) {
  const PlanOptions options = command.call.plan_options();
  Measurement result{Contestant(problem, options), std::nullopt, 0};
  result.workspace_bytes = result.sparse.plan.workspace_bytes();
  if (!command.is_without_dense) result.dense.emplace(dense_problem(problem), options);
  progress.step("data " + format_shape(problem.shape));
  const SyntheticInputs data = make_data(command, problem, result.sparse.plan);
  const ProblemShape& s = problem.shape;
  const OwnedTensor host_out({s.batch, s.heads_q, s.len_q, s.head_dim}, s.dtype_out);
  AttentionIo host_io;
  host_io.q = data.q.view();
  host_io.k = data.k.view();
  host_io.v = data.v.view();
  const PlacedInputs inputs(host_io, device_of(options));
  const Placed out(inputs.device(), host_out.view());
  PlacedWorkspace workspace(inputs.device());
  CallTimer timer(inputs.device());
  AttentionIo io = inputs.io();
  io.out = out.view();
  // In turns, so that a machine that slows down meanwhile slows both.
  const Stopwatch clock;
  for (int round = 0; round <= command.repeats; ++round) {
    if (round > 0 && clock.ms() > 1000 * command.time_limit_s) break;
    progress.step("round " + std::to_string(round) + (round == 0 ? " (warm-up)" : ""));
    result.sparse.run_once(io, workspace, timer);
    if (result.dense.has_value()) result.dense->run_once(io, workspace, timer);
  }
  result.sparse.drop_warm_up();
  if (result.dense.has_value()) result.dense->drop_warm_up();
  return result;
}

/// Logit columns of pairs of blocks that are not hidden (S-21), over all batches and heads.
double visible_columns(const Problem& problem) {
  const ProblemShape& s = problem.shape;
  const Config& c = problem.config;
  if (!c.causal)
    return static_cast<double>(s.batch * s.heads_q * s.len_q) * static_cast<double>(s.len_kv);
  double columns = 0;
  for (index_t begin = 0; begin < s.len_q; begin += c.block_q) {
    const index_t end = std::min<index_t>(begin + c.block_q, s.len_q);
    const index_t last_position = end - 1 + s.len_kv - s.len_q;
    if (last_position < 0) continue;
    const index_t blocks = last_position / c.block_kv + 1;
    columns +=
        static_cast<double>((end - begin) * std::min<index_t>(blocks * c.block_kv, s.len_kv));
  }
  return columns * static_cast<double>(s.batch * s.heads_q);
}

/// Two products of 2·D operations for each column.
double giga_operations(const Problem& problem, double density) {
  return 4.0 * static_cast<double>(problem.shape.head_dim) * density * visible_columns(problem) *
         1e-9;
}

/// Name of the CUDA device that computed; empty: none did.
std::string gpu_of(const Executed& executed) {
  if (executed.backend != "cuda") return "";
  const std::vector<CudaDevice> devices = cuda_report().devices;
  return devices.empty() ? "" : devices.front().name;
}

/// "AMD EPYC 9654, cpu avx2, 2 threads" or "NVIDIA H100 80GB HBM3, cuda sm_90a".
std::string executed_text(const Json& row) {
  const auto gpu = row["gpu"].get<std::string>();
  const std::string backend =
      row["backend"].get<std::string>() + " " + row["isa"].get<std::string>();
  if (!gpu.empty()) return gpu + ", " + backend;
  return row["cpu"].get<std::string>() + ", " + backend + ", " +
         std::to_string(row["threads"].get<int>()) + " threads";
}

Json measurement_json(const BenchCommand& command, const Problem& problem, const Measurement& m) {
  const RunStats& s = m.sparse.stats.front();
  const Spread time = spread_of(m.sparse.ms);
  const Executed executed = executed_by(m.sparse.plan);
  Json row{{"problem", format_problem(problem)},
           {"backend", executed.backend},
           {"isa", executed.isa},
           {"threads", executed.threads},
           {"cpu", this_machine().cpu_model},
           {"gpu", gpu_of(executed)},
           {"data", command.is_structured ? "structured" : "normal"},
           {"data_seed", command.data_seed},
           {"samples", m.sparse.ms.size()},
           {"ms", time.median},
           {"ms_p10", time.p10},
           {"ms_p90", time.p90}};
  if (m.dense.has_value()) {
    const Spread dense = spread_of(m.dense->ms);
    row["dense_samples"] = m.dense->ms.size();
    row["dense_ms"] = dense.median;
    row["dense_ms_p10"] = dense.p10;
    row["dense_ms_p90"] = dense.p90;
    row["speedup"] = dense.median / time.median;
    row["dense_gflops"] = giga_operations(dense_problem(problem), 1.0) / (dense.median * 1e-3);
  } else {
    row["dense_ms"] = nullptr;
    row["speedup"] = nullptr;
  }
  row["density"] = s.density;
  row["selection_cost"] = s.selection_cost;
  row["gflops"] = giga_operations(problem, s.density) / (time.median * 1e-3);
  row["reorder_ms"] = m.sparse.median_of(&RunStats::reorder_ms);
  row["pyramid_ms"] = m.sparse.median_of(&RunStats::pyramid_ms);
  row["importance_ms"] = m.sparse.median_of(&RunStats::importance_ms);
  row["levels_ms"] = m.sparse.median_of(&RunStats::levels_ms);
  row["selection_ms"] = row["importance_ms"].get<double>() + row["levels_ms"].get<double>();
  row["attention_ms"] = m.sparse.median_of(&RunStats::attention_ms);
  row["workspace_bytes"] = m.workspace_bytes;
  return row;
}

std::string number(const Json& row, const char* key, int digits) {
  return row[key].is_null() ? "-" : fixed(row[key].get<double>(), digits);
}

/// Milliseconds: hundreds of them on a CPU, parts of one on a GPU.
std::string time_text(const Json& row, const char* key) {
  if (row[key].is_null()) return "-";
  const auto ms = row[key].get<double>();
  return fixed(ms, ms < 1 ? 3 : ms < 10 ? 2 : 1);
}

std::string spread_text(const Json& row) {
  return time_text(row, "ms_p10") + ".." + time_text(row, "ms_p90");
}

std::string results_text(const std::vector<Json>& rows) {
  Table table({{"ms"},
               {"p10..p90"},
               {"dense ms"},
               {"speed-up"},
               {"density"},
               {"GFLOP/s"},
               {"selection ms"},
               {"pyramid ms"},
               {"reorder ms"},
               {"workspace"},
               {"problem", Table::Align::kLeft}});
  for (const Json& row : rows) {
    table.add_row({time_text(row, "ms"), spread_text(row), time_text(row, "dense_ms"),
                   number(row, "speedup", 2), number(row, "density", 4), number(row, "gflops", 0),
                   time_text(row, "selection_ms"), time_text(row, "pyramid_ms"),
                   time_text(row, "reorder_ms"), bytes_text(row["workspace_bytes"].get<double>()),
                   row["problem"].get<std::string>()});
  }
  const Json& first = rows.front();
  return table.text() + "\n" + executed_text(first) + ", medians of " +
         std::to_string(first["samples"].get<int>()) + " runs, " +
         first["data"].get<std::string>() + " data\n";
}

void run_bench(const BenchCommand& command) {
  Problem base;
  command.call.apply_base(base);
  std::vector<Problem> problems;
  for (const std::string& line : problem_lines(command.problem_words)) {
    Problem problem = parse_problem(line, base);
    command.call.apply_flags(problem);
    // Refused before the first measurement, not after it.
    (void)make_plan(problem, command.call.plan_options());
    problems.push_back(problem);
  }
  Progress progress("bench", static_cast<int>(problems.size()) * (command.repeats + 2),
                    command.is_json);
  std::vector<Json> rows;
  for (const Problem& problem : problems) {
    const Measurement measured = measure(command, problem, progress);
    rows.push_back(measurement_json(command, problem, measured));
  }
  if (command.is_json) {
    print_json(rows);
  } else {
    print(results_text(rows));
  }
}

}  // namespace

void add_bench_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("bench", "time of calls on made-up data, beside dense attention");
  const auto options = std::make_shared<BenchCommand>();
  command
      ->add_option("problem", options->problem_words,
                   "problem strings, quoted or not (docs/cli.md)")
      ->type_name("PROBLEM")
      ->required();
  constexpr const char* kGroup = "Measurement";
  command->add_option("--repeats", options->repeats, "measured rounds (default 5)")
      ->type_name("N")
      ->check(CLI::Range(1, 10000).description(""))
      ->group(kGroup);
  command
      ->add_option("--time-limit", options->time_limit_s,
                   "begin no further round of a problem after this time (default 120)")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.0, 1e6).description(""))
      ->group(kGroup);
  command
      ->add_flag("--no-dense", options->is_without_dense,
                 "leave dense attention out, for sizes where it takes minutes")
      ->group(kGroup);
  command
      ->add_flag("--structured", options->is_structured,
                 "data in which near tokens attend to each other (default: normal)")
      ->group(kGroup);
  command->add_option("--data-seed", options->data_seed, "of the data (default 1)")
      ->type_name("N")
      ->group(kGroup);
  command->add_flag("--json", options->is_json, "print JSON, one object for each problem")
      ->group(kGroup);
  options->call.add_call(*command);
  options->call.add_machine(*command);
  command->footer(
      "Examples:\n"
      "  psa bench b1h4q16384d64:bf16 density=.15\n"
      "  psa bench b1h12q32760d128:bf16 grid=21x30x52 rule=quota,.10,.15,.15,.35 --json");
  command->callback([options] { run_bench(*options); });
}

}  // namespace psa::cli
