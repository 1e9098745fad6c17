// SPDX-License-Identifier: Apache-2.0
#include "yaml_tree.hpp"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <optional>
#include <sstream>
#include <utility>

#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"

namespace psa::cli {
namespace {

constexpr std::size_t kMaxKeys = 1000;

/// Builds the tree from the parser's events.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::string label, int max_depth) : label_(std::move(label)), max_depth_(max_depth) {}

  [[nodiscard]] YamlNode take_root() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    add(leaf(YamlNode::Kind::kNull, mark, ""));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail_at(label_, line_of(mark), "aliases (*name) are not read");
  }
  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    add(leaf(YamlNode::Kind::kScalar, mark, value));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::kList, mark, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::kMap, mark, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    YamlNode node;
    std::optional<std::pair<std::string, int>> key;  // of a map, while its value is awaited
  };

  static int line_of(const YAML::Mark& mark) { return mark.line + 1; }

  static YamlNode leaf(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& text) {
    YamlNode node;
    node.kind = kind;
    node.line = line_of(mark);
    node.text = text;
    return node;
  }

  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != YAML::NullAnchor) {
      fail_at(label_, line_of(mark), "anchors (&name) are not read");
    }
  }

  void open(YamlNode::Kind kind, const YAML::Mark& mark, YAML::anchor_t anchor) {
    refuse_anchor(mark, anchor);
    if (static_cast<int>(open_.size()) >= max_depth_) {
      fail_at(label_, line_of(mark),
              "nested deeper than the allowed " + std::to_string(max_depth_) + " levels");
    }
    open_.push_back({leaf(kind, mark, ""), std::nullopt});
  }

  void close() {
    YamlNode node = std::move(open_.back().node);
    open_.pop_back();
    add(std::move(node));
  }

  void add(YamlNode node) {
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& parent = open_.back();
    if (!parent.node.is_map()) {
      parent.node.items.push_back(std::move(node));
    } else if (parent.key.has_value()) {
      parent.node.entries.push_back({parent.key->first, parent.key->second, std::move(node)});
      parent.key.reset();
    } else {
      set_key(parent, node);
    }
  }

  void set_key(Open& map, const YamlNode& node) const {
    if (node.kind != YamlNode::Kind::kScalar) fail_at(label_, node.line, "a key must be a word");
    if (map.node.entries.size() >= kMaxKeys) {  // finding doubles takes quadratic time
      fail_at(label_, node.line, "more than " + std::to_string(kMaxKeys) + " keys in one map");
    }
    if (map.node.find(node.text) != nullptr) {
      fail_at(label_, node.line, "key " + io::printable(node.text) + " is given twice");
    }
    map.key.emplace(node.text, node.line);
  }

  std::string label_;
  int max_depth_;
  std::vector<Open> open_;
  YamlNode root_;
};

}  // namespace

const YamlNode* YamlNode::find(std::string_view key) const {
  for (const YamlEntry& entry : entries) {
    if (entry.key == key) return &entry.value;
  }
  return nullptr;
}

std::string place_of(const std::string& label, int line) {
  return label + ":" + std::to_string(line);
}

void fail_at(const std::string& label, int line, const std::string& what) {
  throw Error(Status::kInvalidArgument, place_of(label, line) + ": " + what);
}

YamlNode parse_yaml(std::string_view text, const std::string& label, int max_depth) {
  std::istringstream stream{std::string(text)};
  TreeBuilder builder(label, max_depth);
  try {
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) fail_at(label, 1, "the file is empty");
    YamlNode root = builder.take_root();
    if (parser.HandleNextDocument(builder)) {
      fail_at(label, root.line, "more than one document (---) in the file");
    }
    return root;
  } catch (const YAML::Exception& error) {
    fail_at(label, error.mark.line + 1, "not valid YAML: " + error.msg);
  }
}

}  // namespace psa::cli
