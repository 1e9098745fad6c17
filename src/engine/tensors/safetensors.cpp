// SPDX-License-Identifier: Apache-2.0
#include "engine/tensors/safetensors.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <set>
#include <utility>

#include "engine/tensors/atomic_file.hpp"
#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"

namespace psa::io {
namespace {

constexpr std::size_t kLengthBytes = sizeof(std::uint64_t);
/// The data section begins at a multiple of this: aligned for every dtype and for whole cache
/// lines.
constexpr std::size_t kDataAlignment = 64;
constexpr std::size_t kNamesInMessage = 8;

struct Sections {
  std::string_view json;
  std::span<const std::byte> data;
};

Sections split_sections(std::span<const std::byte> bytes) {
  if (bytes.size() < kLengthBytes) {
    throw Error(Status::kIo, "the file has " + std::to_string(bytes.size()) +
                                 " bytes; 8 bytes of header length come first");
  }
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), kLengthBytes);
  if (header_bytes > kMaxHeaderBytes) {
    throw Error(Status::kIo, "the header length is " + std::to_string(header_bytes) +
                                 " bytes; at most " + std::to_string(kMaxHeaderBytes) +
                                 " are allowed");
  }
  const std::span<const std::byte> rest = bytes.subspan(kLengthBytes);
  if (header_bytes > rest.size()) {
    throw Error(Status::kIo, "the header length is " + std::to_string(header_bytes) +
                                 " bytes, but only " + std::to_string(rest.size()) + " follow");
  }
  const auto json_bytes = static_cast<std::size_t>(header_bytes);
  return {{reinterpret_cast<const char*>(rest.data()), json_bytes}, rest.subspan(json_bytes)};
}

void check_writable(std::span<const TensorInfo> tensors) {
  std::set<std::string_view> names;
  for (const TensorInfo& tensor : tensors) {
    const std::string subject = "tensor " + printable(tensor.name);
    if (tensor.name == "__metadata__") {
      throw Error(Status::kInvalidArgument, subject + " has a name that safetensors reserves");
    }
    if (!names.insert(tensor.name).second) {
      throw Error(Status::kInvalidArgument, subject + " is given twice");
    }
    if (tensor.shape.size() > kMaxRank) {
      throw Error(Status::kInvalidArgument, subject + " has " +
                                                std::to_string(tensor.shape.size()) +
                                                " axes; at most 64 are allowed");
    }
    const std::optional<index_t> needed = storage_bytes(tensor.dtype, tensor.shape);
    if (!needed || static_cast<std::uint64_t>(*needed) != tensor.data.size()) {
      throw Error(Status::kInvalidArgument, subject + " has " + std::to_string(tensor.data.size()) +
                                                " bytes of data, which do not fit shape " +
                                                shape_text(tensor.shape) + " of " +
                                                std::string(name_of(tensor.dtype)));
    }
  }
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  return SafetensorsFile(MappedFile::open(path));
}

SafetensorsFile SafetensorsFile::from_bytes(std::span<const std::byte> bytes, std::string label) {
  return SafetensorsFile(MappedFile::borrow(bytes, std::move(label)));
}

SafetensorsFile::SafetensorsFile(std::unique_ptr<const MappedFile> file) : file_(std::move(file)) {
  try {
    const Sections sections = split_sections(file_->bytes());
    SafetensorsHeader header = parse_header(sections.json, sections.data.size());
    metadata_ = std::move(header.metadata);
    tensors_.reserve(header.tensors.size());
    for (HeaderEntry& entry : header.tensors) {
      const auto begin = static_cast<std::size_t>(entry.begin);
      const auto end = static_cast<std::size_t>(entry.end);
      tensors_.push_back({.name = std::move(entry.name),
                          .dtype = entry.dtype,
                          .shape = std::move(entry.shape),
                          .data = sections.data.subspan(begin, end - begin)});
      index_of_name_.emplace(tensors_.back().name, tensors_.size() - 1);
    }
  } catch (const Error& error) {
    throw Error(error.status(),
                printable(file_->label()) + " is not a valid safetensors file: " + error.what());
  }
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const TensorInfo& tensor : tensors_) names.push_back(tensor.name);
  return names;
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_of_name_.find(name);
  return found == index_of_name_.end() ? nullptr : &tensors_[found->second];
}

const TensorInfo& SafetensorsFile::at(std::string_view name) const {
  if (const TensorInfo* const tensor = find(name)) return *tensor;
  std::string known;
  for (std::size_t i = 0; i < std::min(kNamesInMessage, tensors_.size()); ++i) {
    known += (i == 0 ? "" : ", ") + printable(tensors_[i].name);
  }
  if (tensors_.size() > kNamesInMessage) known += ", ...";
  throw Error(Status::kInvalidArgument,
              printable(file_->label()) + " has no tensor " + printable(name) + "; it has " +
                  std::to_string(tensors_.size()) + (known.empty() ? "" : ": " + known));
}

void encode_safetensors(std::span<const TensorInfo> tensors, const Metadata& metadata,
                        const ByteSink& sink) {
  check_writable(tensors);
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return bits_of(tensors[a].dtype) > bits_of(tensors[b].dtype);
  });

  std::string json = format_header(tensors, order, metadata);
  const std::size_t unpadded = kLengthBytes + json.size();
  json.append((kDataAlignment - unpadded % kDataAlignment) % kDataAlignment, ' ');
  if (json.size() > kMaxHeaderBytes) {
    throw Error(Status::kInvalidArgument, "the safetensors header would have " +
                                              std::to_string(json.size()) + " bytes; at most " +
                                              std::to_string(kMaxHeaderBytes) + " are allowed");
  }
  const std::array<std::uint64_t, 1> length{json.size()};
  sink(std::as_bytes(std::span(length)));
  sink(std::as_bytes(std::span(json)));
  for (const std::size_t index : order) sink(tensors[index].data);
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorInfo> tensors,
                       const Metadata& metadata) {
  AtomicFile file(path);
  encode_safetensors(tensors, metadata,
                     [&](std::span<const std::byte> bytes) { file.write(bytes); });
  file.commit();
}

}  // namespace psa::io
