// SPDX-License-Identifier: Apache-2.0
#include "config_file.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "engine/tensors/printable.hpp"
#include "published_config.hpp"
#include "settings.hpp"
#include "text_file.hpp"
#include "values.hpp"
#include "yaml_tree.hpp"

namespace psa::cli {
namespace {

constexpr std::string_view kWarmupKey = "warmup_steps";
constexpr std::string_view kLayersKey = "layers";
constexpr index_t kMaxLayer = 999;
/// Settings that no layer can have for itself: what the tokens are, and what replaces it.
constexpr std::array<std::string_view, 4> kModelKeys{"preset", "grid", "text", "text_side"};

// A scalar as it is, a list of scalars with commas between: [.1, .15] is ".1,.15".
std::string value_text(const YamlEntry& entry, const std::string& label) {
  const YamlNode& value = entry.value;
  if (value.kind == YamlNode::Kind::kScalar) return value.text;
  if (value.kind != YamlNode::Kind::kList || value.items.empty()) {
    fail_at(label, entry.line, entry.key + " must be a value or a list of values");
  }
  std::string text;
  for (const YamlNode& item : value.items) {
    if (item.kind != YamlNode::Kind::kScalar) {
      fail_at(label, item.line, entry.key + " must be a list of plain values");
    }
    text.append(text.empty() ? "" : ",").append(item.text);
  }
  return text;
}

/// Settings, and `others`.
void check_keys(const YamlNode& map, std::span<const std::string_view> others,
                const std::string& label) {
  std::vector<std::string_view> known(others.begin(), others.end());
  for (const Setting& setting : settings()) known.push_back(setting.name);
  for (const YamlEntry& entry : map.entries) {
    if (std::find(known.begin(), known.end(), entry.key) != known.end()) continue;
    fail_at(label, entry.line,
            "key " + io::printable(entry.key) + " is not known" + suggestion(entry.key, known));
  }
}

/// Entries of the map that are settings, in the order of the table.
void apply_settings(const YamlNode& map, const std::string& label, Problem& problem) {
  for (const Setting& setting : settings()) {
    for (const YamlEntry& entry : map.entries) {
      if (entry.key != setting.name) continue;
      setting.apply(problem, place_of(label, entry.line) + ": " + entry.key,
                    value_text(entry, label));
    }
  }
}

/// "7" or "2-5": first and last.
std::pair<index_t, index_t> parse_layers(const YamlEntry& entry, const std::string& label) {
  const std::string_view text = entry.key;
  const std::string what = place_of(label, entry.line) + ": a key of layers";
  const std::size_t dash = text.find('-');
  const index_t first = parse_integer({what, text.substr(0, dash)}, 0, kMaxLayer);
  if (dash == std::string_view::npos) return {first, first};
  return {first, parse_integer({what, text.substr(dash + 1)}, first, kMaxLayer)};
}

/// `layers: {0: {density: .2}, 2-5: {rest: skip}}` over `base`.
std::map<index_t, Config> read_layers(const YamlEntry& layers, const Problem& base,
                                      const std::string& label) {
  if (!layers.value.is_map()) {
    fail_at(label, layers.line, "layers must be a map from numbers or ranges to settings");
  }
  std::map<index_t, Config> configs;
  for (const YamlEntry& entry : layers.value.entries) {
    const auto [first, last] = parse_layers(entry, label);
    if (!entry.value.is_map()) {
      fail_at(label, entry.line,
              "layer " + io::printable(entry.key) + " must be a map of settings");
    }
    check_keys(entry.value, {}, label);
    for (const YamlEntry& setting : entry.value.entries) {
      if (std::find(kModelKeys.begin(), kModelKeys.end(), setting.key) == kModelKeys.end())
        continue;
      fail_at(label, setting.line, setting.key + " is the same for all layers");
    }
    Problem problem = base;
    apply_settings(entry.value, label, problem);
    for (index_t layer = first; layer <= last; ++layer) {
      if (configs.emplace(layer, problem.config).second) continue;
      fail_at(label, entry.line, "layer " + std::to_string(layer) + " is given twice");
    }
  }
  return configs;
}

FileConfig translate_own_config(const YamlNode& root, const std::string& label,
                                const ConfigSelection& selection) {
  if (!selection.model.empty() || !selection.attention.empty()) {
    fail_at(label, root.line, "the file has one configuration and no models to choose from");
  }
  constexpr std::array kOthers{kWarmupKey, kLayersKey};
  check_keys(root, kOthers, label);
  Problem problem;
  apply_settings(root, label, problem);
  FileConfig result;
  result.config = problem.config;
  result.layout = problem.layout;
  result.origin = label;
  for (const YamlEntry& entry : root.entries) {
    if (entry.key == kLayersKey) result.layers = read_layers(entry, problem, label);
  }
  if (const YamlNode* warmup = root.find(kWarmupKey); warmup != nullptr) {
    result.warmup_steps = static_cast<int>(parse_integer(
        {place_of(label, warmup->line) + ": " + std::string(kWarmupKey), warmup->text}, 0,
        std::numeric_limits<std::int32_t>::max()));
  }
  return result;
}

}  // namespace

const Config& FileConfig::config_of(std::optional<index_t> layer) const {
  const auto found = layer ? layers.find(*layer) : layers.end();
  return found == layers.end() ? config : found->second;
}

FileConfig parse_config(std::string_view yaml, const std::string& label,
                        const ConfigSelection& selection) {
  if (yaml.size() > kMaxConfigBytes) {
    fail_at(label, 1,
            "the file has " + std::to_string(yaml.size()) + " bytes; at most " +
                std::to_string(kMaxConfigBytes) + " are read");
  }
  const YamlNode root = parse_yaml(yaml, label, kMaxConfigDepth);
  if (!root.is_map()) fail_at(label, root.line, "expected lines of the form key: value");
  if (is_published_config(root)) return translate_published_config(root, label, selection);
  return translate_own_config(root, label, selection);
}

FileConfig read_config_file(const std::filesystem::path& path, const ConfigSelection& selection) {
  const std::string text = read_beginning(path, kMaxConfigBytes + 1);
  return parse_config(text, path.string(), selection);
}

}  // namespace psa::cli
