// SPDX-License-Identifier: Apache-2.0
#include "engine/video/image.hpp"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>

#include "psa/error.hpp"

// NOLINTBEGIN(readability-identifier-naming): names that stb asks for
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
// NOLINTEND(readability-identifier-naming)
#include <stb/stb_image_write.h>

namespace psa::engine {
namespace {

constexpr index_t kLongestSide = std::numeric_limits<std::uint16_t>::max();

int checked_side(index_t side) {
  if (side < 1 || side > kLongestSide) {
    throw Error(Status::kInvalidArgument, "a side of the picture is " + std::to_string(side) +
                                              " pixels; allowed are 1 to " +
                                              std::to_string(kLongestSide));
  }
  return static_cast<int>(side);
}

}  // namespace

Image::Image(index_t width, index_t height, Rgb fill_color)
    : width_(checked_side(width)), height_(checked_side(height)) {
  bytes_.resize(3 * static_cast<std::size_t>(width_) * static_cast<std::size_t>(height_));
  fill(*this, 0, 0, width_, height_, fill_color);
}

std::size_t Image::offset(int x, int y) const {
  return 3 * (static_cast<std::size_t>(y) * static_cast<std::size_t>(width_) +
              static_cast<std::size_t>(x));
}

Rgb Image::at(int x, int y) const {
  const std::uint8_t* pixel = bytes_.data() + offset(x, y);
  return {pixel[0], pixel[1], pixel[2]};
}

void Image::set(int x, int y, Rgb color) {
  std::copy(color.begin(), color.end(), bytes_.data() + offset(x, y));
}

Image enlarged(const Image& image, int factor) {
  if (factor < 1) {
    throw Error(Status::kInvalidArgument, "pictures are enlarged " + std::to_string(factor) +
                                              " times; allowed are 1 and more");
  }
  Image result(index_t{image.width()} * factor, index_t{image.height()} * factor);
  for (int y = 0; y < result.height(); ++y) {
    for (int x = 0; x < result.width(); ++x) result.set(x, y, image.at(x / factor, y / factor));
  }
  return result;
}

void paste(Image& image, const Image& part, int x, int y) {
  for (int row = 0; row < part.height(); ++row) {
    for (int column = 0; column < part.width(); ++column) {
      image.set(x + column, y + row, part.at(column, row));
    }
  }
}

void fill(Image& image, int x, int y, int width, int height, Rgb color) {
  for (int row = y; row < y + height; ++row) {
    for (int column = x; column < x + width; ++column) image.set(column, row, color);
  }
}

std::vector<std::byte> encode_png(const Image& image) {
  return encode_png(image.bytes(), image.width(), image.height());
}

std::vector<std::byte> encode_png(std::span<const std::uint8_t> rgb, int width, int height) {
  int length = 0;
  const std::unique_ptr<unsigned char, void (*)(void*)> encoded(
      stbi_write_png_to_mem(rgb.data(), 0, width, height, 3, &length), std::free);
  if (encoded == nullptr) {
    throw Error(Status::kOutOfMemory, "out of memory while encoding a picture of " +
                                          std::to_string(width) + "x" + std::to_string(height) +
                                          " pixels");
  }
  const auto bytes = std::as_bytes(std::span(encoded.get(), static_cast<std::size_t>(length)));
  return {bytes.begin(), bytes.end()};
}

}  // namespace psa::engine
