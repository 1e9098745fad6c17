// SPDX-License-Identifier: Apache-2.0
#include "published_config.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>

#include "engine/tensors/printable.hpp"
#include "problem.hpp"
#include "settings.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

using Keys = std::span<const std::string_view>;

constexpr std::array<std::string_view, 4> kModelKeys{"default_attention", "video_scale",
                                                     "text_length", "attention_configs"};
constexpr std::array<std::string_view, 3> kScaleKeys{"width_divisor", "height_divisor",
                                                     "depth_divisor"};
constexpr std::array<std::string_view, 19> kAttentionKeys{
    "type",           "description",      "use_rearrange",    "use_sim_mask",
    "block_size",     "mask_ratios",      "mask_mode",        "attn_impl",
    "tile_size",      "warmup_steps",     "rearrange_method", "verbose",
    "sim_thresholds", "sim_2x_threshold", "sim_4x_threshold", "sim_8x_threshold",
    "text_length",    "enable_logging",   "log_dir"};
constexpr std::array<std::string_view, 3> kBlockKeys{"m", "n", "tile_n"};
constexpr std::array<std::string_view, 3> kSimilarityKeys{"x2", "x4", "x8"};
constexpr std::array<std::string_view, 5> kRatioKeys{"1", "2", "4", "8", "0"};

enum class MaskMode { kTopk, kThreshold, kEnergy };
constexpr Words<MaskMode, 3> kMaskModes{{{"topk", MaskMode::kTopk},
                                         {"thresholdbound", MaskMode::kThreshold},
                                         {"energybound", MaskMode::kEnergy}}};
constexpr Words<bool, 2> kTypes{{{"psa", false}, {"dense", true}}};
constexpr Words<int, 2> kImplementations{{{"new_mask_type", 0}, {"old_mask_type", 1}}};
constexpr Words<Reorder, 4> kMethods{{{"Gilbert", Reorder::kGilbert},
                                      {"STA", Reorder::kTile3d},
                                      {"SemanticAware", Reorder::kKMeans},
                                      {"Hybrid", Reorder::kHybrid}}};

/// A map of the file whose keys are known.
class Section {
 public:
  Section(const YamlNode& node, std::string label, const std::string& name, Keys known)
      : node_(node), label_(std::move(label)) {
    if (!node.is_map()) fail_at(label_, node.line, name + " must be a map");
    for (const YamlEntry& entry : node.entries) {
      if (std::find(known.begin(), known.end(), entry.key) == known.end()) {
        fail_at(label_, entry.line,
                "key " + io::printable(entry.key) + " is not known in " + name +
                    suggestion(entry.key, known));
      }
    }
  }

  [[nodiscard]] const YamlNode* find(std::string_view key) const { return node_.find(key); }
  [[nodiscard]] const std::string& label() const { return label_; }
  [[nodiscard]] int line() const { return node_.line; }

  /// A word or number; `fallback` where the key is missing.
  [[nodiscard]] Given scalar(std::string_view key, std::string_view fallback) const {
    const YamlNode* value = find(key);
    if (value == nullptr) return {place_of(label_, line()) + ": " + std::string(key), fallback};
    return scalar(*value, std::string(key));
  }

  [[nodiscard]] Given scalar(const YamlNode& value, const std::string& key) const {
    if (value.kind != YamlNode::Kind::kScalar) {
      fail_at(label_, value.line, key + " must be one word or number");
    }
    return {place_of(label_, value.line) + ": " + key, value.text};
  }

  /// Numbers of a list of exactly `count`.
  [[nodiscard]] std::vector<Given> list(const YamlNode& value, const std::string& key,
                                        std::size_t count) const {
    if (value.items.size() != count) {
      fail_at(label_, value.line, key + " must be a list of " + std::to_string(count) + " numbers");
    }
    std::vector<Given> items;
    for (const YamlNode& item : value.items) items.push_back(scalar(item, key));
    return items;
  }

 private:
  const YamlNode& node_;
  std::string label_;
};

bool parse_flag(Given given) {
  std::string lower(given.text);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  given.text = lower;
  return parse_switch(given);
}

void read_blocks(const Section& attention, Problem& problem) {
  const YamlNode* node = attention.find("block_size");
  if (node == nullptr) return;
  const Section blocks(*node, attention.label(), "block_size", kBlockKeys);
  const auto read = [&](std::string_view key) {
    return std::to_string(parse_integer(blocks.scalar(key, "128"), 1, kMaxInt));
  };
  (void)parse_integer(blocks.scalar("tile_n", "32"), 1, kMaxInt);  // a choice of their kernel only
  find_setting("block")->apply(problem, place_of(attention.label(), blocks.line()) + ": block_size",
                               read("m") + "x" + read("n"));
}

// {1: [0, a], 2: [a, b], 4: [b, c], 8: [c, d], 0: [d, 1]}: level f takes the share between its two
// bounds. A level that is left out takes nothing.
void read_ratios(const Section& attention, Config& config) {
  const YamlNode* node = attention.find("mask_ratios");
  if (node == nullptr) {
    fail_at(attention.label(), attention.line(), "mask_ratios is missing");
  }
  const Section ratios(*node, attention.label(), "mask_ratios", kRatioKeys);
  config.num_levels = 4;
  double upto = 0;
  for (std::size_t l = 0; l < kRatioKeys.size(); ++l) {
    const std::string key(kRatioKeys[l]);
    const YamlNode* bounds = ratios.find(key);
    if (bounds != nullptr) {
      const std::vector<Given> pair = ratios.list(*bounds, "mask_ratios " + key, 2);
      const double low = parse_number(pair[0], 0, 1);
      if (std::abs(low - upto) > 1e-6) {
        reject(pair[0], "it must begin where the level before ends, at " +
                            float_text(static_cast<float>(upto)));
      }
      upto = parse_number(pair[1], low, 1);
    }
    if (l < 4) config.budget[l] = static_cast<float>(upto);
  }
  config.budget[4] = config.budget[3];
}

void read_similarity(const Section& attention, Config& config) {
  if (!parse_flag(attention.scalar("use_sim_mask", "true"))) return;
  const YamlNode empty{YamlNode::Kind::kMap, "", attention.line(), {}, {}};
  const YamlNode* node = attention.find("sim_thresholds");
  const Section thresholds(node == nullptr ? empty : *node, attention.label(), "sim_thresholds",
                           kSimilarityKeys);
  constexpr std::array<std::string_view, 3> kLongKeys{"sim_2x_threshold", "sim_4x_threshold",
                                                      "sim_8x_threshold"};
  std::array<float, kMaxLevels - 1> cap{};
  for (std::size_t l = 0; l < 3; ++l) {
    const Section& source = attention.find(kLongKeys[l]) != nullptr ? attention : thresholds;
    const std::string_view key = &source == &attention ? kLongKeys[l] : kSimilarityKeys[l];
    if (source.find(key) == nullptr) {
      fail_at(attention.label(), source.line(),
              "use_sim_mask needs sim_thresholds with x2, x4 and x8");
    }
    cap[l] = static_cast<float>(parse_number(source.scalar(key, ""), -1, 1));
  }
  cap[3] = cap[2];
  config.similarity_cap = cap;
}

void read_order(const Section& attention, MaskMode mode, Config& config) {
  const bool is_causal = mode == MaskMode::kEnergy;
  const Given use = attention.scalar("use_rearrange", is_causal ? "false" : "true");
  const Reorder method = parse_word(attention.scalar("rearrange_method", "Gilbert"), kMethods);
  if (const YamlNode* tile = attention.find("tile_size"); tile != nullptr) {
    const std::vector<Given> sizes = attention.list(*tile, "tile_size", 3);
    for (std::size_t axis = 0; axis < 3; ++axis) {
      config.tile[axis] = static_cast<std::int32_t>(parse_integer(sizes[axis], 1, 1 << 16));
    }
  }
  config.reorder = parse_flag(use) ? method : Reorder::kNone;
  if (is_causal && config.reorder != Reorder::kNone) {
    reject(use, "mask_mode energybound is causal and needs the tokens in their own order");
  }
}

Config read_attention(const Section& attention) {
  Problem problem;
  Config& config = problem.config;
  Given type = attention.scalar("type", "psa");
  if (parse_word(type, kTypes)) return dense_problem(problem).config;
  (void)parse_word(attention.scalar("attn_impl", "new_mask_type"), kImplementations);
  const MaskMode mode = parse_word(attention.scalar("mask_mode", "thresholdbound"), kMaskModes);
  config.rule = mode == MaskMode::kTopk ? LevelRule::kQuota : LevelRule::kThreshold;
  config.rest = Rest::kSkip;
  config.importance = Importance::kSampledMax;
  if (mode == MaskMode::kEnergy) {  // only their causal language model path has it
    config.importance = Importance::kAntidiagonal;
    config.causal = true;
    config.sink_blocks = 1;
  }
  read_blocks(attention, problem);
  read_ratios(attention, config);
  read_similarity(attention, config);
  read_order(attention, mode, config);
  return config;
}

std::vector<std::string_view> keys_of(const YamlNode& map) {
  std::vector<std::string_view> keys;
  for (const YamlEntry& entry : map.entries) keys.push_back(entry.key);
  return keys;
}

std::string known_names(const YamlNode& map) {
  constexpr std::size_t kEnough = 400;  // a hostile file may have many
  std::string known;
  for (const YamlEntry& entry : map.entries) {
    if (known.size() > kEnough) return known + ", ...";
    known.append(known.empty() ? "" : ", ").append(io::printable(entry.key));
  }
  return known;
}

// The entry `name` of a map, or a message with the names that exist.
const YamlNode& entry_of(const YamlNode& map, const std::string& name, const std::string& label,
                         const std::string& what) {
  const YamlNode* found = map.find(name);
  if (found != nullptr) return *found;
  fail_at(label, map.line,
          what + " " + io::printable(name) + " is not in the file; it has " + known_names(map) +
              suggestion(name, keys_of(map)));
}

const YamlEntry& select_model(const YamlNode& root, const std::string& label,
                              const std::string& name) {
  if (name.empty() && root.entries.size() == 1) return root.entries.front();
  if (name.empty()) {
    fail_at(label, root.line,
            "the file has several models; choose one with --model: " + known_names(root));
  }
  const YamlNode& value = entry_of(root, name, label, "model");
  return *std::find_if(root.entries.begin(), root.entries.end(),
                       [&](const YamlEntry& entry) { return &entry.value == &value; });
}

void read_divisors(const Section& model, FileConfig& result) {
  const YamlNode* node = model.find("video_scale");
  if (node == nullptr) return;
  const Section scale(*node, model.label(), "video_scale", kScaleKeys);
  result.divisor_width = parse_integer(scale.scalar("width_divisor", "1"), 1, kMaxInt);
  result.divisor_height = parse_integer(scale.scalar("height_divisor", "1"), 1, kMaxInt);
  result.divisor_frames = parse_integer(scale.scalar("depth_divisor", "1"), 1, kMaxInt);
}

const YamlNode& attention_configs(const Section& model) {
  const YamlNode* configs = model.find("attention_configs");
  if (configs == nullptr || !configs->is_map() || configs->entries.empty()) {
    fail_at(model.label(), model.line(), "attention_configs must be a map with at least one entry");
  }
  return *configs;
}

}  // namespace

bool is_published_config(const YamlNode& root) {
  return std::any_of(root.entries.begin(), root.entries.end(), [](const YamlEntry& entry) {
    return entry.value.find("attention_configs") != nullptr;
  });
}

FileConfig translate_published_config(const YamlNode& root, const std::string& label,
                                      const ConfigSelection& selection) {
  for (const YamlEntry& entry : root.entries) {  // a misspelt key must not wait to be selected
    const Section model(entry.value, label, "model " + io::printable(entry.key), kModelKeys);
    for (const YamlEntry& attention : attention_configs(model).entries) {
      (void)Section(attention.value, label, "attention_configs", kAttentionKeys);
    }
  }
  const YamlEntry& chosen = select_model(root, label, selection.model);
  const Section model(chosen.value, label, "model " + io::printable(chosen.key), kModelKeys);
  std::string name = selection.attention;
  if (name.empty()) name = model.scalar("default_attention", "").text;
  const YamlNode& node = entry_of(attention_configs(model), name, label, "attention");
  const Section attention(node, label, "attention_configs", kAttentionKeys);

  FileConfig result;
  result.config = read_attention(attention);
  const Section& text_source = attention.find("text_length") != nullptr ? attention : model;
  result.layout.text_tokens = parse_integer(text_source.scalar("text_length", "0"), 0, kMaxInt);
  if (attention.find("warmup_steps") != nullptr) {
    result.warmup_steps =
        static_cast<int>(parse_integer(attention.scalar("warmup_steps", "0"), 0, kMaxInt));
  }
  read_divisors(model, result);
  result.origin = label + ": " + chosen.key + "/" + name;
  return result;
}

}  // namespace psa::cli
