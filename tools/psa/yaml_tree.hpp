// SPDX-License-Identifier: Apache-2.0
#pragma once

// A YAML document as a plain tree with line numbers. Narrower than YAML on purpose: one document,
// no anchors or aliases (a few lines can stand for billions of nodes), keys are words, no key
// twice.

#include <string>
#include <string_view>
#include <vector>

namespace psa::cli {

struct YamlEntry;

struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  std::string text;  ///< of a scalar
  int line = 0;      ///< from 1
  std::vector<YamlNode> items;
  std::vector<YamlEntry> entries;

  [[nodiscard]] bool is_map() const { return kind == Kind::kMap; }
  /// The value of a map's key; nullptr if there is none.
  [[nodiscard]] const YamlNode* find(std::string_view key) const;
};

struct YamlEntry {
  std::string key;
  int line = 0;
  YamlNode value;
};

/// Throws Error(kInvalidArgument) "<label>:<line>: <what is wrong>"; nesting deeper than
/// `max_depth` is refused.
[[nodiscard]] YamlNode parse_yaml(std::string_view text, const std::string& label, int max_depth);

/// "file.yaml:12"
[[nodiscard]] std::string place_of(const std::string& label, int line);

[[noreturn]] void fail_at(const std::string& label, int line, const std::string& what);

}  // namespace psa::cli
