// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

namespace psa::cli {

/// A new folder below $TMPDIR (else /tmp) that is removed with all that it holds; only a killed
/// process leaves it behind.
class TemporaryFolder {
 public:
  /// Throws Error(kIo).
  TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder();

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace psa::cli
