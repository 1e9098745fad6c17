// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/wan_config.hpp"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"

namespace psa::engine {
namespace {

using io::JsonObject;
using io::printable;

constexpr const char* kConfigName = "config.json";
constexpr const char* kClassName = "WanTransformer3DModel";
constexpr const char* kQkNorm = "rms_norm_across_heads";
/// Of every count in a config: far above any model, far below what overflows a product of three.
constexpr index_t kMaxCount = 1 << 20;
constexpr index_t kMaxPatch = 64;
constexpr index_t kMaxHeadDim = 256;
constexpr index_t kMinHeadDim = 6;  // two channels for each axis of the rotary embedding

/// A count, if the file gives it.
void read_count(const JsonObject& file, const char* key, index_t least, index_t most,
                index_t& value) {
  const std::optional<index_t> given = file.integer(key);
  if (!given) return;
  if (*given < least || *given > most) {
    file.reject(key, "allowed are whole numbers from " + std::to_string(least) + " to " +
                         std::to_string(most));
  }
  value = *given;
}

void read_patch(const JsonObject& file, std::array<index_t, 3>& value) {
  constexpr const char* kKey = "patch_size";
  const std::optional<std::vector<index_t>> given = file.integers(kKey);
  if (!given) return;
  const bool fits = given->size() == value.size() &&
                    std::all_of(given->begin(), given->end(),
                                [](index_t size) { return size >= 1 && size <= kMaxPatch; });
  if (!fits) {
    file.reject(kKey, "allowed are three whole numbers (frames, height, width) from 1 to " +
                          std::to_string(kMaxPatch));
  }
  std::copy(given->begin(), given->end(), value.begin());
}

void require_missing(const JsonObject& file, const char* key) {
  if (!file.has(key)) return;
  file.reject(key,
              "only text-to-video models, where it is null, are supported (this one also takes an "
              "image)",
              Status::kUnsupported);
}

void require_word(const JsonObject& file, const char* key, const std::string& word, Status status) {
  if (file.text(key).value_or(word) != word) {
    file.reject(key, "only \"" + word + "\" is supported", status);
  }
}

std::string even_text(index_t least, index_t most) {
  return "allowed are even numbers from " + std::to_string(least) + " to " + std::to_string(most);
}

}  // namespace

VideoGrid WanConfig::grid_of(const std::array<index_t, 3>& size) const {
  constexpr std::array<const char*, 3> kAxes{"frames", "height", "width"};
  std::array<index_t, 3> tokens{};
  for (std::size_t axis = 0; axis < size.size(); ++axis) {
    const std::string given =
        std::string("the video's ") + kAxes[axis] + " is " + std::to_string(size[axis]);
    if (size[axis] < 1 || size[axis] % patch_size[axis] != 0) {
      throw Error(Status::kInvalidArgument, given + "; this model needs a positive multiple of " +
                                                std::to_string(patch_size[axis]) +
                                                ", its patch size");
    }
    tokens[axis] = size[axis] / patch_size[axis];
    if (tokens[axis] > rope_max_seq_len) {
      throw Error(Status::kInvalidArgument,
                  given + "; this model knows positions up to " +
                      std::to_string(rope_max_seq_len * patch_size[axis]) +
                      " (rope_max_seq_len is " + std::to_string(rope_max_seq_len) + ")");
    }
  }
  return {tokens[0], tokens[1], tokens[2]};
}

WanConfig parse_wan_config(const JsonObject& file) {
  require_word(file, "_class_name", kClassName, Status::kIo);
  for (const char* key : {"image_dim", "added_kv_proj_dim", "pos_embed_seq_len"}) {
    require_missing(file, key);
  }
  require_word(file, "qk_norm", kQkNorm, Status::kUnsupported);

  WanConfig config;
  read_patch(file, config.patch_size);
  read_count(file, "num_attention_heads", 1, kMaxCount, config.num_attention_heads);
  read_count(file, "attention_head_dim", kMinHeadDim, kMaxHeadDim, config.attention_head_dim);
  if (config.attention_head_dim % 2 != 0) {
    file.reject("attention_head_dim", even_text(kMinHeadDim, kMaxHeadDim));
  }
  read_count(file, "in_channels", 1, kMaxCount, config.in_channels);
  config.out_channels = config.in_channels;  // as in diffusers, where null means the same
  read_count(file, "out_channels", 1, kMaxCount, config.out_channels);
  read_count(file, "text_dim", 1, kMaxCount, config.text_dim);
  read_count(file, "freq_dim", 2, kMaxCount, config.freq_dim);
  if (config.freq_dim % 2 != 0) file.reject("freq_dim", even_text(2, kMaxCount));
  read_count(file, "ffn_dim", 1, kMaxCount, config.ffn_dim);
  read_count(file, "num_layers", 1, kMaxCount, config.num_layers);
  config.cross_attn_norm = file.flag("cross_attn_norm").value_or(config.cross_attn_norm);
  config.eps = file.number("eps").value_or(config.eps);
  if (!(config.eps > 0 && config.eps <= 1))
    file.reject("eps", "allowed are numbers above 0, up to 1");
  read_count(file, "rope_max_seq_len", 1, kMaxCount, config.rope_max_seq_len);
  return config;
}

std::filesystem::path transformer_folder(const std::filesystem::path& dir) {
  for (const std::filesystem::path& folder : {dir, dir / "transformer"}) {
    std::error_code ignored;
    if (std::filesystem::exists(folder / kConfigName, ignored)) return folder;
  }
  throw Error(Status::kIo, printable(dir.native()) +
                               " holds neither config.json nor transformer/config.json: not a "
                               "diffusers checkpoint of a Wan model");
}

WanConfig read_wan_config(const std::filesystem::path& folder) {
  return parse_wan_config(JsonObject::read(folder / kConfigName));
}

}  // namespace psa::engine
