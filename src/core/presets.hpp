// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>

#include "psa/config.hpp"
#include "psa/types.hpp"
#include "semantics/density.hpp"

namespace psa::core {

/// A named configuration and what a model adapter needs beside it.
struct PresetEntry {
  const char* name;
  const char* description;
  Config config;
  int warmup_steps;     ///< first denoising steps that run dense
  int divisor_width;    ///< pixels per token
  int divisor_height;   ///< pixels per token
  int divisor_frames;   ///< frames per token
  index_t text_tokens;  ///< in the attention sequence
};

/// Quota budget that reads about `density` of the columns (S-21), the block means of rest = mean
/// included, in the default split over `config.num_levels` levels (S-24). Throws
/// Error(kInvalidArgument) that calls it `name` unless 1/block_kv (rest = mean, linear) or
/// 0 < density <= 1.
[[nodiscard]] semantics::Budget budget_for_density(const Config& config, double density,
                                                   const std::string& name = "density");

/// Our own presets first, then the published ones.
[[nodiscard]] std::span<const PresetEntry> presets();

}  // namespace psa::core
