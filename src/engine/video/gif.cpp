// SPDX-License-Identifier: Apache-2.0
#include "engine/video/gif.hpp"

#include <algorithm>
#include <bit>
#include <string_view>
#include <utility>

#include "engine/video/palette.hpp"
#include "psa/types.hpp"

namespace psa::engine {
namespace {

constexpr int kMaxCodeBits = 12;
constexpr std::size_t kMaxCodes = std::size_t{1} << kMaxCodeBits;

/// Collects codes of any width into bytes.
class BitStream {
 public:
  void put(std::uint32_t code, int width) {
    pending_ |= code << static_cast<unsigned>(num_pending_);
    num_pending_ += width;
    while (num_pending_ >= 8) flush_byte();
  }
  std::vector<std::uint8_t> take() {
    if (num_pending_ > 0) flush_byte();
    return std::move(bytes_);
  }

 private:
  void flush_byte() {
    bytes_.push_back(static_cast<std::uint8_t>(pending_));
    pending_ >>= 8U;
    num_pending_ = std::max(0, num_pending_ - 8);
  }

  std::uint32_t pending_ = 0;
  int num_pending_ = 0;
  std::vector<std::uint8_t> bytes_;
};

/// The strings that have a code, as a tree: a string's code and its next index lead to the code of
/// the longer string.
class Dictionary {
 public:
  explicit Dictionary(int bits) : bits_(static_cast<unsigned>(bits)), longer_(kMaxCodes << bits_) {
    clear();
  }
  void clear() {
    std::fill(longer_.begin(), longer_.end(), kNone);
    next_code_ = end_code() + 1;
    width_ = static_cast<int>(bits_) + 1;
  }
  [[nodiscard]] std::uint32_t clear_code() const { return 1U << bits_; }
  [[nodiscard]] std::uint32_t end_code() const { return clear_code() + 1; }
  [[nodiscard]] int width() const { return width_; }
  [[nodiscard]] bool is_full() const { return next_code_ == kMaxCodes; }

  static constexpr std::uint16_t kNone = 0;  // code 0 is one index long, so longer than nothing
  [[nodiscard]] std::uint16_t find(std::uint32_t code, std::uint8_t index) const {
    return longer_[(code << bits_) + index];
  }
  void add(std::uint32_t code, std::uint8_t index) {
    longer_[(code << bits_) + index] = static_cast<std::uint16_t>(next_code_);
    // The decoder learns a string one code later, so codes widen once a code needs it.
    if (next_code_ == 1U << static_cast<unsigned>(width_)) ++width_;
    ++next_code_;
  }

 private:
  unsigned bits_;
  std::vector<std::uint16_t> longer_;  // [code, index]
  std::uint32_t next_code_ = 0;
  int width_ = 0;
};

class GifWriter {
 public:
  void text(std::string_view characters) {
    for (const char c : characters) byte(static_cast<unsigned char>(c));
  }
  void byte(int value) { bytes_.push_back(static_cast<std::byte>(value)); }
  void word(int value) {
    byte(value & 0xFF);
    byte(value >> 8);
  }
  /// Data are stored in blocks of at most 255 bytes, an empty one last.
  void blocks(std::span<const std::uint8_t> data) {
    constexpr std::size_t kLargest = 255;
    while (!data.empty()) {
      const std::size_t size = std::min(kLargest, data.size());
      byte(static_cast<int>(size));
      for (const std::uint8_t value : data.first(size)) byte(value);
      data = data.subspan(size);
    }
    byte(0);
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

void put_header(GifWriter& out, const Video& video, const Palette& palette, int bits) {
  out.text("GIF89a");
  out.word(video.width());
  out.word(video.height());
  constexpr int kGlobalPalette = 0x80;
  constexpr int kEightBitColors = 0x70;
  out.byte(kGlobalPalette | kEightBitColors | (bits - 1));
  out.byte(0);  // background
  out.byte(0);  // square pixels
  for (std::size_t i = 0; i < std::size_t{1} << static_cast<unsigned>(bits); ++i) {
    const Rgb color = i < palette.colors().size() ? palette.colors()[i] : Rgb{};
    for (const std::uint8_t channel : color) out.byte(channel);
  }
  out.text("\x21\xFF\x0BNETSCAPE2.0\x03\x01");
  out.word(0);  // repeat for ever
  out.byte(0);
}

void put_frame(GifWriter& out, const Image& frame, const Palette& palette, int bits,
               int hundredths) {
  out.text("\x21\xF9\x04");
  out.byte(0);  // no transparency
  out.word(hundredths);
  out.byte(0);
  out.byte(0);
  out.byte(0x2C);
  out.word(0);
  out.word(0);
  out.word(frame.width());
  out.word(frame.height());
  out.byte(0);  // the global palette, rows in order
  std::vector<std::uint8_t> indices;
  const std::span<const std::uint8_t> bytes = frame.bytes();
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    indices.push_back(palette.index_of({bytes[i], bytes[i + 1], bytes[i + 2]}));
  }
  out.byte(bits);
  out.blocks(encode_lzw(indices, bits));
}

}  // namespace

std::vector<std::uint8_t> encode_lzw(std::span<const std::uint8_t> indices, int bits) {
  Dictionary dictionary(bits);
  BitStream stream;
  stream.put(dictionary.clear_code(), dictionary.width());
  std::size_t i = 0;
  while (i < indices.size()) {
    std::uint32_t code = indices[i++];
    for (; i < indices.size(); ++i) {
      const std::uint16_t longer = dictionary.find(code, indices[i]);
      if (longer == Dictionary::kNone) break;
      code = longer;
    }
    stream.put(code, dictionary.width());
    if (dictionary.is_full()) {
      stream.put(dictionary.clear_code(), dictionary.width());
      dictionary.clear();
    } else {
      // After the last index any string will do: what counts is the width of the end code.
      dictionary.add(code, i < indices.size() ? indices[i] : 0);
    }
  }
  stream.put(dictionary.end_code(), dictionary.width());
  return stream.take();
}

std::vector<std::byte> encode_gif(const Video& video, int frames_per_second) {
  const Palette palette(video);
  const auto last_index = static_cast<unsigned>(palette.colors().size() - 1);
  const int bits = std::max(2, static_cast<int>(std::bit_width(last_index)));
  GifWriter out;
  put_header(out, video, palette, bits);
  // Rounded ends, not rounded lengths: the errors do not add up.
  const auto end_of = [&](index_t frame) {
    return static_cast<int>((200 * frame + frames_per_second) / (2 * frames_per_second));
  };
  for (int f = 0; f < video.num_frames(); ++f) {
    const int hundredths = std::max(2, end_of(f + 1) - end_of(f));
    put_frame(out, video.frames()[static_cast<std::size_t>(f)], palette, bits, hundredths);
  }
  out.byte(0x3B);
  return out.take();
}

}  // namespace psa::engine
