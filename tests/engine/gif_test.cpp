// SPDX-License-Identifier: Apache-2.0
#include "engine/video/gif.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "engine/sample_video.hpp"
#include "engine/video/palette.hpp"
#include "engine/video/quality.hpp"

namespace psa::engine {
namespace {

using testing::Each;
using testing::ElementsAre;

/// Decodes strictly: every code has the width that the format gives it, the end code comes last.
std::vector<std::uint8_t> decode_lzw(std::span<const std::uint8_t> bytes, int bits) {
  const std::uint32_t clear = 1U << static_cast<unsigned>(bits);
  std::vector<std::vector<std::uint8_t>> strings;
  unsigned width = 0;
  const auto reset = [&] {
    strings.assign(clear + 2, {});
    for (std::uint32_t i = 0; i < clear; ++i) strings[i] = {static_cast<std::uint8_t>(i)};
    width = static_cast<unsigned>(bits) + 1;
  };
  reset();
  std::vector<std::uint8_t> indices;
  std::vector<std::uint8_t> last;
  for (std::size_t at = 0;;) {
    std::uint32_t code = 0;
    for (unsigned bit = 0; bit < width; ++bit, ++at) {
      if (at / 8 >= bytes.size()) throw std::runtime_error("no end code");
      code |= (static_cast<std::uint32_t>(bytes[at / 8]) >> (at % 8) & 1U) << bit;
    }
    if (code == clear + 1) {
      if ((at + 7) / 8 != bytes.size()) throw std::runtime_error("bytes after the end code");
      return indices;
    }
    if (code == clear) {
      reset();
      last.clear();
      continue;
    }
    std::vector<std::uint8_t> text;
    if (code < strings.size()) {
      text = strings[code];
    } else if (code == strings.size() && !last.empty()) {
      text = last;
      text.push_back(last[0]);
    } else {
      throw std::runtime_error("a code without a string");
    }
    if (!last.empty() && strings.size() < 4096) {
      last.push_back(text[0]);
      strings.push_back(last);
      if (strings.size() == 1U << width && width < 12) ++width;
    }
    indices.insert(indices.end(), text.begin(), text.end());
    last = text;
  }
}

struct DecodedGif {
  std::vector<Image> frames;
  std::vector<int> hundredths;
  int repeats = -1;
};

/// Reads what encode_gif() may write: a global palette, full frames.
class GifReader {
 public:
  explicit GifReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  DecodedGif read() {
    DecodedGif gif;
    EXPECT_EQ(text(6), "GIF89a");
    const int width = word();
    const int height = word();
    const int flags = byte();
    skip(2);
    std::vector<Rgb> palette(std::size_t{2} << (flags & 7));
    for (Rgb& color : palette) {
      for (std::uint8_t& channel : color) channel = static_cast<std::uint8_t>(byte());
    }
    while (true) {
      const int kind = byte();
      if (kind == 0x3B) break;
      if (kind == 0x21) {
        read_extension(gif);
      } else {
        EXPECT_EQ(kind, 0x2C);
        skip(9);
        const int bits = byte();
        const std::vector<std::uint8_t> indices = decode_lzw(blocks(), bits);
        Image frame(width, height);
        EXPECT_EQ(static_cast<int>(indices.size()), width * height);
        for (std::size_t i = 0; i < indices.size(); ++i) {
          const int pixel = static_cast<int>(i);
          frame.set(pixel % width, pixel / width, palette.at(indices[i]));
        }
        gif.frames.push_back(frame);
      }
    }
    EXPECT_EQ(at_, bytes_.size());
    return gif;
  }

 private:
  void read_extension(DecodedGif& gif) {
    if (byte() == 0xF9) {
      skip(2);
      gif.hundredths.push_back(word());
      skip(2);
    } else {
      skip(1);
      EXPECT_EQ(text(11), "NETSCAPE2.0");
      skip(2);
      gif.repeats = word();
      skip(1);
    }
  }
  int byte() { return std::to_integer<int>(bytes_[at_++]); }
  int word() {
    const int low = byte();
    return low + 256 * byte();
  }
  void skip(std::size_t count) { at_ += count; }
  std::string text(std::size_t count) {
    std::string characters;
    for (std::size_t i = 0; i < count; ++i) characters += static_cast<char>(byte());
    return characters;
  }
  std::vector<std::uint8_t> blocks() {
    std::vector<std::uint8_t> data;
    for (int size = byte(); size != 0; size = byte()) {
      for (int i = 0; i < size; ++i) data.push_back(static_cast<std::uint8_t>(byte()));
    }
    return data;
  }

  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
};

DecodedGif decode(const std::vector<std::byte>& bytes) { return GifReader(bytes).read(); }

TEST(Lzw, EveryLengthComesBack) {
  // Every place where codes widen or the dictionary is cleared is the end of some input.
  std::uint32_t state = 1;
  std::vector<std::uint8_t> indices;
  for (int i = 0; i < 700; ++i) {
    state = state * 1664525U + 1013904223U;
    indices.push_back(static_cast<std::uint8_t>(state >> 30U));
    ASSERT_EQ(decode_lzw(encode_lzw(indices, 2), 2), indices) << i;
  }
  EXPECT_TRUE(decode_lzw(encode_lzw({}, 8), 8).empty());
}

TEST(Lzw, FullDictionariesAreCleared) {
  std::uint32_t state = 1;
  std::vector<std::uint8_t> indices;
  for (int i = 0; i < 20000; ++i) {
    state = state * 1664525U + 1013904223U;
    indices.push_back(static_cast<std::uint8_t>(state >> 24U));
    const bool is_near_full = i > 3700 && i < 4200;
    if (is_near_full) {
      ASSERT_EQ(decode_lzw(encode_lzw(indices, 8), 8), indices) << i;
    }
  }
  EXPECT_EQ(decode_lzw(encode_lzw(indices, 8), 8), indices);
  const std::vector<std::uint8_t> same(100000, 3);
  const std::vector<std::uint8_t> encoded = encode_lzw(same, 2);
  EXPECT_EQ(decode_lzw(encoded, 2), same);
  EXPECT_LT(encoded.size(), 1000U);
}

TEST(Gif, FewColorsComeBackExactly) {
  const Video video = square_video(5, 23, 17);
  const DecodedGif gif = decode(encode_gif(video, 8));
  EXPECT_EQ(Video(gif.frames), video);
  EXPECT_EQ(gif.repeats, 0) << "for ever";
  EXPECT_THAT(gif.hundredths, ElementsAre(13, 12, 13, 12, 13));
}

TEST(Gif, OneColorAndExactly256ColorsComeBackExactly) {
  const Video plain({Image(3, 2, {1, 2, 3})});
  EXPECT_EQ(Video(decode(encode_gif(plain, 1)).frames), plain);
  Image image(16, 16);
  for (int i = 0; i < 256; ++i) {
    image.set(i % 16, i / 16, {static_cast<std::uint8_t>(i), 0, static_cast<std::uint8_t>(i / 2)});
  }
  const Video video({image});
  EXPECT_EQ(Palette(video).colors().size(), 256U);
  EXPECT_EQ(Video(decode(encode_gif(video, 1)).frames), video);
}

TEST(Gif, ManyColorsComeBackNearly) {
  const Video video = gradient_video(4, 96, 64);
  const DecodedGif gif = decode(encode_gif(video, 8));
  ASSERT_EQ(gif.frames.size(), 4U);
  EXPECT_LE(Palette(video).colors().size(), 256U);
  EXPECT_GT(compare_videos(video, Video(gif.frames)).psnr_db, 32);
}

TEST(Gif, SpeedIsLimited) {
  EXPECT_THAT(decode(encode_gif(square_video(3, 8, 8), 240)).hundredths, Each(2));
}

TEST(Gif, BytesAreReproducible) {
  EXPECT_EQ(encode_gif(gradient_video(3, 40, 40), 8), encode_gif(gradient_video(3, 40, 40), 8));
}

}  // namespace
}  // namespace psa::engine
