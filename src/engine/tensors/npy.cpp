// SPDX-License-Identifier: Apache-2.0
#include "engine/tensors/npy.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "engine/tensors/atomic_file.hpp"
#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"

namespace psa::io {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
/// A longer header can only describe a structured type, which is refused anyway.
constexpr std::uint64_t kMaxNpyHeaderBytes = 65535;
constexpr std::size_t kDataAlignment = 64;  // what NumPy itself pads to
constexpr std::string_view kReadableTypes = "<f4, <f2, |u1, |b1, <i4, <i8";

struct NpyType {
  std::string_view descr;
  FileDType dtype;
};

constexpr std::array<NpyType, 6> kNpyTypes{{{"<f4", FileDType::kF32},
                                            {"<f2", FileDType::kF16},
                                            {"|u1", FileDType::kU8},
                                            {"|b1", FileDType::kBool},
                                            {"<i4", FileDType::kI32},
                                            {"<i8", FileDType::kI64}}};

[[noreturn]] void reject(const std::string& reason) { throw Error(Status::kIo, reason); }

FileDType dtype_of_descr(std::string_view descr, NpyWords words) {
  for (const NpyType& type : kNpyTypes) {
    if (type.descr == descr) return type.dtype;
  }
  const std::string subject = "descr is " + printable(descr);
  if (descr == "<u2" || descr == "<V2" || descr == "|V2") {
    if (words == NpyWords::kBf16) return FileDType::kBF16;
    reject(subject + ": 16-bit words, which are read only if they are said to be bf16");
  }
  if (descr.starts_with('>')) {
    reject(subject + ": big-endian; store it little-endian, as with array.astype('<f4')");
  }
  reject(subject + "; psa reads " + std::string(kReadableTypes) +
         ": convert it, as with array.astype('<f4')");
}

struct NpyHeader {
  std::string descr;
  bool is_fortran_order = false;
  std::vector<index_t> shape;
};

/// Reads the header, a Python dictionary such as
/// {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
/// with each of the three keys once, in any order. Nothing else of Python is understood.
class DictScanner {
 public:
  explicit DictScanner(std::string_view text) : text_(text) {}

  NpyHeader scan() {
    expect('{');
    while (!accept('}')) {
      const std::string key = scan_string("a key");
      expect(':');
      scan_value(key);
      if (accept(',')) continue;
      expect('}');
      break;
    }
    skip_space();
    if (!text_.empty()) fail("nothing but space after the dictionary");
    if (seen_ != kAllKeys) reject("the header lacks one of the keys descr, fortran_order, shape");
    return std::move(header_);
  }

 private:
  enum Key : unsigned { kDescr = 1, kFortranOrder = 2, kShape = 4, kAllKeys = 7 };

  void scan_value(const std::string& key) {
    unsigned bit = 0;
    if (key == "descr") {
      bit = kDescr;
      header_.descr = scan_string("the type of a plain array as a string");
    } else if (key == "fortran_order") {
      bit = kFortranOrder;
      header_.is_fortran_order = scan_bool();
    } else if (key == "shape") {
      bit = kShape;
      header_.shape = scan_tuple();
    } else {
      reject("the header has the unknown key " + printable(key));
    }
    if ((seen_ & bit) != 0) reject("the header has the key '" + key + "' twice");
    seen_ |= bit;
  }

  std::string scan_string(const char* what) {
    skip_space();
    if (text_.empty() || (text_[0] != '\'' && text_[0] != '"')) fail(what);
    const std::size_t close = text_.find(text_[0], 1);
    if (close == std::string_view::npos) fail("the end of a string");
    const std::string_view content = text_.substr(1, close - 1);
    if (content.find('\\') != std::string_view::npos) fail("a string without escapes");
    text_.remove_prefix(close + 1);
    return std::string(content);
  }

  bool scan_bool() {
    skip_space();
    for (const bool value : {false, true}) {
      const std::string_view word = value ? "True" : "False";
      if (text_.starts_with(word)) {
        text_.remove_prefix(word.size());
        return value;
      }
    }
    fail("True or False");
  }

  /// (), (2,), (2, 3) or (2, 3,). As in Python, (2) is no tuple.
  std::vector<index_t> scan_tuple() {
    std::vector<index_t> shape;
    expect('(');
    bool ends_in_comma = true;
    while (!accept(')')) {
      if (!ends_in_comma) fail("',' or ')' in the shape");
      if (shape.size() == kMaxRank) {
        reject("the shape has more than " + std::to_string(kMaxRank) + " axes");
      }
      shape.push_back(scan_extent());
      ends_in_comma = accept(',');
    }
    if (shape.size() == 1 && !ends_in_comma) reject("the shape is a number, not a tuple");
    return shape;
  }

  index_t scan_extent() {
    skip_space();
    index_t extent = 0;
    const char* const end = text_.data() + text_.size();
    const bool has_leading_zero = text_.size() > 1 && text_[0] == '0' && text_[1] >= '0';
    if (text_.empty() || text_[0] == '-' || (has_leading_zero && text_[1] <= '9')) {
      fail("an integer >= 0 in the shape");
    }
    const auto [stop, problem] = std::from_chars(text_.data(), end, extent);
    if (problem == std::errc::result_out_of_range) reject("an axis of the shape is not below 2^63");
    if (problem != std::errc{}) fail("an integer >= 0 in the shape");
    text_.remove_prefix(static_cast<std::size_t>(stop - text_.data()));
    return extent;
  }

  void skip_space() {
    while (!text_.empty() && (text_[0] == ' ' || text_[0] == '\n')) text_.remove_prefix(1);
  }

  bool accept(char c) {
    skip_space();
    if (!text_.starts_with(c)) return false;
    text_.remove_prefix(1);
    return true;
  }

  void expect(char c) {
    if (!accept(c)) fail("'" + std::string(1, c) + "'");
  }

  [[noreturn]] void fail(const std::string& wanted) const {
    reject("the header should have " + wanted + " where it has " +
           (text_.empty() ? "ended" : printable(text_.substr(0, 20))));
  }

  std::string_view text_;  ///< what is left to scan
  NpyHeader header_;
  unsigned seen_ = 0;
};

struct Sections {
  std::string_view header;
  std::span<const std::byte> data;
};

Sections split_sections(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::size_t version_at = kMagic.size();
  const std::size_t length_at = version_at + 2;
  if (!text.starts_with(kMagic)) reject("it does not begin with \\x93NUMPY");
  if (text.size() < length_at) reject("it ends inside its version");
  const auto major = static_cast<unsigned>(bytes[version_at]);
  const auto minor = static_cast<unsigned>(bytes[version_at + 1]);
  if (major < 1 || major > 3 || minor != 0) {
    reject("its version is " + std::to_string(major) + "." + std::to_string(minor) +
           "; psa reads 1.0, 2.0 and 3.0");
  }
  const std::size_t length_bytes = major == 1 ? 2 : 4;
  if (text.size() < length_at + length_bytes) reject("it ends inside its header length");
  std::uint64_t header_bytes = 0;
  for (std::size_t i = 0; i < length_bytes; ++i) {
    header_bytes |= static_cast<std::uint64_t>(bytes[length_at + i]) << (8 * i);
  }
  const std::size_t header_at = length_at + length_bytes;
  if (header_bytes > kMaxNpyHeaderBytes) {
    reject("the header length is " + std::to_string(header_bytes) + " bytes; at most " +
           std::to_string(kMaxNpyHeaderBytes) + " are allowed");
  }
  if (header_bytes > text.size() - header_at) {
    reject("the header length is " + std::to_string(header_bytes) + " bytes, but only " +
           std::to_string(text.size() - header_at) + " follow");
  }
  const auto data_at = header_at + static_cast<std::size_t>(header_bytes);
  return {text.substr(header_at, data_at - header_at), bytes.subspan(data_at)};
}

TensorInfo parse_npy(std::span<const std::byte> bytes, NpyWords words) {
  const Sections sections = split_sections(bytes);
  NpyHeader header = DictScanner(sections.header).scan();
  const FileDType dtype = dtype_of_descr(header.descr, words);
  if (header.is_fortran_order) {
    reject("the array is in Fortran order; store it in C order, as with numpy.ascontiguousarray");
  }
  const std::optional<index_t> needed = storage_bytes(dtype, header.shape);
  const std::string type =
      "shape " + shape_text(header.shape) + " of " + std::string(name_of(dtype));
  if (!needed) reject(type + " is not below 2^63 bytes");
  if (static_cast<std::uint64_t>(*needed) != sections.data.size()) {
    reject(type + " needs " + std::to_string(*needed) + " bytes of data, but " +
           std::to_string(sections.data.size()) + " follow the header");
  }
  return {.name = {}, .dtype = dtype, .shape = std::move(header.shape), .data = sections.data};
}

std::string_view descr_to_write(FileDType dtype, NpyWords words) {
  for (const NpyType& type : kNpyTypes) {
    if (type.dtype == dtype) return type.descr;
  }
  if (dtype == FileDType::kBF16) {
    if (words == NpyWords::kBf16) return "<u2";
    throw Error(Status::kUnsupported,
                "npy has no bf16 type; write safetensors, f4 or f2, or ask for bf16 as '<u2'");
  }
  throw Error(Status::kUnsupported, std::string(name_of(dtype)) +
                                        " cannot be written as npy; psa writes " +
                                        std::string(kReadableTypes));
}

/// Magic, version, length and dictionary, padded so that the data are aligned.
std::string format_npy_header(std::string_view descr, std::span<const index_t> shape) {
  std::string dict = "{'descr': '" + std::string(descr) + "', 'fortran_order': False, 'shape': (";
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    dict += (axis == 0 ? "" : ", ") + std::to_string(shape[axis]);
  }
  dict += shape.size() == 1 ? ",), }" : "), }";
  const std::size_t unpadded = kMagic.size() + 4 + dict.size() + 1;  // 4: version and length
  dict.append((kDataAlignment - unpadded % kDataAlignment) % kDataAlignment, ' ');
  dict += '\n';
  std::string header(kMagic);
  header += {'\x01', '\x00'};
  header += static_cast<char>(dict.size() & 0xFFU);
  header += static_cast<char>(dict.size() >> 8U);
  return header + dict;
}

}  // namespace

NpyFile NpyFile::open(const std::filesystem::path& path, NpyWords words) {
  return {MappedFile::open(path), words};
}

NpyFile NpyFile::from_bytes(std::span<const std::byte> bytes, std::string label, NpyWords words) {
  return {MappedFile::borrow(bytes, std::move(label)), words};
}

NpyFile::NpyFile(std::unique_ptr<const MappedFile> file, NpyWords words) : file_(std::move(file)) {
  try {
    tensor_ = parse_npy(file_->bytes(), words);
    tensor_.name = file_->label();
  } catch (const Error& error) {
    throw Error(error.status(),
                printable(file_->label()) + " is not a readable npy file: " + error.what());
  }
}

void write_npy(const std::filesystem::path& path, const TensorInfo& tensor, NpyWords words) {
  const std::string_view descr = descr_to_write(tensor.dtype, words);
  const std::optional<index_t> needed = storage_bytes(tensor.dtype, tensor.shape);
  if (tensor.shape.size() > kMaxRank || !needed ||
      static_cast<std::uint64_t>(*needed) != tensor.data.size()) {
    throw Error(Status::kInvalidArgument,
                "an array for npy has " + std::to_string(tensor.data.size()) +
                    " bytes of data, which do not fit shape " + shape_text(tensor.shape) + " of " +
                    std::string(name_of(tensor.dtype)));
  }
  AtomicFile file(path);
  file.write(format_npy_header(descr, tensor.shape));
  file.write(tensor.data);
  file.commit();
}

}  // namespace psa::io
