// SPDX-License-Identifier: Apache-2.0
#include "engine/video/bitmap_font.hpp"

#include <algorithm>
#include <array>

namespace psa::engine {
namespace {

constexpr std::string_view kCharacters = "0123456789abcdefghijklmnopqrstuvwxyz.%: ";
constexpr std::array<std::uint16_t, 40> kGlyphs{
    0x7B6F, 0x2C97, 0x62A7, 0x628E, 0x5BC9, 0x798E, 0x39EF, 0x7292, 0x7BEF, 0x7BCE,
    0x076B, 0x4D6E, 0x0723, 0x176B, 0x05E3, 0x39E4, 0x3ACE, 0x4D6D, 0x2092, 0x106A,
    0x4BB5, 0x2491, 0x0FED, 0x0D6D, 0x056A, 0x0D74, 0x0759, 0x0BA4, 0x079E, 0x2E91,
    0x0B6B, 0x0B6A, 0x0B7F, 0x0A95, 0x0B54, 0x0EE7, 0x0002, 0x52A5, 0x0410, 0x0000,
};
static_assert(kCharacters.size() == kGlyphs.size());

constexpr int kColumns = 3;
constexpr int kRows = 5;
constexpr int kPitch = kColumns + 1;

}  // namespace

std::optional<std::uint16_t> glyph_of(char character) {
  const bool is_upper = character >= 'A' && character <= 'Z';
  const char drawn = is_upper ? static_cast<char>(character - 'A' + 'a') : character;
  const std::size_t index = kCharacters.find(drawn);
  if (index == std::string_view::npos) return std::nullopt;
  return kGlyphs[index];
}

int text_width(std::string_view text, int size) {
  return static_cast<int>(text.size()) * kPitch * size;
}

int text_height(int size) { return kRows * size; }

void draw_text(Image& image, int x, int y, std::string_view text, Rgb color, int size) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::uint16_t glyph = glyph_of(text[i]).value_or(0);
    const int glyph_x = x + static_cast<int>(i) * kPitch * size;
    for (int dot = 0; dot < kColumns * kRows; ++dot) {
      if (((glyph >> (kColumns * kRows - 1 - dot)) & 1) == 0) continue;
      const int left = glyph_x + dot % kColumns * size;
      const int top = y + dot / kColumns * size;
      if (left + size > image.width() || top + size > image.height()) continue;
      fill(image, left, top, size, size, color);
    }
  }
}

}  // namespace psa::engine
