// SPDX-License-Identifier: Apache-2.0
#include "config_file.hpp"

#include <cerrno>
#include <fstream>
#include <limits>
#include <sstream>
#include <system_error>
#include <vector>

#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"
#include "published_config.hpp"
#include "settings.hpp"
#include "values.hpp"
#include "yaml_tree.hpp"

namespace psa::cli {
namespace {

constexpr std::string_view kWarmupKey = "warmup_steps";

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

void check_keys(const YamlNode& root, const std::string& label) {
  std::vector<std::string_view> known{kWarmupKey};
  for (const Setting& setting : settings()) known.push_back(setting.name);
  for (const YamlEntry& entry : root.entries) {
    const Setting* setting = find_setting(entry.key);
    if (entry.key == kWarmupKey || (setting != nullptr && setting->name == entry.key)) continue;
    fail_at(label, entry.line,
            "key " + io::printable(entry.key) + " is not known" + suggestion(entry.key, known));
  }
}

FileConfig translate_own_config(const YamlNode& root, const std::string& label,
                                const ConfigSelection& selection) {
  if (!selection.model.empty() || !selection.attention.empty()) {
    fail_at(label, root.line, "the file has one configuration and no models to choose from");
  }
  check_keys(root, label);
  Problem problem;
  for (const Setting& setting : settings()) {
    for (const YamlEntry& entry : root.entries) {
      if (entry.key != setting.name) continue;
      setting.apply(problem, place_of(label, entry.line) + ": " + entry.key,
                    value_text(entry, label));
    }
  }
  FileConfig result;
  result.config = problem.config;
  result.layout = problem.layout;
  result.origin = label;
  if (const YamlNode* warmup = root.find(kWarmupKey); warmup != nullptr) {
    result.warmup_steps = static_cast<int>(parse_integer(
        {place_of(label, warmup->line) + ": " + std::string(kWarmupKey), warmup->text}, 0,
        std::numeric_limits<std::int32_t>::max()));
  }
  return result;
}

}  // namespace

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
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string text(kMaxConfigBytes + 1, '\0');
  if (file) file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad() || (file.fail() && !file.eof())) {
    throw Error(Status::kIo, "cannot read " + io::printable(path.string()) + ": " +
                                 std::generic_category().message(errno));
  }
  text.resize(static_cast<std::size_t>(file.gcount()));
  return parse_config(text, path.string(), selection);
}

}  // namespace psa::cli
