// SPDX-License-Identifier: Apache-2.0
#pragma once

// Named configurations: our own and those published for each model.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "psa/c_structs.hpp"
#include "psa/config.hpp"
#include "psa/plan.hpp"
#include "psa/psa.h"

namespace psa {

/// A configuration and what a model adapter needs beside it. The strings are static.
struct Preset {
  std::string_view name;  ///< e.g. "wan2.1-14b"
  std::string_view description;
  Config config;
  int warmup_steps = 0;     ///< first denoising steps that run dense
  int divisor_width = 0;    ///< pixels per token
  int divisor_height = 0;   ///< pixels per token
  int divisor_frames = 0;   ///< frames per token
  index_t text_tokens = 0;  ///< in the attention sequence
};

namespace detail {

[[nodiscard]] inline psa_preset empty_preset() {
  psa_preset preset{};
  preset.struct_size = sizeof(preset);
  return preset;
}

[[nodiscard]] inline Preset from_c(const psa_preset& c) {
  return {.name = c.name,
          .description = c.description,
          .config = from_c(c.config),
          .warmup_steps = c.warmup_steps,
          .divisor_width = c.divisor_width,
          .divisor_height = c.divisor_height,
          .divisor_frames = c.divisor_frames,
          .text_tokens = c.text_tokens};
}

}  // namespace detail

/// `config` with rule = quota and the budget that reads about `density` of the columns (S-21),
/// block means included, in every head: head_density becomes empty. Throws Error(kInvalidArgument)
/// unless 1/block_kv (rest = mean, linear) or 0 < density <= 1.
[[nodiscard]] inline Config with_density(const Config& config, double density) {
  psa_config c = detail::to_c(config);
  detail::check(psa_config_set_density(&c, density));
  return detail::from_c(c);
}

/// All presets, our own first.
[[nodiscard]] inline std::vector<Preset> presets() {
  std::vector<Preset> all;
  for (std::int32_t i = 0; i < psa_preset_count(); ++i) {
    psa_preset c = detail::empty_preset();
    detail::check(psa_preset_at(i, &c));
    all.push_back(detail::from_c(c));
  }
  return all;
}

/// Throws Error(kInvalidArgument) that lists the known names.
[[nodiscard]] inline Preset find_preset(const std::string& name) {
  psa_preset c = detail::empty_preset();
  detail::check(psa_preset_find(name.c_str(), &c));
  return detail::from_c(c);
}

}  // namespace psa
