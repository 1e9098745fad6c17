// SPDX-License-Identifier: Apache-2.0
// psa inspect: tensors of files, and the level map that a configuration selects for them.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "call_options.hpp"
#include "commands.hpp"
#include "engine/tensors/npy.hpp"
#include "engine/tensors/printable.hpp"
#include "engine/tensors/safetensors.hpp"
#include "level_file.hpp"
#include "level_summary.hpp"
#include "output.hpp"
#include "placement.hpp"
#include "psa/error.hpp"
#include "psa/psa.hpp"
#include "table.hpp"
#include "tensor_summary.hpp"

namespace psa::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kSparklineWidth = 64;

struct InspectCommand {
  CallOptions call;
  bool selects = false;
  bool is_json = false;
};

struct NamedSummary {
  std::string name;
  std::string dtype;
  std::vector<index_t> shape;
  TensorSummary summary;
};

struct FileContents {
  std::string path;
  std::map<std::string, std::string> metadata;
  std::vector<NamedSummary> tensors;
};

NamedSummary summary_of(const io::TensorInfo& tensor, const std::string& name) {
  return {name, std::string(io::name_of(tensor.dtype)), tensor.shape, summarize(tensor)};
}

FileContents contents_of(const std::string& path) {
  FileContents contents{path, {}, {}};
  if (path.ends_with(".npy")) {
    const io::NpyFile file = io::NpyFile::open(path, io::NpyWords::kBf16);
    contents.tensors.push_back(summary_of(file.tensor(), "array"));
    return contents;
  }
  if (!names_tensor_file(path)) {
    throw Error(Status::kInvalidArgument, "input is " + io::printable(path) +
                                              "; allowed: names that end in .safetensors or .npy");
  }
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  contents.metadata = file.metadata();
  for (const io::TensorInfo& tensor : file.tensors()) {
    contents.tensors.push_back(summary_of(tensor, tensor.name));
  }
  return contents;
}

// Names and texts come from a file: quotes only where they hold something unusual.
std::string shown(const std::string& text) {
  const std::string quoted = io::printable(text);
  return quoted.substr(1, quoted.size() - 2) == text ? text : quoted;
}

std::string contents_text(const FileContents& contents) {
  using Align = Table::Align;
  Table table({{"tensor", Align::kLeft},
               {"type", Align::kLeft},
               {"shape", Align::kLeft},
               {"min"},
               {"max"},
               {"mean"},
               {"NaN"},
               {"Inf"}});
  for (const NamedSummary& t : contents.tensors) {
    const TensorSummary& s = t.summary;
    const auto number = [&](double value) {
      return s.is_readable ? significant(value, 4) : std::string("-");
    };
    table.add_row({shown(t.name), t.dtype, io::shape_text(t.shape), number(s.min), number(s.max),
                   number(s.mean), s.is_readable ? std::to_string(s.nan) : "-",
                   s.is_readable ? std::to_string(s.infinite) : "-"});
  }
  std::string text = contents.path + "\n\n" + table.text();
  if (contents.metadata.empty()) return text;
  text += "\n";
  for (const auto& [key, value] : contents.metadata) {
    text += "metadata  " + shown(key) + " = " + shown(value) + "\n";
  }
  return text;
}

Json contents_json(const FileContents& contents) {
  Json tensors = Json::array();
  for (const NamedSummary& t : contents.tensors) {
    Json entry{{"name", t.name}, {"dtype", t.dtype}, {"shape", t.shape}};
    if (t.summary.is_readable) {
      entry["min"] = t.summary.min;
      entry["max"] = t.summary.max;
      entry["mean"] = t.summary.mean;
      entry["nan"] = t.summary.nan;
      entry["inf"] = t.summary.infinite;
    }
    tensors.push_back(entry);
  }
  return {{"path", contents.path}, {"metadata", contents.metadata}, {"tensors", tensors}};
}

/// What the level map of one head costs.
struct HeadCost {
  index_t batch = 0;
  index_t head = 0;
  stages::LevelDensity density;
};

/// What the level map of a call costs.
struct Selection {
  Problem problem;
  stages::LevelDensity density;
  std::vector<HeadCost> heads;
};

// Each head by itself, as a call of one head: rows see different numbers of keys, so the mean of
// the rows' densities is not the head's.
std::vector<HeadCost> costs_of_heads(const Call& call, LevelMapView levels) {
  Problem one_head = call.problem;
  one_head.shape.batch = one_head.shape.heads_q = one_head.shape.heads_kv = 1;
  one_head.config.head_density.clear();  // the map is given
  const Plan plan = make_plan(one_head, call.plan_options);
  std::vector<HeadCost> costs;
  for (index_t b = 0; b < levels.batch; ++b) {
    for (index_t h = 0; h < levels.heads; ++h) {
      const LevelMapView head{levels.row(b, h, 0), 1, 1, levels.num_q_blocks, levels.num_kv_blocks};
      const std::int32_t* length =
          call.kv_lengths.empty() ? nullptr : &call.kv_lengths[static_cast<std::size_t>(b)];
      costs.push_back({b, h, stages::measure_levels(plan, head, length)});
    }
  }
  return costs;
}

Selection select(const CallOptions& options) {
  const Call call = load_call(options);
  const ProblemShape& shape = call.problem.shape;
  const Plan plan = make_plan(call.problem, call.plan_options);
  LevelMap levels(shape.batch, shape.heads_q, plan.num_q_blocks(), plan.num_kv_blocks());
  const AttentionIo io = call.io();
  select_levels(plan, PlacedInputs(io, device_of(call.plan_options)), levels.view());
  return {call.problem, stages::measure_levels(plan, levels.view(), io.kv_lengths),
          costs_of_heads(call, levels.view())};
}

std::string selection_text(const Selection& selection) {
  using Align = Table::Align;
  const stages::LevelDensity& all = selection.density;
  std::string text = "problem   " + format_problem(selection.problem) + "\n";
  text += "density   " + fixed(all.density, 4) + " (selection costs " +
          fixed(all.selection_cost, 4) + " more)\n";
  text += "blocks    " + blocks_text(all.blocks) + "\n\n";
  const double top = *std::max_element(all.rows.begin(), all.rows.end());
  Table table({{"batch"},
               {"head"},
               {"density"},
               {"by query block, 0.." + fixed(top, 3), Align::kLeft},
               {"blocks", Align::kLeft}});
  for (const HeadCost& cost : selection.heads) {
    table.add_row(
        {std::to_string(cost.batch), std::to_string(cost.head), fixed(cost.density.density, 4),
         sparkline(cost.density.rows, kSparklineWidth, top), blocks_text(cost.density.blocks)});
  }
  return text + table.text();
}

Json selection_json(const Selection& selection) {
  Json heads = Json::array();
  for (const HeadCost& cost : selection.heads) {
    heads.push_back({{"batch", cost.batch},
                     {"head", cost.head},
                     {"density", cost.density.density},
                     {"blocks", blocks_json(cost.density.blocks)},
                     {"density_by_query_block", cost.density.rows}});
  }
  const stages::LevelDensity& all = selection.density;
  return {{"problem", format_problem(selection.problem)},
          {"density", all.density},
          {"selection_cost", all.selection_cost},
          {"blocks", blocks_json(all.blocks)},
          {"heads", heads}};
}

void run_inspect(const InspectCommand& command) {
  std::vector<FileContents> files;
  for (const std::string& path : command.call.files()) files.push_back(contents_of(path));
  std::optional<Selection> selection;
  if (command.selects || command.call.has_call()) selection = select(command.call);
  if (command.is_json) {
    Json document{{"files", Json::array()}};
    for (const FileContents& file : files) document["files"].push_back(contents_json(file));
    if (selection.has_value()) document["selection"] = selection_json(*selection);
    print_json(document);
    return;
  }
  std::string text;
  for (const FileContents& file : files) {
    text += (text.empty() ? "" : "\n") + contents_text(file);
  }
  if (selection.has_value()) text += "\n" + selection_text(*selection);
  print(text);
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("inspect", "tensors of files, and the levels that would be selected");
  const auto options = std::make_shared<InspectCommand>();
  options->call.add_inputs(*command);
  command->add_flag("--select", options->selects,
                    "select levels for q, k and v (implied by every option of a configuration)");
  command->add_flag("--json", options->is_json, "print JSON");
  options->call.add_call(*command);
  options->call.add_machine(*command);
  command->footer(
      "Examples:\n"
      "  psa inspect qkv.safetensors\n"
      "  psa inspect qkv.safetensors --preset balanced --grid 16,32,32");
  command->callback([options] { run_inspect(*options); });
}

}  // namespace psa::cli
