// SPDX-License-Identifier: Apache-2.0
#include "engine/tensors/safetensors_header.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <utility>

#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"

namespace psa::io {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kMetadataKey = "__metadata__";

[[noreturn]] void reject(const std::string& reason) { throw Error(Status::kIo, reason); }

/// The part of a JSON parser's message that is worth repeating: without its "[...] " prefix and
/// without the text that was read, which may be many megabytes.
std::string reason_in(std::string_view what) {
  constexpr std::size_t kMaxReasonBytes = 120;
  if (const std::size_t prefix = what.find("] "); prefix != std::string_view::npos) {
    what.remove_prefix(prefix + 2);
  }
  what = what.substr(0, what.find("; last read"));
  return std::string(what.substr(0, kMaxReasonBytes));
}

/// What the next token of the header has to be.
enum class Expect : std::uint8_t {
  kRoot,
  kTensorName,
  kTensorObject,
  kTensorField,
  kDType,
  kShapeArray,
  kShapeExtent,
  kOffsetsArray,
  kOffset,
  kMetadataObject,
  kMetadataName,
  kMetadataText,
  kNothing,
};

/// Receives the tokens of the header one by one. Only the three levels of nesting that the format
/// has are accepted, each at its place, so deep or huge values are refused at their first token
/// and no tree of the JSON is ever built.
class HeaderReader final : public nlohmann::json_sax<Json> {
 public:
  SafetensorsHeader take() { return std::move(header_); }

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    unexpected("a number that is no integer below 2^63");
  }
  bool binary(binary_t&) override { unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (expect_ != Expect::kShapeExtent && expect_ != Expect::kOffset) unexpected("a number");
    if (value > static_cast<std::uint64_t>(std::numeric_limits<index_t>::max())) {
      unexpected("the number " + std::to_string(value) + ", which is not below 2^63");
    }
    const auto number = static_cast<index_t>(value);
    if (expect_ == Expect::kShapeExtent) {
      if (entry_.shape.size() == kMaxRank) {
        reject(subject() + " has more than " + std::to_string(kMaxRank) + " axes");
      }
      entry_.shape.push_back(number);
    } else {
      if (num_offsets_ == offsets_.size()) reject(subject() + " has more than two data_offsets");
      offsets_[num_offsets_++] = number;
    }
    return true;
  }

  bool string(string_t& text) override {
    if (expect_ == Expect::kMetadataText) {
      header_.metadata[metadata_name_] = std::move(text);
      expect_ = Expect::kMetadataName;
      return true;
    }
    if (expect_ != Expect::kDType) unexpected("a string");
    const std::optional<FileDType> dtype = file_dtype_of(text);
    if (!dtype) reject(subject() + " has the unknown dtype " + printable(text));
    entry_.dtype = *dtype;
    expect_ = Expect::kTensorField;
    return true;
  }

  bool start_object(std::size_t) override {
    switch (expect_) {
      case Expect::kRoot:
        expect_ = Expect::kTensorName;
        return true;
      case Expect::kTensorObject:
        expect_ = Expect::kTensorField;
        return true;
      case Expect::kMetadataObject:
        expect_ = Expect::kMetadataName;
        return true;
      default:
        unexpected("an object");
    }
  }

  bool key(string_t& name) override {
    switch (expect_) {
      case Expect::kTensorName:
        start_entry(name);
        return true;
      case Expect::kTensorField:
        start_field(name);
        return true;
      default:  // kMetadataName: the parser calls this inside objects only
        if (header_.metadata.contains(name)) {
          reject("__metadata__ has the key " + printable(name) + " twice");
        }
        metadata_name_ = name;
        expect_ = Expect::kMetadataText;
        return true;
    }
  }

  bool end_object() override {
    if (expect_ == Expect::kTensorField) {
      finish_entry();
      expect_ = Expect::kTensorName;
    } else if (expect_ == Expect::kMetadataName) {
      expect_ = Expect::kTensorName;
    } else {
      expect_ = Expect::kNothing;
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (expect_ == Expect::kShapeArray) {
      expect_ = Expect::kShapeExtent;
    } else if (expect_ == Expect::kOffsetsArray) {
      expect_ = Expect::kOffset;
    } else {
      unexpected("an array");
    }
    return true;
  }

  bool end_array() override {
    if (expect_ == Expect::kOffset && num_offsets_ != offsets_.size()) {
      reject(subject() + " has " + std::to_string(num_offsets_) + " data_offsets instead of two");
    }
    expect_ = Expect::kTensorField;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    reject("the header is not valid JSON at its byte " + std::to_string(position) + ": " +
           reason_in(error.what()));
  }

 private:
  enum Field : unsigned { kDTypeField = 1, kShapeField = 2, kOffsetsField = 4, kAllFields = 7 };

  void start_entry(const std::string& name) {
    if (!names_.insert(name).second) reject("the header has the key " + printable(name) + " twice");
    if (name == kMetadataKey) {
      expect_ = Expect::kMetadataObject;
      return;
    }
    entry_ = {};
    entry_.name = name;
    fields_seen_ = 0;
    num_offsets_ = 0;
    expect_ = Expect::kTensorObject;
  }

  void start_field(const std::string& name) {
    unsigned field = 0;
    if (name == "dtype") {
      field = kDTypeField;
      expect_ = Expect::kDType;
    } else if (name == "shape") {
      field = kShapeField;
      expect_ = Expect::kShapeArray;
    } else if (name == "data_offsets") {
      field = kOffsetsField;
      expect_ = Expect::kOffsetsArray;
    } else {
      reject(subject() + " has the unknown key " + printable(name) +
             "; allowed are dtype, shape and data_offsets");
    }
    if ((fields_seen_ & field) != 0) reject(subject() + " has the key '" + name + "' twice");
    fields_seen_ |= field;
  }

  void finish_entry() {
    if (fields_seen_ != kAllFields) {
      reject(subject() + " lacks one of the keys dtype, shape and data_offsets");
    }
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    header_.tensors.push_back(std::move(entry_));
  }

  [[nodiscard]] std::string subject() const { return "tensor " + printable(entry_.name); }

  /// What stands at `expect_` in a valid header.
  [[nodiscard]] std::string expected() const {
    switch (expect_) {
      case Expect::kTensorObject:
        return subject() + " must be an object";
      case Expect::kDType:
        return "dtype of " + subject() + " must be a string";
      case Expect::kShapeArray:
      case Expect::kShapeExtent:
        return "shape of " + subject() + " must be an array of integers >= 0";
      case Expect::kOffsetsArray:
      case Expect::kOffset:
        return "data_offsets of " + subject() + " must be an array of two integers >= 0";
      case Expect::kMetadataObject:
        return "__metadata__ must be an object";
      case Expect::kMetadataText:
        return "__metadata__ entry " + printable(metadata_name_) + " must be a string";
      default:  // the parser reports no value anywhere else
        return "the header must be an object";
    }
  }

  [[noreturn]] void unexpected(const std::string& given) const {
    reject(expected() + ", not " + given);
  }

  SafetensorsHeader header_;
  std::set<std::string> names_;
  Expect expect_ = Expect::kRoot;
  HeaderEntry entry_;  ///< the tensor being read
  unsigned fields_seen_ = 0;
  std::array<index_t, 2> offsets_{};
  std::size_t num_offsets_ = 0;
  std::string metadata_name_;
};

std::string range_text(const HeaderEntry& entry) {
  return "[" + std::to_string(entry.begin) + ", " + std::to_string(entry.end) + ")";
}

void check_entry(const HeaderEntry& entry, index_t data_bytes) {
  const std::string subject = "tensor " + printable(entry.name);
  const std::optional<index_t> needed = storage_bytes(entry.dtype, entry.shape);
  const std::string type =
      "shape " + shape_text(entry.shape) + " of " + std::string(name_of(entry.dtype));
  if (!needed) reject(subject + ": " + type + " is not a whole number of bytes below 2^63");
  if (entry.begin > entry.end) {
    reject(subject + ": data_offsets " + range_text(entry) + " end before they begin");
  }
  if (entry.end > data_bytes) {
    reject(subject + ": data_offsets " + range_text(entry) +
           " pass the end of the data, which is " + std::to_string(data_bytes) + " bytes long");
  }
  if (entry.end - entry.begin != *needed) {
    reject(subject + ": data_offsets " + range_text(entry) + " hold " +
           std::to_string(entry.end - entry.begin) + " bytes, but " + type + " needs " +
           std::to_string(*needed));
  }
}

/// The ranges must tile the data section: no overlap, no hole, nothing after the last tensor.
void check_tiling(std::span<const HeaderEntry> entries, index_t data_bytes) {
  std::vector<std::size_t> by_offset(entries.size());
  std::iota(by_offset.begin(), by_offset.end(), std::size_t{0});
  std::sort(by_offset.begin(), by_offset.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(entries[a].begin, entries[a].end) <
           std::pair(entries[b].begin, entries[b].end);
  });
  index_t covered = 0;
  for (const std::size_t index : by_offset) {
    const HeaderEntry& entry = entries[index];
    if (entry.begin != covered) {
      reject("tensor " + printable(entry.name) + ": data_offsets " + range_text(entry) +
             (entry.begin < covered ? " overlap another tensor" : " leave a hole") +
             "; the tensors before it end at " + std::to_string(covered));
    }
    covered = entry.end;
  }
  if (covered != data_bytes) {
    reject(std::to_string(data_bytes - covered) + " bytes after the last tensor belong to none");
  }
}

}  // namespace

SafetensorsHeader parse_header(std::string_view json, std::uint64_t data_bytes) {
  // The format forbids a byte-order mark and leading space, which the JSON parser would skip; to
  // it, a NUL byte ends the text, which would hide what follows.
  if (json.empty() || json.front() != '{') reject("the header does not begin with '{'");
  if (json.find('\0') != std::string_view::npos) reject("the header holds a NUL byte");
  HeaderReader reader;
  Json::sax_parse(json.begin(), json.end(), &reader);
  SafetensorsHeader header = reader.take();
  const auto data_end = static_cast<index_t>(data_bytes);
  for (const HeaderEntry& entry : header.tensors) check_entry(entry, data_end);
  check_tiling(header.tensors, data_end);
  return header;
}

std::string format_header(std::span<const TensorInfo> tensors, std::span<const std::size_t> order,
                          const Metadata& metadata) {
  std::string json = "{";
  try {
    if (!metadata.empty()) json += Json(kMetadataKey).dump() + ":" + Json(metadata).dump();
    std::size_t begin = 0;
    for (const std::size_t index : order) {
      const TensorInfo& tensor = tensors[index];
      const std::size_t end = begin + tensor.data.size();
      if (json.size() > 1) json += ",";
      json += Json(tensor.name).dump() + ":{\"dtype\":\"";
      json += name_of(tensor.dtype);
      json += "\",\"shape\":" + shape_text(tensor.shape) + ",\"data_offsets\":[" +
              std::to_string(begin) + "," + std::to_string(end) + "]}";
      begin = end;
    }
  } catch (const Json::type_error&) {
    throw Error(Status::kInvalidArgument,
                "a tensor name or metadata text for safetensors is not valid UTF-8");
  }
  return json + "}";
}

}  // namespace psa::io
