// SPDX-License-Identifier: Apache-2.0
#include "engine/tensors/atomic_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <string>
#include <system_error>

#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"

namespace psa::io {
namespace {

constexpr ::mode_t kNewFileMode = 0666;  // less the umask, as for any new file
constexpr ::mode_t kPermissionBits = 07777;

std::filesystem::path sibling_of(const std::filesystem::path& target) {
  // Threads of one process may write the same path; the last commit wins, whole.
  static std::atomic<unsigned> next_number{0};
  std::filesystem::path sibling = target;
  sibling += ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(next_number++);
  return sibling;
}

/// Makes the rename itself durable. Best effort: the new file is complete either way, and some file
/// systems do not let a directory be synchronised.
void sync_directory_of(const std::filesystem::path& target) {
  const std::filesystem::path parent = target.parent_path();
  const int fd = ::open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

}  // namespace

AtomicFile::AtomicFile(const std::filesystem::path& path) : path_(path), target_(path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    // Without a file name ("", "new_folder/") there is nothing to create either.
    if (errno != ENOENT || !path.has_filename()) throw_errno();
    open_sibling();
    return;
  }
  if (!S_ISREG(info.st_mode)) {
    open_in_place();
    return;
  }
  // rename() would replace a write-protected file: it asks only for rights on the directory.
  if (::faccessat(AT_FDCWD, path.c_str(), W_OK, AT_EACCESS) != 0) throw_errno();
  std::error_code unresolved;
  target_ = std::filesystem::canonical(path, unresolved);
  if (unresolved) target_ = path;
  open_sibling();
  // Best effort: a file of another owner is replaced by one with default permissions.
  ::fchmod(fd_, info.st_mode & kPermissionBits);
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!sibling_.empty()) ::unlink(sibling_.c_str());
}

void AtomicFile::open_in_place() {
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd_ < 0) throw_errno();
}

void AtomicFile::open_sibling() {
  std::filesystem::path candidate;
  do {
    candidate = sibling_of(target_);
    fd_ = ::open(candidate.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kNewFileMode);
  } while (fd_ < 0 && errno == EEXIST);  // left behind by a killed process with the same id
  if (fd_ < 0) throw_errno();
  sibling_ = candidate;
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ::ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      throw_errno();
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void AtomicFile::commit() {
  const bool is_in_place = sibling_.empty();
  if (!is_in_place && ::fsync(fd_) != 0) throw_errno();
  close_and_check();
  if (is_in_place) return;
  if (std::rename(sibling_.c_str(), target_.c_str()) != 0) throw_errno();
  sibling_.clear();
  sync_directory_of(target_);
}

void AtomicFile::close_and_check() {
  // Network file systems report a full disk only here. The descriptor is gone even on failure.
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0 && errno != EINTR) throw_errno();
}

void AtomicFile::throw_errno() const {
  const std::string reason = std::generic_category().message(errno);
  throw Error(Status::kIo, "cannot write " + printable(path_.native()) + ": " + reason);
}

void write_file(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  write_file(path, std::as_bytes(std::span(text)));
}

}  // namespace psa::io
