// SPDX-License-Identifier: Apache-2.0
#include "text_file.hpp"

#include <cerrno>
#include <fstream>
#include <system_error>

#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"

namespace psa::cli {

std::string read_beginning(const std::filesystem::path& path, std::size_t limit) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string text(limit, '\0');
  if (file) file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.is_open() || file.bad() || (file.fail() && !file.eof())) {
    throw Error(Status::kIo, "cannot read " + io::printable(path.string()) + ": " +
                                 std::generic_category().message(errno));
  }
  text.resize(static_cast<std::size_t>(file.gcount()));
  return text;
}

}  // namespace psa::cli
