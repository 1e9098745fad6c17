// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tensors/mapped_file.hpp"
#include "engine/tensors/safetensors_header.hpp"
#include "engine/tensors/tensor_info.hpp"

namespace psa::io {

/// A .safetensors file, read lazily: open() parses and checks the header and touches no tensor.
///
/// Layout of the format: 8 bytes N (little-endian), N bytes of JSON, then the data section.
/// Refused, with Error(kIo) naming the file and the defect, is everything that the format leaves
/// undefined: a header that is too long, is not UTF-8 JSON, has other keys or duplicate keys;
/// shapes that overflow; byte ranges that do not match dtype x shape, overlap, leave holes, pass
/// the end of the file or end before it.
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::filesystem::path& path);
  /// The same over memory that the caller keeps alive; `label` stands for the path in messages.
  static SafetensorsFile from_bytes(std::span<const std::byte> bytes, std::string label);

  /// In the order of the header. Views into the file; valid as long as this object or one that it
  /// was moved to.
  [[nodiscard]] std::span<const TensorInfo> tensors() const { return tensors_; }
  [[nodiscard]] std::vector<std::string> names() const;
  /// nullptr if there is no such tensor.
  [[nodiscard]] const TensorInfo* find(std::string_view name) const;
  /// Throws Error(kInvalidArgument), listing names that exist, if there is no such tensor.
  [[nodiscard]] const TensorInfo& at(std::string_view name) const;
  [[nodiscard]] const Metadata& metadata() const { return metadata_; }

  /// The bytes of a tensor of this file, aligned to its elements (a copy only if the file does not
  /// align them). Valid like tensors().
  [[nodiscard]] std::span<const std::byte> aligned_data(const TensorInfo& tensor) const {
    return file_->aligned_data(tensor);
  }
  /// Elements of the tensor `name`; T as in is_stored_as().
  template <typename T>
  [[nodiscard]] std::span<const T> values(std::string_view name) const {
    return file_->values<T>(at(name));
  }

 private:
  explicit SafetensorsFile(std::unique_ptr<const MappedFile> file);

  std::unique_ptr<const MappedFile> file_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string_view, std::size_t> index_of_name_;  ///< keys are views of tensors_[i].name
  Metadata metadata_;
};

using ByteSink = std::function<void(std::span<const std::byte>)>;

/// Passes the bytes of a .safetensors file with `tensors` to `sink`, piece by piece and without
/// copying tensor data. Data are ordered by falling element size (else as given), so that every
/// tensor is aligned. Equal arguments give equal bytes. Throws Error(kInvalidArgument) before the
/// first byte if a name is used twice, reserved or not UTF-8, or if data do not match dtype x
/// shape.
void encode_safetensors(std::span<const TensorInfo> tensors, const Metadata& metadata,
                        const ByteSink& sink);

/// encode_safetensors into an AtomicFile.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorInfo> tensors,
                       const Metadata& metadata = {});

}  // namespace psa::io
