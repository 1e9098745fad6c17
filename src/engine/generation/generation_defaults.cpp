// SPDX-License-Identifier: Apache-2.0
#include "engine/generation/generation_defaults.hpp"

#include <algorithm>
#include <array>
#include <string_view>
#include <system_error>
#include <vector>

#include "engine/tensors/json_object.hpp"

namespace psa::engine {
namespace {

constexpr std::array<std::string_view, 8> kKeys{"size",         "steps",        "guidance",
                                                "warmup_steps", "dense_layers", "frames_per_second",
                                                "attention",    "config"};

}  // namespace

GenerationDefaults read_generation_defaults(const std::filesystem::path& model) {
  const std::filesystem::path path = model / kDefaultsFile;
  GenerationDefaults defaults;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return defaults;
  const io::JsonObject file = io::JsonObject::read(path);
  for (const std::string& key : file.keys()) {
    if (std::find(kKeys.begin(), kKeys.end(), key) == kKeys.end()) {
      file.reject(key,
                  "known keys: size, steps, guidance, warmup_steps, dense_layers, "
                  "frames_per_second, attention, config");
    }
  }
  if (const auto size = file.integers("size")) {
    if (size->size() != 3) file.reject("size", "expected [frames, height, width]");
    defaults.size = {(*size)[0], (*size)[1], (*size)[2]};
  }
  defaults.steps = file.integer("steps");
  defaults.guidance = file.number("guidance");
  defaults.warmup_steps = file.integer("warmup_steps");
  defaults.dense_layers = file.integers("dense_layers");
  defaults.frames_per_second = file.integer("frames_per_second");
  defaults.attention = file.text("attention");
  defaults.config = file.text("config");
  if (defaults.attention && defaults.config) {
    file.reject("config", "allowed only without attention");
  }
  return defaults;
}

}  // namespace psa::engine
