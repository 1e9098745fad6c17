// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace psa::cli {

/// The first `limit` bytes of a file, or all if it is shorter. Throws Error(kIo) if it cannot be
/// read.
[[nodiscard]] std::string read_beginning(const std::filesystem::path& path, std::size_t limit);

}  // namespace psa::cli
