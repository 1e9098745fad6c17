// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "psa/types.hpp"

namespace psa::engine {

using Rgb = std::array<std::uint8_t, 3>;

/// Row-major 8-bit RGB (sRGB). Sides are 1..65535 pixels, else Error(kInvalidArgument).
class Image {
 public:
  Image(index_t width, index_t height, Rgb fill = {});

  [[nodiscard]] int width() const { return width_; }
  [[nodiscard]] int height() const { return height_; }
  /// [height, width, 3]
  [[nodiscard]] std::span<const std::uint8_t> bytes() const { return bytes_; }
  [[nodiscard]] std::span<std::uint8_t> bytes() { return bytes_; }
  [[nodiscard]] Rgb at(int x, int y) const;
  void set(int x, int y, Rgb color);
  friend bool operator==(const Image&, const Image&) = default;

 private:
  [[nodiscard]] std::size_t offset(int x, int y) const;

  int width_;
  int height_;
  std::vector<std::uint8_t> bytes_;
};

/// Every pixel as a square of `factor` x `factor` pixels. Error(kInvalidArgument) if factor < 1 or
/// the result is too large.
[[nodiscard]] Image enlarged(const Image& image, int factor);

/// Copies `part` into `image` with its top left corner at (x, y); it has to fit.
void paste(Image& image, const Image& part, int x, int y);

/// Fills a rectangle, which has to fit.
void fill(Image& image, int x, int y, int width, int height, Rgb color);

/// The bytes of a .png file. Equal images give equal bytes. Throws Error(kOutOfMemory).
[[nodiscard]] std::vector<std::byte> encode_png(const Image& image);
/// The same of rgb [height, width, 3].
[[nodiscard]] std::vector<std::byte> encode_png(std::span<const std::uint8_t> rgb, int width,
                                                int height);

}  // namespace psa::engine
