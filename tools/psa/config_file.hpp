// SPDX-License-Identifier: Apache-2.0
#pragma once

// YAML configuration files: our own schema (docs/cli.md) and the published attention_config.yaml,
// told apart by their content.

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "problem.hpp"

namespace psa::cli {

/// Which entry of a file with several models. Empty: the only model; the model's default.
struct ConfigSelection {
  std::string model;
  std::string attention;
};

struct FileConfig {
  Config config;
  std::map<index_t, Config> layers;  ///< of the model, from 0, that have their own
  TokenLayout layout;  ///< text_tokens and text_side; the grid only if the file gives one
  // What a model adapter needs beside the configuration; only a published file gives divisors.
  std::optional<int> warmup_steps;  ///< first denoising steps that run dense
  index_t divisor_width = 0;        ///< pixels per token
  index_t divisor_height = 0;       ///< pixels per token
  index_t divisor_frames = 0;       ///< frames per token
  std::string origin;               ///< "attention_config.yaml: Wan2.1_1.3b/psa_topk", for reports

  /// Of a layer of the model, or of one that is not known.
  [[nodiscard]] const Config& config_of(std::optional<index_t> layer) const;
};

/// Largest file that is read, in bytes, and deepest nesting.
inline constexpr std::size_t kMaxConfigBytes = 1 << 18;
inline constexpr int kMaxConfigDepth = 16;

/// Throws Error(kInvalidArgument) with `label` and the line at fault: unknown keys (with the
/// nearest known one), values out of range, aliases, nesting beyond kMaxConfigDepth, text that is
/// not YAML.
[[nodiscard]] FileConfig parse_config(std::string_view yaml, const std::string& label,
                                      const ConfigSelection& selection);

/// The same for a file. Throws Error(kIo) if it cannot be read.
[[nodiscard]] FileConfig read_config_file(const std::filesystem::path& path,
                                          const ConfigSelection& selection);

}  // namespace psa::cli
