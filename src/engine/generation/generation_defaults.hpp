// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "psa/types.hpp"

namespace psa::engine {

inline constexpr const char* kDefaultsFile = "psa.json";

/// How a checkpoint is best sampled, measured by whoever made it: the optional file psa.json beside
/// the weights. What it does not say stays with the program.
struct GenerationDefaults {
  std::optional<std::array<index_t, 3>> size;  ///< "size": [frames, height, width]
  std::optional<index_t> steps;                ///< "steps"
  std::optional<double> guidance;              ///< "guidance"
  std::optional<index_t> warmup_steps;         ///< "warmup_steps": first steps with dense attention
  std::optional<std::vector<index_t>> dense_layers;  ///< "dense_layers": numbers, from 0
  std::optional<index_t> frames_per_second;          ///< "frames_per_second"
  /// "attention": settings of problem strings (docs/cli.md), such as "order=gilbert density=.15".
  std::optional<std::string> attention;
  /// "config" in its place: a configuration file beside psa.json, as psa tune writes it.
  std::optional<std::string> config;
};

/// Reads `<model>/psa.json`; nothing is set if there is no such file. Throws Error(kIo) for a file
/// that is not valid, a value of the wrong type, an unknown key, or attention and config at once,
/// naming it.
[[nodiscard]] GenerationDefaults read_generation_defaults(const std::filesystem::path& model);

}  // namespace psa::engine
