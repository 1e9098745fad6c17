// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace psa::cli {

/// RFC 4648 base64 with padding, as data: URLs need it.
[[nodiscard]] std::string encode_base64(std::span<const std::byte> bytes);

}  // namespace psa::cli
