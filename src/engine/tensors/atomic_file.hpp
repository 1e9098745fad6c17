// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

namespace psa::io {

/// An output file that appears whole or not at all. Bytes go to a sibling `<path>.tmp-<pid>-<n>`;
/// commit() flushes it to the disk and renames it over `path`. Until then an existing file is
/// untouched, and the destructor removes the sibling (only a killed process leaves it behind).
///
/// A symbolic link is followed: its target is replaced, not the link. Permission bits of a replaced
/// file are kept; a file that the user may not write is not replaced. A path that is no regular
/// file (/dev/stdout, /dev/null, a FIFO) cannot be replaced and is written in place.
///
/// Every failure throws Error(kIo) that names the path and the reason given by the system.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  /// Appends; unbuffered, so pass large pieces.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  /// Publishes what was written. Nothing can be written afterwards.
  void commit();

 private:
  void open_in_place();
  void open_sibling();
  void close_and_check();
  [[noreturn]] void throw_errno() const;

  std::filesystem::path path_;     ///< as given, for messages
  std::filesystem::path target_;   ///< with symbolic links followed
  std::filesystem::path sibling_;  ///< empty: written in place, or already renamed
  int fd_ = -1;
};

/// Writes a whole file through AtomicFile.
void write_file(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file(const std::filesystem::path& path, std::string_view text);

}  // namespace psa::io
