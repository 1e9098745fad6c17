// SPDX-License-Identifier: Apache-2.0
#include "engine/tensors/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

#include "engine/tensors/printable.hpp"

namespace psa::io {
namespace {

[[noreturn]] void throw_cannot_read(const std::filesystem::path& path, const std::string& reason) {
  throw Error(Status::kIo, "cannot read " + printable(path.native()) + ": " + reason);
}

[[noreturn]] void throw_errno(const std::filesystem::path& path) {
  throw_cannot_read(path, std::generic_category().message(errno));
}

/// Closes its descriptor at the end of the scope; a mapping outlives it.
struct Descriptor {
  int fd;
  explicit Descriptor(int opened) : fd(opened) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

std::unique_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a FIFO that nobody writes to would otherwise wait for ever.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd < 0) throw_errno(path);
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) throw_errno(path);
  if (S_ISDIR(info.st_mode)) throw_cannot_read(path, "is a directory, not a file");
  if (!S_ISREG(info.st_mode)) throw_cannot_read(path, "is not a regular file");

  const auto size = static_cast<std::size_t>(info.st_size);
  if (size == 0) return borrow({}, path.native());  // mmap refuses empty ranges
  void* const address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (address == MAP_FAILED) throw_errno(path);
  return std::unique_ptr<const MappedFile>(
      new MappedFile({static_cast<const std::byte*>(address), size}, path.native(), true));
}

std::unique_ptr<const MappedFile> MappedFile::borrow(std::span<const std::byte> bytes,
                                                     std::string label) {
  return std::unique_ptr<const MappedFile>(new MappedFile(bytes, std::move(label), false));
}

MappedFile::~MappedFile() {
  if (is_mapped_) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

std::span<const std::byte> MappedFile::aligned_data(const TensorInfo& tensor) const {
  const std::span<const std::byte> data = tensor.data;
  if (data.empty()) return {};  // may share its address with the next tensor, so no key for a copy
  const auto alignment = static_cast<std::uintptr_t>(std::max(1, bits_of(tensor.dtype) / 8));
  if (reinterpret_cast<std::uintptr_t>(data.data()) % alignment == 0) return data;
  const std::lock_guard<std::mutex> lock(copies_mutex_);
  std::unique_ptr<std::byte[]>& copy = aligned_copies_[data.data()];
  if (copy == nullptr) {
    // A new byte array is aligned for every fundamental type, hence for every file type.
    std::unique_ptr<std::byte[]> fresh(new std::byte[data.size()]);
    std::copy(data.begin(), data.end(), fresh.get());
    copy = std::move(fresh);
  }
  return {copy.get(), data.size()};
}

void MappedFile::throw_wrong_type(const TensorInfo& tensor, std::size_t element_bytes) const {
  throw Error(Status::kInvalidArgument,
              "tensor " + printable(tensor.name) + " of " + printable(label_) + " is " +
                  std::string(name_of(tensor.dtype)) + "; it cannot be viewed as another type of " +
                  std::to_string(element_bytes) + " bytes per element");
}

}  // namespace psa::io
