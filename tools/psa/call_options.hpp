// SPDX-License-Identifier: Apache-2.0
#pragma once

// The options that run, compare, inspect, mask and bench share, and the call that they describe.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config_file.hpp"
#include "problem.hpp"
#include "psa/plan.hpp"
#include "settings.hpp"
#include "tensors_in.hpp"

namespace psa::cli {

/// Behind "--", for commands whose --model is a folder.
inline constexpr const char* kConfigPrefix = "--config-";

/// Names of the settings that a model decides itself, since it knows its tokens: grid, text, causal
/// rule, scale; and the seed, which generation uses for its noise.
[[nodiscard]] std::span<const std::string_view> model_settings();

/// Options as typed. Add the groups that a command wants, parse, then read. Must outlive the App.
class CallOptions {
 public:
  /// FILE... and how to read them.
  void add_inputs(CLI::App& command);
  /// --names, --layout, --dtype, --kv-lengths and --layer alone.
  void add_file_options(CLI::App& command);
  /// For commands that take files and other words in one place.
  void set_files(std::vector<std::string> files) { files_ = std::move(files); }
  /// --preset, --config, a flag for each setting (settings.hpp), and what chooses in a file of
  /// several models: --model and --attention, or those words behind another `prefix`.
  void add_call(CLI::App& command, const std::string& prefix = "--");
  /// The part of it that describes self-attention of a model, without model_settings() and with
  /// --config-model for --model.
  void add_attention(CLI::App& command);
  /// --backend, --isa, --threads.
  void add_machine(CLI::App& command);

  /// Sets what --preset or --config gives for layers without settings of their own, if one is
  /// there.
  void apply_base(Problem& problem) const;
  /// Sets what flags give, over what the problem has.
  void apply_flags(Problem& problem) const;

  /// Whether any option of add_call() is given.
  [[nodiscard]] bool has_call() const;
  [[nodiscard]] const std::vector<std::string>& files() const { return files_; }

  [[nodiscard]] InputOptions input_options() const;
  [[nodiscard]] PlanOptions plan_options() const;
  /// Checked against the batch; empty if not given.
  [[nodiscard]] std::vector<std::int32_t> kv_lengths(const ProblemShape& shape) const;
  /// The file of --config; nothing if it is not given.
  [[nodiscard]] std::optional<FileConfig> file_config() const;
  /// What --config gives for the layer of a model that `inputs` are of, which --layer or their
  /// metadata say; nothing without --config, or if it has no `layers`.
  [[nodiscard]] std::optional<Config> layer_config(const AttentionInputs& inputs) const;
  /// Whether the flag of a setting is given.
  [[nodiscard]] bool has_flag(std::string_view setting_name) const;
  /// --config and what was chosen in it, or --preset; empty if neither is given.
  [[nodiscard]] std::string base_name() const;

 private:
  struct Flag {
    CLI::Option* option = nullptr;
    std::string value;
  };

  void add_setting(CLI::App& command, const Setting& setting);
  void add_config(CLI::App& command, const std::string& prefix);
  void apply_flag(const Setting& setting, Problem& problem) const;

  std::vector<std::string> files_;
  std::string names_ = "q,k,v";
  std::string layout_ = "bhld";
  std::string dtype_;
  std::string kv_lengths_;
  std::string layer_;
  std::string config_path_;
  std::string model_;
  std::string attention_;
  std::map<std::string_view, Flag> flags_;  ///< by name of the setting
  std::string backend_ = "auto";
  std::string isa_;
  int threads_ = 0;
};

/// Tensors and the problem that they and the options make: base configuration (of the tensors'
/// layer), then the file's metadata (grid, text, scale), then flags.
struct Call {
  AttentionInputs inputs;
  Problem problem;
  std::vector<std::int32_t> kv_lengths;  ///< empty: all keys
  PlanOptions plan_options;

  /// With `out` and optional pointers left to the caller.
  [[nodiscard]] AttentionIo io() const;
};
[[nodiscard]] Call load_call(const CallOptions& options);

/// Whether a word of the command line is a tensor file rather than a problem.
[[nodiscard]] bool names_tensor_file(std::string_view word);

}  // namespace psa::cli
