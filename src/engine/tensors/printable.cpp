// SPDX-License-Identifier: Apache-2.0
#include "engine/tensors/printable.hpp"

#include <cstddef>

namespace psa::io {
namespace {

constexpr std::size_t kMaxPrintedBytes = 160;

bool is_utf8_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U; }

/// At most kMaxPrintedBytes of `text`, not cut inside a UTF-8 sequence.
std::string_view head_of(std::string_view text) {
  if (text.size() <= kMaxPrintedBytes) return text;
  std::size_t length = kMaxPrintedBytes;
  while (length > 0 && is_utf8_continuation(text[length])) --length;
  return text.substr(0, length);
}

}  // namespace

std::string printable(std::string_view text) {
  constexpr std::string_view kHexDigits = "0123456789abcdef";
  const std::string_view head = head_of(text);
  std::string quoted = "'";
  for (const char c : head) {
    const auto code = static_cast<unsigned char>(c);
    if (code < 0x20U || code == 0x7FU) {
      quoted += "\\x";
      quoted += kHexDigits[code >> 4U];
      quoted += kHexDigits[code & 0xFU];
    } else {
      quoted += c;
    }
  }
  quoted += head.size() < text.size() ? "...'" : "'";
  return quoted;
}

}  // namespace psa::io
