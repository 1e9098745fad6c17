// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/video/video.hpp"

namespace psa::engine {

/// A video in two colors: a bright square that moves right by two pixels a frame.
inline Video square_video(int frames, int width, int height) {
  std::vector<Image> pictures;
  for (int f = 0; f < frames; ++f) {
    Image picture(width, height, {20, 30, 120});
    fill(picture, 2 * f % (width - 3), height / 3, 4, 4, {250, 200, 10});
    pictures.push_back(std::move(picture));
  }
  return Video(std::move(pictures));
}

/// A video with more than 256 colors: gradients that drift.
inline Video gradient_video(int frames, int width, int height) {
  std::vector<Image> pictures;
  for (int f = 0; f < frames; ++f) {
    Image picture(width, height);
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        picture.set(
            x, y,
            {static_cast<std::uint8_t>(255 * x / width),
             static_cast<std::uint8_t>(255 * y / height), static_cast<std::uint8_t>(128 + 8 * f)});
      }
    }
    pictures.push_back(std::move(picture));
  }
  return Video(std::move(pictures));
}

}  // namespace psa::engine
