// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/wan_config.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <system_error>

#include "engine/tensors/mapped_file.hpp"
#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"

namespace psa::engine {
namespace {

using Json = nlohmann::json;
using io::printable;

constexpr const char* kConfigName = "config.json";
constexpr const char* kClassName = "WanTransformer3DModel";
constexpr const char* kQkNorm = "rms_norm_across_heads";
/// Of every count in a config: far above any model, far below what overflows a product of three.
constexpr index_t kMaxCount = 1 << 20;
constexpr index_t kMaxPatch = 64;
constexpr index_t kMaxHeadDim = 256;
constexpr index_t kMinHeadDim = 6;  // two channels for each axis of the rotary embedding

/// A value for a message. Nested ones are not written out: they may be deep enough to exhaust the
/// stack.
std::string text_of(const Json& value) {
  constexpr std::size_t kMaxElements = 8;
  const auto is_flat = [](const Json& element) { return !element.is_structured(); };
  if (!value.is_structured() ||
      (value.size() <= kMaxElements && std::all_of(value.begin(), value.end(), is_flat))) {
    return printable(value.dump());
  }
  return value.is_array() ? "a long array" : "an object";
}

/// Values of a config by key, with messages that name file and key.
class Values {
 public:
  Values(const Json& object, std::string_view label) : object_(object), label_(printable(label)) {}

  [[noreturn]] void reject(const std::string& key, const std::string& allowed,
                           Status status = Status::kIo) const {
    throw Error(status, label_ + ": " + key + " is " + text_of(object_.at(key)) + "; " + allowed);
  }

  [[nodiscard]] bool has(const std::string& key) const {
    const auto found = object_.find(key);
    return found != object_.end() && !found->is_null();
  }

  void read_count(const std::string& key, index_t least, index_t most, index_t& value) const {
    if (!object_.contains(key)) return;
    const Json& given = object_.at(key);
    const bool fits = given.is_number_integer() && given.get<double>() >= double(least) &&
                      given.get<double>() <= double(most);
    if (!fits) {
      reject(key, "allowed are whole numbers from " + std::to_string(least) + " to " +
                      std::to_string(most));
    }
    value = given.get<index_t>();
  }

  void read_patch(const std::string& key, std::array<index_t, 3>& value) const {
    if (!object_.contains(key)) return;
    const Json& given = object_.at(key);
    bool fits = given.is_array() && given.size() == value.size();
    for (std::size_t i = 0; fits && i < value.size(); ++i) {
      fits = given[i].is_number_integer() && given[i].get<double>() >= 1 &&
             given[i].get<double>() <= double(kMaxPatch);
      if (fits) value[i] = given[i].get<index_t>();
    }
    if (!fits) {
      reject(key, "allowed are three whole numbers (frames, height, width) from 1 to " +
                      std::to_string(kMaxPatch));
    }
  }

  void read_flag(const std::string& key, bool& value) const {
    if (!object_.contains(key)) return;
    if (!object_.at(key).is_boolean()) reject(key, "allowed are true and false");
    value = object_.at(key).get<bool>();
  }

  void read_eps(const std::string& key, double& value) const {
    if (!object_.contains(key)) return;
    const Json& given = object_.at(key);
    if (!given.is_number() || given.get<double>() <= 0 || given.get<double>() > 1) {
      reject(key, "allowed are numbers above 0, up to 1");
    }
    value = given.get<double>();
  }

  void require_null(const std::string& key) const {
    if (!has(key)) return;
    reject(key,
           "only text-to-video models, where it is null, are supported (this one also takes an "
           "image)",
           Status::kUnsupported);
  }

  void require_word(const std::string& key, const std::string& word, Status status) const {
    if (!object_.contains(key) || object_.at(key) == word) return;
    reject(key, "only \"" + word + "\" is supported", status);
  }

 private:
  const Json& object_;
  std::string label_;
};

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

WanConfig parse_wan_config(std::string_view json, std::string_view label) {
  const Json object = Json::parse(json, nullptr, false);
  if (!object.is_object()) {
    throw Error(Status::kIo, printable(label) + " is not a JSON object");
  }
  const Values values(object, label);
  values.require_word("_class_name", kClassName, Status::kIo);
  for (const char* key : {"image_dim", "added_kv_proj_dim", "pos_embed_seq_len"}) {
    values.require_null(key);
  }
  values.require_word("qk_norm", kQkNorm, Status::kUnsupported);

  WanConfig config;
  values.read_patch("patch_size", config.patch_size);
  values.read_count("num_attention_heads", 1, kMaxCount, config.num_attention_heads);
  values.read_count("attention_head_dim", kMinHeadDim, kMaxHeadDim, config.attention_head_dim);
  if (config.attention_head_dim % 2 != 0) {
    values.reject("attention_head_dim", even_text(kMinHeadDim, kMaxHeadDim));
  }
  values.read_count("in_channels", 1, kMaxCount, config.in_channels);
  config.out_channels = config.in_channels;  // as in diffusers, where null means the same
  if (values.has("out_channels")) {
    values.read_count("out_channels", 1, kMaxCount, config.out_channels);
  }
  values.read_count("text_dim", 1, kMaxCount, config.text_dim);
  values.read_count("freq_dim", 2, kMaxCount, config.freq_dim);
  if (config.freq_dim % 2 != 0) values.reject("freq_dim", even_text(2, kMaxCount));
  values.read_count("ffn_dim", 1, kMaxCount, config.ffn_dim);
  values.read_count("num_layers", 1, kMaxCount, config.num_layers);
  values.read_flag("cross_attn_norm", config.cross_attn_norm);
  values.read_eps("eps", config.eps);
  values.read_count("rope_max_seq_len", 1, kMaxCount, config.rope_max_seq_len);
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
  const std::filesystem::path path = folder / kConfigName;
  const std::unique_ptr<const io::MappedFile> file = io::MappedFile::open(path);
  const std::span<const std::byte> bytes = file->bytes();
  return parse_wan_config({reinterpret_cast<const char*>(bytes.data()), bytes.size()},
                          path.native());
}

}  // namespace psa::engine
