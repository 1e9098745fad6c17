// SPDX-License-Identifier: Apache-2.0
#include "base64.hpp"

#include <cstdint>
#include <string_view>

namespace psa::cli {

std::string encode_base64(std::span<const std::byte> bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t begin = 0; begin < bytes.size(); begin += 3) {
    const std::size_t count = bytes.size() - begin < 3 ? bytes.size() - begin : 3;
    std::uint32_t group = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      const auto byte = i < count ? std::to_integer<std::uint32_t>(bytes[begin + i]) : 0U;
      group = (group << 8) | byte;
    }
    // n bytes fill n + 1 digits.
    for (std::size_t digit = 0; digit < 4; ++digit) {
      text += digit <= count ? kDigits[(group >> (18 - 6 * digit)) & 63U] : '=';
    }
  }
  return text;
}

}  // namespace psa::cli
