// SPDX-License-Identifier: Apache-2.0
#include "temporary_folder.hpp"

#include <stdlib.h>  // mkdtemp, which <cstdlib> does not promise

#include <cerrno>
#include <string>
#include <system_error>

#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"

namespace psa::cli {

TemporaryFolder::TemporaryFolder() {
  std::error_code error;
  const std::filesystem::path parent = std::filesystem::temp_directory_path(error);
  std::string pattern = (parent / "psa_XXXXXX").string();
  if (!error && ::mkdtemp(pattern.data()) == nullptr) {
    error.assign(errno, std::generic_category());
  }
  if (error) {
    throw Error(Status::kIo, "cannot make a temporary folder in " +
                                 io::printable(parent.empty() ? "$TMPDIR" : parent.string()) +
                                 ": " + error.message());
  }
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;  // nothing can be done about it here
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace psa::cli
