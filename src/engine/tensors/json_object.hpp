// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "psa/error.hpp"
#include "psa/types.hpp"

namespace psa::io {

/// The small JSON files beside a model's weights (config.json, scheduler_config.json, vocab.json):
/// one object, at most 4 MiB. Every failure throws Error(kIo) that names the file, the key, what
/// was found and what is expected. As in diffusers, a key whose value is null counts as missing.
class JsonObject {
 public:
  static JsonObject read(const std::filesystem::path& path);
  /// The same over text; `label` stands for the path in messages.
  static JsonObject parse(std::string_view text, std::string label);

  [[nodiscard]] bool has(std::string_view key) const;
  /// The value of `key`, or nothing if it is missing. integer() takes numbers without a fraction.
  [[nodiscard]] std::optional<double> number(std::string_view key) const;
  [[nodiscard]] std::optional<index_t> integer(std::string_view key) const;
  [[nodiscard]] std::optional<bool> flag(std::string_view key) const;
  [[nodiscard]] std::optional<std::string> text(std::string_view key) const;
  [[nodiscard]] std::optional<std::vector<index_t>> integers(std::string_view key) const;
  [[nodiscard]] std::optional<std::vector<std::string>> texts(std::string_view key) const;

  /// The object that is the value of `key`, which messages name too, or nothing if it is missing.
  [[nodiscard]] std::optional<JsonObject> object(std::string_view key) const;

  /// In the order of the file.
  [[nodiscard]] std::vector<std::string> keys() const;
  /// The path, or what stands for it, quoted for messages.
  [[nodiscard]] const std::string& label() const { return label_; }
  /// Throws Error(status): "<label>: '<key>' is <what was found>; <expected>".
  [[noreturn]] void reject(std::string_view key, const std::string& expected,
                           Status status = Status::kIo) const;

 private:
  JsonObject(std::shared_ptr<const nlohmann::ordered_json> root, std::string label);
  [[nodiscard]] const nlohmann::ordered_json* find(std::string_view key) const;

  std::shared_ptr<const nlohmann::ordered_json> root_;
  std::string label_;
};

}  // namespace psa::io
