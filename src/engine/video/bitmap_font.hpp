// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "engine/video/image.hpp"

namespace psa::engine {

/// The 3x5 dots of a digit, a letter (lower and upper case look the same) or one of " .%:": five
/// rows of three, the top left dot in bit 14. Nothing for other characters.
[[nodiscard]] std::optional<std::uint16_t> glyph_of(char character);

/// Width of `text` with `size` pixels per dot, and its height.
[[nodiscard]] int text_width(std::string_view text, int size);
[[nodiscard]] int text_height(int size);

/// Draws `text` with its top left corner at (x, y); characters without a glyph become blanks, what
/// passes the right or lower side is left out.
void draw_text(Image& image, int x, int y, std::string_view text, Rgb color, int size);

}  // namespace psa::engine
