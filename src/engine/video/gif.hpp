// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/video/video.hpp"

namespace psa::engine {

/// The bytes of an animated .gif that repeats for ever: GIF89a, one Palette for all frames. Times
/// are whole hundredths of a second and at least two of them, which is the most that browsers show:
/// above 50 frames per second the video becomes slower. Equal videos give equal bytes.
[[nodiscard]] std::vector<std::byte> encode_gif(const Video& video, int frames_per_second);

/// LZW as in GIF: `indices` of `bits` bits (2..8) each, as a stream of codes of growing width,
/// least significant bit first.
[[nodiscard]] std::vector<std::uint8_t> encode_lzw(std::span<const std::uint8_t> indices, int bits);

}  // namespace psa::engine
