// SPDX-License-Identifier: Apache-2.0
#include "call_options.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

constexpr Words<AxisOrder, 2> kAxisOrders{{{"bhld", AxisOrder::kBhld}, {"blhd", AxisOrder::kBlhd}}};

/// Settings that the metadata of a tensor file may give.
constexpr std::array<std::string_view, 4> kMetadataSettings{"grid", "text", "text_side", "scale"};

constexpr std::array<std::string_view, 8> kModelSettings{
    "grid", "text", "text_side", "text_keys", "text_queries", "causal", "scale", "seed"};

std::string flag_of(const Setting& setting) {
  std::string flag = "--" + std::string(setting.name);
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

const char* group_of(const Setting& setting) {
  switch (setting.group) {
    case SettingGroup::kImportance:
      return "Importance";
    case SettingGroup::kLayout:
      return "Tokens";
    case SettingGroup::kSelection:
      break;
  }
  return "Selection";
}

void apply_metadata(const AttentionInputs& inputs, const CallOptions& options, Problem& problem) {
  for (const std::string_view name : kMetadataSettings) {
    const auto found = inputs.metadata.find(std::string(name));
    if (found == inputs.metadata.end() || options.has_flag(name)) continue;
    find_setting(name)->apply(problem, "metadata " + std::string(name) + " of " + inputs.origin,
                              found->second);
  }
}

}  // namespace

std::span<const std::string_view> model_settings() { return kModelSettings; }

void CallOptions::add_inputs(CLI::App& command) {
  command.add_option("input", files_, "one .safetensors file, or q.npy k.npy v.npy")
      ->type_name("FILE")
      ->required();
  add_file_options(command);
}

void CallOptions::add_file_options(CLI::App& command) {
  constexpr const char* kGroup = "Input";
  command.add_option("--names", names_, "names of the tensors in the file (default q,k,v)")
      ->type_name("Q,K,V")
      ->group(kGroup);
  command.add_option("--layout", layout_, "order of the axes: bhld (default) or blhd")
      ->type_name("bhld|blhd")
      ->group(kGroup);
  command.add_option("--dtype", dtype_, "convert q, k and v on load; bf16 also names 16-bit .npy")
      ->type_name("f32|f16|bf16")
      ->group(kGroup);
  command.add_option("--kv-lengths", kv_lengths_, "valid keys of each batch element")
      ->type_name("N,N,...")
      ->group(kGroup);
  command
      .add_option("--layer", layer_,
                  "which layer of --config FILE the tensors are of (default: their metadata)")
      ->type_name("N")
      ->group(kGroup);
}

void CallOptions::add_setting(CLI::App& command, const Setting& setting) {
  Flag& flag = flags_[setting.name];
  const std::string name = flag_of(setting);
  const std::string help(setting.help);
  flag.option =
      setting.value.empty()
          ? command.add_flag(name, flag.value, help)
          : command.add_option(name, flag.value, help)->type_name(std::string(setting.value));
  flag.option->group(group_of(setting));
}

void CallOptions::add_config(CLI::App& command, const std::string& prefix) {
  constexpr const char* kGroup = "Configuration";
  CLI::Option* preset = flags_["preset"].option;
  preset->group(kGroup);
  CLI::Option* config =
      command.add_option("--config", config_path_, "start from a YAML file (docs/cli.md)")
          ->type_name("FILE")
          ->group(kGroup)
          ->excludes(preset);
  command.add_option(prefix + "model", model_, "entry of a file with several models")
      ->type_name("NAME")
      ->group(kGroup)
      ->needs(config);
  command
      .add_option(prefix + "attention", attention_, "configuration of the model (default: its own)")
      ->type_name("NAME")
      ->group(kGroup)
      ->needs(config);
}

void CallOptions::add_call(CLI::App& command, const std::string& prefix) {
  for (const Setting& setting : settings()) add_setting(command, setting);
  add_config(command, prefix);
}

void CallOptions::add_attention(CLI::App& command) {
  for (const Setting& setting : settings()) {
    const bool is_left_out = std::find(kModelSettings.begin(), kModelSettings.end(),
                                       setting.name) != kModelSettings.end();
    if (!is_left_out) add_setting(command, setting);
  }
  add_config(command, kConfigPrefix);
}

void CallOptions::add_machine(CLI::App& command) {
  constexpr const char* kGroup = "Machine";
  command
      .add_option("--backend", backend_, "auto (default: cpu), cpu, cuda (device 0) or reference")
      ->type_name("NAME")
      ->group(kGroup);
  command.add_option("--isa", isa_, "instruction set that psa doctor lists (default: the best)")
      ->type_name("NAME")
      ->group(kGroup);
  command.add_option("--threads", threads_, "0 (default): one per usable processor")
      ->type_name("N")
      ->check(CLI::Range(0, 1024).description(""))
      ->group(kGroup);
}

bool CallOptions::has_flag(std::string_view setting_name) const {
  const auto flag = flags_.find(setting_name);
  return flag != flags_.end() && flag->second.option->count() > 0;
}

bool CallOptions::has_call() const {
  return !config_path_.empty() || std::any_of(flags_.begin(), flags_.end(), [](const auto& flag) {
    return flag.second.option->count() > 0;
  });
}

void CallOptions::apply_flag(const Setting& setting, Problem& problem) const {
  if (has_flag(setting.name)) {
    setting.apply(problem, flag_of(setting), flags_.at(setting.name).value);
  }
}

std::optional<FileConfig> CallOptions::file_config() const {
  if (config_path_.empty()) return std::nullopt;
  return read_config_file(config_path_, {model_, attention_});
}

std::optional<Config> CallOptions::layer_config(const AttentionInputs& inputs) const {
  constexpr index_t kMaxLayer = std::numeric_limits<std::int32_t>::max();
  const std::optional<FileConfig> file = file_config();
  if (!file && !layer_.empty()) reject({"--layer", layer_}, "needs --config");
  std::optional<index_t> layer;
  const auto found = inputs.metadata.find("layer");
  if (!layer_.empty()) {
    layer = parse_integer({"--layer", layer_}, 0, kMaxLayer);
  } else if (file && !file->layers.empty() && found != inputs.metadata.end()) {
    layer = parse_integer({"metadata layer of " + io::printable(inputs.origin), found->second}, 0,
                          kMaxLayer);
  }
  if (!file || file->layers.empty()) return std::nullopt;
  return file->config_of(layer);
}

void CallOptions::apply_base(Problem& problem) const {
  apply_flag(*find_setting("preset"), problem);
  const std::optional<FileConfig> file = file_config();
  if (!file) return;
  problem.config = file->config;
  problem.layout = file->layout;
}

void CallOptions::apply_flags(Problem& problem) const {
  for (const Setting& setting : settings()) {
    if (setting.name != "preset") apply_flag(setting, problem);
  }
}

std::string CallOptions::base_name() const {
  if (has_flag("preset")) return flags_.at("preset").value;
  const std::optional<FileConfig> file = file_config();
  return file ? file->origin : "";
}

InputOptions CallOptions::input_options() const {
  InputOptions options;
  options.files.assign(files_.begin(), files_.end());
  const std::vector<std::string_view> names = split(names_, ',');
  if (names.size() != 3) reject({"--names", names_}, "expected three names, Q,K,V");
  std::copy(names.begin(), names.end(), options.names.begin());
  options.axis_order = parse_word({"--layout", layout_}, kAxisOrders);
  if (!dtype_.empty()) options.dtype = parse_dtype("--dtype", dtype_);
  return options;
}

PlanOptions CallOptions::plan_options() const {
  PlanOptions options;
  options.backend = backend_;
  options.isa = isa_;
  options.num_threads = threads_;
  return options;
}

std::vector<std::int32_t> CallOptions::kv_lengths(const ProblemShape& shape) const {
  std::vector<std::int32_t> lengths;
  if (kv_lengths_.empty()) return lengths;
  const std::vector<std::string_view> parts = split(kv_lengths_, ',');
  if (static_cast<index_t>(parts.size()) != shape.batch) {
    reject({"--kv-lengths", kv_lengths_},
           "expected one number for each of " + std::to_string(shape.batch) + " batch elements");
  }
  for (const std::string_view part : parts) {
    lengths.push_back(static_cast<std::int32_t>(
        parse_integer({"a number of --kv-lengths", part}, 0, shape.len_kv)));
  }
  return lengths;
}

AttentionIo Call::io() const {
  AttentionIo io;
  io.q = inputs.q;
  io.k = inputs.k;
  io.v = inputs.v;
  io.kv_lengths = kv_lengths.empty() ? nullptr : kv_lengths.data();
  return io;
}

Call load_call(const CallOptions& options) {
  Call call;
  options.apply_base(call.problem);  // before the tensors, since it fails sooner
  call.plan_options = options.plan_options();
  call.inputs = load_inputs(options.input_options());
  call.problem.config = options.layer_config(call.inputs).value_or(call.problem.config);
  call.problem.shape = call.inputs.shape();
  apply_metadata(call.inputs, options, call.problem);
  options.apply_flags(call.problem);
  call.kv_lengths = options.kv_lengths(call.problem.shape);
  return call;
}

bool names_tensor_file(std::string_view word) {
  return word.ends_with(".safetensors") || word.ends_with(".npy");
}

}  // namespace psa::cli
