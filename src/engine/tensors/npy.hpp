// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "engine/tensors/mapped_file.hpp"
#include "engine/tensors/tensor_info.hpp"

namespace psa::io {

/// What 16-bit words ('<u2', '<V2') of a .npy file mean. NumPy has no bf16, so such words may be
/// bf16 values or plain integers; only the caller can know.
enum class NpyWords : std::uint8_t {
  kRefuse,
  kBf16,
};

/// An array of a .npy file, versions 1 to 3, read lazily.
///
/// Read are the types <f4, <f2, |u1, |b1, <i4, <i8, and words as NpyWords says. Refused, with
/// Error(kIo) naming the file and the defect: other types, big-endian data, Fortran order, a header
/// that is not exactly the dictionary of the format, and a size that differs from the shape's.
class NpyFile {
 public:
  static NpyFile open(const std::filesystem::path& path, NpyWords words = NpyWords::kRefuse);
  /// The same over memory that the caller keeps alive; `label` stands for the path in messages.
  static NpyFile from_bytes(std::span<const std::byte> bytes, std::string label,
                            NpyWords words = NpyWords::kRefuse);

  /// Its name is the path. A view into the file; valid as long as this object or one that it was
  /// moved to.
  [[nodiscard]] const TensorInfo& tensor() const { return tensor_; }
  /// Its bytes, aligned to its elements (a copy only if the file does not align them).
  [[nodiscard]] std::span<const std::byte> aligned_data() const {
    return file_->aligned_data(tensor_);
  }
  /// Its elements; T as in is_stored_as().
  template <typename T>
  [[nodiscard]] std::span<const T> values() const {
    return file_->values<T>(tensor_);
  }

 private:
  NpyFile(std::unique_ptr<const MappedFile> file, NpyWords words);

  std::unique_ptr<const MappedFile> file_;
  TensorInfo tensor_;
};

/// Writes `tensor` (its name is not used) as .npy version 1 through AtomicFile. BF16 is refused
/// unless `words` is kBf16; it is then stored as '<u2' and can be read back with kBf16 only.
void write_npy(const std::filesystem::path& path, const TensorInfo& tensor,
               NpyWords words = NpyWords::kRefuse);

}  // namespace psa::io
