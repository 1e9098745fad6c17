// SPDX-License-Identifier: Apache-2.0
#include "engine/tensors/json_object.hpp"

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "engine/tensors/mapped_file.hpp"
#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"

namespace psa::io {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxBytes = std::size_t{4} << 20U;

/// The value for a message; long ones are cut by printable(). Nested ones are not written out: they
/// may be deep enough to exhaust the stack.
std::string found(const Json& value) {
  constexpr std::size_t kMostElements = 8;
  const auto is_nested = [](const Json& element) { return element.is_structured(); };
  if (value.is_object()) return "an object";
  if (value.is_array() &&
      (value.size() > kMostElements || std::any_of(value.begin(), value.end(), is_nested))) {
    return "a list of " + std::to_string(value.size());
  }
  return printable(value.dump(-1, ' ', false, Json::error_handler_t::replace));
}

std::optional<index_t> whole_number(const Json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() && !std::in_range<index_t>(value.get<std::uint64_t>())) {
    return std::nullopt;
  }
  return value.get<index_t>();
}

}  // namespace

JsonObject::JsonObject(std::shared_ptr<const Json> root, std::string label)
    : root_(std::move(root)), label_(std::move(label)) {}

JsonObject JsonObject::read(const std::filesystem::path& path) {
  const std::unique_ptr<const MappedFile> file = MappedFile::open(path);
  const std::span<const std::byte> bytes = file->bytes();
  return parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, file->label());
}

JsonObject JsonObject::parse(std::string_view text, std::string label) {
  label = printable(label);
  if (text.size() > kMaxBytes) {
    throw Error(Status::kIo, label + ": " + std::to_string(text.size()) +
                                 " bytes; such a file has at most " + std::to_string(kMaxBytes));
  }
  try {
    auto root = std::make_shared<const Json>(Json::parse(text));
    if (!root->is_object()) throw Error(Status::kIo, label + ": not a JSON object");
    return {std::move(root), std::move(label)};
  } catch (const Json::parse_error& error) {
    throw Error(Status::kIo, label + ": not valid JSON at byte " + std::to_string(error.byte));
  } catch (const Json::out_of_range&) {
    throw Error(Status::kIo, label + ": a number that is too large");
  }
}

const Json* JsonObject::find(std::string_view key) const {
  const auto entry = root_->find(key);
  return entry == root_->end() || entry->is_null() ? nullptr : &*entry;
}

bool JsonObject::has(std::string_view key) const { return find(key) != nullptr; }

void JsonObject::reject(std::string_view key, const std::string& expected, Status status) const {
  const Json* value = find(key);
  throw Error(status, label_ + ": " + printable(key) + " is " +
                          (value == nullptr ? "missing" : found(*value)) + "; " + expected);
}

std::optional<double> JsonObject::number(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) reject(key, "expected a number");
  return value->get<double>();
}

std::optional<index_t> JsonObject::integer(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  const std::optional<index_t> number = whole_number(*value);
  if (!number) reject(key, "expected a whole number");
  return number;
}

std::optional<bool> JsonObject::flag(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) reject(key, "expected true or false");
  return value->get<bool>();
}

std::optional<std::string> JsonObject::text(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) reject(key, "expected a text");
  return value->get<std::string>();
}

std::optional<std::vector<index_t>> JsonObject::integers(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array()) reject(key, "expected a list of whole numbers");
  std::vector<index_t> numbers;
  for (const Json& element : *value) {
    const std::optional<index_t> number = whole_number(element);
    if (!number) reject(key, "expected a list of whole numbers");
    numbers.push_back(*number);
  }
  return numbers;
}

std::optional<std::vector<std::string>> JsonObject::texts(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_array()) reject(key, "expected a list of texts");
  std::vector<std::string> texts;
  for (const Json& element : *value) {
    if (!element.is_string()) reject(key, "expected a list of texts");
    texts.push_back(element.get<std::string>());
  }
  return texts;
}

std::optional<JsonObject> JsonObject::object(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) reject(key, "expected an object");
  return JsonObject({root_, value}, label_ + ": " + printable(key));
}

std::vector<std::string> JsonObject::keys() const {
  std::vector<std::string> names;
  for (const auto& [name, value] : root_->items()) names.push_back(name);
  return names;
}

}  // namespace psa::io
