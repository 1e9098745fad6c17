// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "engine/video/video.hpp"

namespace psa::engine {

/// At most 256 colors that stand for those of a video. A video with no more than 256 colors keeps
/// them all. Otherwise its colors, rounded to 6 bits a channel, are divided by median cut: the
/// group with the largest squared error is halved along its longest axis until there are 256, each
/// of which becomes its mean. No dithering: it flickers from frame to frame and does not compress.
class Palette {
 public:
  explicit Palette(const Video& video);

  [[nodiscard]] const std::vector<Rgb>& colors() const { return colors_; }
  /// The color that stands for one that occurs in the video.
  [[nodiscard]] std::uint8_t index_of(Rgb color) const;

 private:
  bool is_exact_ = true;
  std::vector<Rgb> colors_;
  std::unordered_map<std::uint32_t, std::uint8_t> index_of_key_;
};

}  // namespace psa::engine
