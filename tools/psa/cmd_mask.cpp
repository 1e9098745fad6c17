// SPDX-License-Identifier: Apache-2.0
// psa mask: a level map as a picture.

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "call_options.hpp"
#include "commands.hpp"
#include "contact_sheet.hpp"
#include "engine/tensors/atomic_file.hpp"
#include "level_file.hpp"
#include "level_summary.hpp"
#include "output.hpp"
#include "picture.hpp"
#include "placement.hpp"
#include "psa/error.hpp"
#include "psa/psa.hpp"
#include "tensors_out.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

struct MaskCommand {
  CallOptions call;
  std::string out;
  int head = -1;
  int batch = 0;
  int zoom = 0;
};

LevelMap selected_levels(const CallOptions& options) {
  const Call call = load_call(options);
  const ProblemShape& shape = call.problem.shape;
  const Plan plan = make_plan(call.problem, call.plan_options);
  LevelMap levels(shape.batch, shape.heads_q, plan.num_q_blocks(), plan.num_kv_blocks());
  select_levels(plan, PlacedInputs(call.io(), device_of(call.plan_options)), levels.view());
  return levels;
}

LevelMap levels_of(const CallOptions& options) {
  const std::vector<std::string>& files = options.files();
  if (files.size() == 1 && is_level_file(files.front())) return load_levels(files.front());
  return selected_levels(options);
}

std::vector<SheetHead> chosen_heads(const MaskCommand& command, const LevelMapView& map) {
  if (command.batch >= map.batch) {
    reject({"--batch", std::to_string(command.batch)},
           "allowed: 0.." + std::to_string(map.batch - 1));
  }
  if (command.head >= map.heads) {
    reject({"--head", std::to_string(command.head)},
           "allowed: 0.." + std::to_string(map.heads - 1));
  }
  if (command.head >= 0) return {{command.batch, command.head}};
  std::vector<SheetHead> heads;
  for (index_t h = 0; h < map.heads; ++h) heads.push_back({command.batch, h});
  return heads;
}

void run_mask(const MaskCommand& command) {
  if (std::filesystem::path(command.out).extension() != ".png") {
    reject({"--out", command.out}, "allowed: names that end in .png");
  }
  check_output_writable(command.out);
  LevelMap levels = levels_of(command.call);
  const LevelMapView map = levels.view();
  const std::vector<SheetHead> heads = chosen_heads(command, map);
  const int scale = command.zoom > 0 ? command.zoom : default_scale(map);
  const Picture picture = contact_sheet(map, heads, scale);
  io::write_file(command.out, encode_png(picture));
  const auto entries = static_cast<std::size_t>(map.size());
  print(command.out + ": " + std::to_string(heads.size()) + " heads, " +
        std::to_string(picture.width()) + "x" + std::to_string(picture.height()) + " pixels\n" +
        blocks_text(count_blocks({map.data, entries})) + "\n");
}

}  // namespace

void add_mask_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("mask", "the level map as a PNG picture");
  const auto options = std::make_shared<MaskCommand>();
  options->call.add_inputs(*command);
  command->get_option("input")->description(
      "one .safetensors file, or q.npy k.npy v.npy, or a level map of psa run --levels-out");
  constexpr const char* kGroup = "Output";
  command->add_option("-o,--out", options->out, "the picture, .png")
      ->type_name("FILE")
      ->required()
      ->group(kGroup);
  command->add_option("--head", options->head, "this head alone (default: all on one sheet)")
      ->type_name("N")
      ->check(CLI::Range(0, 1 << 30).description(""))
      ->group(kGroup);
  command->add_option("--batch", options->batch, "batch element (default 0)")
      ->type_name("N")
      ->check(CLI::Range(0, 1 << 30).description(""))
      ->group(kGroup);
  command->add_option("--zoom", options->zoom, "pixels per block (default: about 256 per head)")
      ->type_name("N")
      ->check(CLI::Range(1, 64).description(""))
      ->group(kGroup);
  options->call.add_call(*command);
  options->call.add_machine(*command);
  command->footer(
      "Examples:\n"
      "  psa mask qkv.safetensors -o mask.png --preset balanced --grid 16,32,32\n"
      "  psa mask levels.npy -o head3.png --head 3 --zoom 4");
  command->callback([options] { run_mask(*options); });
}

}  // namespace psa::cli
