// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace psa::io {

/// `text` from a file or a path as it may appear in an error message: in single quotes, control
/// characters escaped, cut after 160 bytes. A hostile name can hold neither a line break nor a
/// terminal command, and cannot make a message of many megabytes.
[[nodiscard]] std::string printable(std::string_view text);

}  // namespace psa::io
