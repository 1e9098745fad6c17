// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "engine/tensors/tensor_info.hpp"
#include "psa/error.hpp"

namespace psa::io {

/// The bytes of a file, mapped read-only: pages are read when they are first touched, so opening a
/// checkpoint larger than memory costs nothing. Every view stays valid as long as the object lives,
/// also if the path is replaced by another file (as AtomicFile does). A program that *shortens* the
/// file in place meanwhile makes later reads fail with SIGBUS, as with any mapping.
/// All member functions may be called from several threads.
class MappedFile {
 public:
  /// Throws Error(kIo) if `path` is not a readable regular file.
  static std::unique_ptr<const MappedFile> open(const std::filesystem::path& path);
  /// The same over bytes that the caller keeps alive; `label` stands for the path in messages.
  static std::unique_ptr<const MappedFile> borrow(std::span<const std::byte> bytes,
                                                  std::string label);

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
  [[nodiscard]] const std::string& label() const { return label_; }

  /// `tensor.data` if it is aligned to its elements, else a copy of it that is (made once and kept;
  /// some writers do not align the data section).
  [[nodiscard]] std::span<const std::byte> aligned_data(const TensorInfo& tensor) const;

  /// The elements of a tensor of this file. Throws Error(kInvalidArgument) if they are not T.
  template <typename T>
  [[nodiscard]] std::span<const T> values(const TensorInfo& tensor) const {
    if (!is_stored_as<T>(tensor.dtype)) throw_wrong_type(tensor, sizeof(T));
    const std::span<const std::byte> data = aligned_data(tensor);
    return {reinterpret_cast<const T*>(data.data()), data.size() / sizeof(T)};
  }

 private:
  MappedFile(std::span<const std::byte> bytes, std::string label, bool is_mapped)
      : bytes_(bytes), label_(std::move(label)), is_mapped_(is_mapped) {}
  [[noreturn]] void throw_wrong_type(const TensorInfo& tensor, std::size_t element_bytes) const;

  std::span<const std::byte> bytes_;
  std::string label_;
  bool is_mapped_;
  mutable std::mutex copies_mutex_;
  mutable std::map<const std::byte*, std::unique_ptr<std::byte[]>> aligned_copies_;
};

}  // namespace psa::io
