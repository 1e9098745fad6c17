// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string_view>

#include "base64.hpp"
#include "color.hpp"
#include "picture.hpp"
#include "psa/error.hpp"

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#include <stb/stb_image.h>

namespace psa::cli {
namespace {

std::string base64_of(std::string_view text) {
  return encode_base64(std::as_bytes(std::span(text.data(), text.size())));
}

TEST(Base64, MatchesTheVectorsOfRfc4648) {
  EXPECT_EQ(base64_of(""), "");
  EXPECT_EQ(base64_of("f"), "Zg==");
  EXPECT_EQ(base64_of("fo"), "Zm8=");
  EXPECT_EQ(base64_of("foo"), "Zm9v");
  EXPECT_EQ(base64_of("foob"), "Zm9vYg==");
  EXPECT_EQ(base64_of("fooba"), "Zm9vYmE=");
  EXPECT_EQ(base64_of("foobar"), "Zm9vYmFy");
}

TEST(Base64, KeepsHighBitsAndZeroBytes) {
  EXPECT_EQ(base64_of(std::string_view("\xFF\xEF\xBE\x00", 4)), "/+++AA==");
}

TEST(Color, LightnessOfTheScaleRises) {
  double last = -1;
  for (int i = 0; i <= 32; ++i) {
    const double now = luminance(heat_color(i / 32.0));
    EXPECT_GT(now, last) << "at step " << i;
    last = now;
  }
}

TEST(Color, ScaleClampsAndTakesNanForZero) {
  EXPECT_EQ(heat_color(-3), heat_color(0));
  EXPECT_EQ(heat_color(7), heat_color(1));
  EXPECT_EQ(heat_color(std::numeric_limits<double>::quiet_NaN()), heat_color(0));
}

TEST(Color, FinerLevelsAreBrighter) {
  constexpr std::array<LevelCode, kNumLevelCodes> kCoarseToFine{kSkip, kBlockMean, 5, 4, 3, 2, 1};
  for (std::size_t i = 1; i < kCoarseToFine.size(); ++i) {
    EXPECT_GT(luminance(level_color(kCoarseToFine[i])),
              luminance(level_color(kCoarseToFine[i - 1])))
        << level_text(kCoarseToFine[i]);
  }
}

TEST(Color, IsWrittenAsSixHexDigits) { EXPECT_EQ(css_color({0, 10, 255}), "#000aff"); }

std::uint32_t big_endian(std::span<const std::byte> bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    value = (value << 8) | std::to_integer<std::uint32_t>(bytes[at + i]);
  }
  return value;
}

// CRC-32 as the PNG specification defines it, bit by bit.
std::uint32_t crc_of(std::span<const std::byte> bytes) {
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const std::byte byte : bytes) {
    crc ^= std::to_integer<std::uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0xEDB88320U : 0U);
  }
  return ~crc;
}

Picture striped_picture() {
  Picture picture(37, 5, {1, 2, 3});
  for (int x = 0; x < 37; ++x) picture.set(x, x % 5, {static_cast<std::uint8_t>(x * 7), 200, 0});
  return picture;
}

TEST(Png, HasSignatureHeaderAndChunksWithRightCrc) {
  const std::vector<std::byte> png = encode_png(striped_picture());
  ASSERT_GT(png.size(), 8U);
  EXPECT_EQ(std::memcmp(png.data(), "\x89PNG\r\n\x1a\n", 8), 0);
  std::string chunks;
  std::size_t at = 8;
  while (at + 12 <= png.size()) {
    const std::size_t length = big_endian(png, at);
    ASSERT_LE(at + 12 + length, png.size());
    const auto body = std::span(png).subspan(at + 4, 4 + length);
    EXPECT_EQ(crc_of(body), big_endian(png, at + 8 + length));
    chunks.append(reinterpret_cast<const char*>(body.data()), 4);
    if (at == 8) {
      EXPECT_EQ(big_endian(png, at + 8), 37U);
      EXPECT_EQ(big_endian(png, at + 12), 5U);
    }
    at += 12 + length;
  }
  EXPECT_EQ(at, png.size());
  EXPECT_EQ(chunks.substr(0, 4), "IHDR");
  EXPECT_EQ(chunks.substr(chunks.size() - 4), "IEND");
}

TEST(Png, DecodesToTheSamePixels) {
  const Picture picture = striped_picture();
  const std::vector<std::byte> png = encode_png(picture);
  int width = 0;
  int height = 0;
  int channels = 0;
  const std::unique_ptr<stbi_uc, void (*)(void*)> decoded(
      stbi_load_from_memory(reinterpret_cast<const stbi_uc*>(png.data()),
                            static_cast<int>(png.size()), &width, &height, &channels, 0),
      stbi_image_free);
  ASSERT_NE(decoded, nullptr);
  ASSERT_EQ(width, 37);
  ASSERT_EQ(height, 5);
  ASSERT_EQ(channels, 3);
  EXPECT_EQ(std::memcmp(decoded.get(), picture.bytes().data(), picture.bytes().size()), 0);
}

TEST(Picture, RefusesSidesThatNoFormatHolds) {
  EXPECT_THROW(Picture(0, 3), Error);
  EXPECT_THROW(Picture(3, 65536), Error);
}

TEST(Picture, OfALevelMapHasKeysToTheRightAndQueriesDown) {
  std::vector<LevelCode> codes(2 * 2 * 3, 0);
  const LevelMapView map{codes.data(), 1, 2, 2, 3};
  map.row(0, 1, 1)[2] = 1;
  const Picture picture = level_map_picture(map, 0, 1, 2);
  ASSERT_EQ(picture.width(), 6);
  ASSERT_EQ(picture.height(), 4);
  EXPECT_EQ(picture.at(5, 3), level_color(1));
  EXPECT_EQ(picture.at(4, 2), level_color(1));
  EXPECT_EQ(picture.at(3, 3), level_color(0));
  EXPECT_EQ(picture.at(5, 1), level_color(0));
  EXPECT_EQ(level_map_picture(map, 0, 0, 1).at(2, 1), level_color(0));
}

TEST(Picture, PutsFramesSideBySideInRows) {
  // Three frames of 2 x 4 tokens, two frames in a row: the third one begins the second row.
  std::vector<float> values(24, 0.0F);
  values[2 * 8 + 1 * 4 + 3] = 2.0F;
  const Picture picture = frame_grid_picture(values, {3, 2, 4}, 2, 2.0);
  ASSERT_EQ(picture.width(), 9);
  ASSERT_EQ(picture.height(), 5);
  EXPECT_EQ(picture.at(3, 4), heat_color(1));
  EXPECT_EQ(picture.at(2, 4), heat_color(0));
  EXPECT_NE(picture.at(4, 0), heat_color(0)) << "the gap must differ from a token without error";
}

TEST(Picture, OfTokensWithoutAGridFollowsTheirOrder) {
  const std::vector<float> values{0, 1, 0, 0.5F};
  const Picture picture = token_strip_picture(values, 3, 1.0);
  ASSERT_EQ(picture.width(), 3);
  ASSERT_EQ(picture.height(), 2);
  EXPECT_EQ(picture.at(1, 0), heat_color(1));
  EXPECT_EQ(picture.at(0, 1), heat_color(0.5));
}

}  // namespace
}  // namespace psa::cli
