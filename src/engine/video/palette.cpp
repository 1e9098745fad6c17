// SPDX-License-Identifier: Apache-2.0
#include "engine/video/palette.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <map>
#include <span>

namespace psa::engine {
namespace {

constexpr std::size_t kMaxColors = 256;

std::uint32_t exact_key(Rgb color) {
  return std::uint32_t{color[0]} << 16U | std::uint32_t{color[1]} << 8U | color[2];
}

/// Colors that differ only in the two low bits of a channel share a key.
std::uint32_t rounded_key(Rgb color) { return exact_key(color) & 0xFCFCFCU; }

/// All pixels with one key.
struct Bin {
  std::uint32_t key = 0;
  double count = 0;
  std::array<double, 3> sum{};
  [[nodiscard]] double mean(std::size_t channel) const { return sum[channel] / count; }
};

/// A group of bins, bins[begin, end) of the shared array.
struct Box {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::size_t axis = 0;  ///< the channel with the largest squared error
  double error = 0;      ///< along it
};

Bin total_of(std::span<const Bin> bins) {
  Bin total;
  for (const Bin& bin : bins) {
    total.count += bin.count;
    for (std::size_t c = 0; c < 3; ++c) total.sum[c] += bin.sum[c];
  }
  return total;
}

Box box_of(std::span<const Bin> bins, std::size_t begin, std::size_t end) {
  const std::span<const Bin> inside = bins.subspan(begin, end - begin);
  const Bin total = total_of(inside);
  Box box{begin, end, 0, -1};
  for (std::size_t c = 0; c < 3; ++c) {
    double error = 0;
    for (const Bin& bin : inside) {
      const double offset = bin.mean(c) - total.mean(c);
      error += bin.count * offset * offset;
    }
    if (error > box.error) {
      box.axis = c;
      box.error = error;
    }
  }
  return box;
}

/// Where to cut a box, so that each side has at least one bin and about half of the pixels.
std::size_t cut(std::span<Bin> bins, const Box& box) {
  const std::span<Bin> inside = bins.subspan(box.begin, box.end - box.begin);
  std::sort(inside.begin(), inside.end(), [axis = box.axis](const Bin& a, const Bin& b) {
    return a.mean(axis) != b.mean(axis) ? a.mean(axis) < b.mean(axis) : a.key < b.key;
  });
  const double half = total_of(inside).count / 2;
  double count = 0;
  std::size_t at = box.begin;
  while (at + 1 < box.end && count + bins[at].count <= half) count += bins[at++].count;
  return std::clamp(at, box.begin + 1, box.end - 1);
}

std::vector<Box> median_cut(std::span<Bin> bins) {
  std::vector<Box> boxes{box_of(bins, 0, bins.size())};
  while (boxes.size() < kMaxColors) {
    const auto widest =
        std::max_element(boxes.begin(), boxes.end(), [](const Box& a, const Box& b) {
          return (a.end - a.begin > 1 ? a.error : -1) < (b.end - b.begin > 1 ? b.error : -1);
        });
    const Box whole = *widest;
    if (whole.end - whole.begin < 2) break;
    const std::size_t middle = cut(bins, whole);
    *widest = box_of(bins, whole.begin, middle);
    boxes.push_back(box_of(bins, middle, whole.end));
  }
  return boxes;
}

template <typename Action>
void for_each_pixel(const Video& video, const Action& action) {
  for (const Image& frame : video.frames()) {
    const std::span<const std::uint8_t> bytes = frame.bytes();
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
      action(Rgb{bytes[i], bytes[i + 1], bytes[i + 2]});
    }
  }
}

std::vector<Bin> bins_of(const Video& video) {
  std::unordered_map<std::uint32_t, Bin> bin_of_key;
  for_each_pixel(video, [&](Rgb color) {
    Bin& bin = bin_of_key[rounded_key(color)];
    bin.key = rounded_key(color);
    bin.count += 1;
    for (std::size_t c = 0; c < 3; ++c) bin.sum[c] += color[c];
  });
  std::vector<Bin> bins;
  bins.reserve(bin_of_key.size());
  for (const auto& [key, bin] : bin_of_key) bins.push_back(bin);
  // The order of a hash table differs between libraries; the palette may not.
  std::sort(bins.begin(), bins.end(), [](const Bin& a, const Bin& b) { return a.key < b.key; });
  return bins;
}

}  // namespace

Palette::Palette(const Video& video) {
  std::map<std::uint32_t, Rgb> distinct;
  for_each_pixel(video, [&](Rgb color) {
    if (distinct.size() <= kMaxColors) distinct.emplace(exact_key(color), color);
  });
  is_exact_ = distinct.size() <= kMaxColors;
  if (is_exact_) {
    for (const auto& [key, color] : distinct) {
      index_of_key_.emplace(key, static_cast<std::uint8_t>(colors_.size()));
      colors_.push_back(color);
    }
    return;
  }
  std::vector<Bin> bins = bins_of(video);
  for (const Box& box : median_cut(bins)) {
    const std::span<const Bin> inside = std::span(bins).subspan(box.begin, box.end - box.begin);
    const Bin total = total_of(inside);
    Rgb color{};
    for (std::size_t c = 0; c < 3; ++c) {
      color[c] = static_cast<std::uint8_t>(std::lround(total.mean(c)));
    }
    for (const Bin& bin : inside) {
      index_of_key_.emplace(bin.key, static_cast<std::uint8_t>(colors_.size()));
    }
    colors_.push_back(color);
  }
}

std::uint8_t Palette::index_of(Rgb color) const {
  return index_of_key_.at(is_exact_ ? exact_key(color) : rounded_key(color));
}

}  // namespace psa::engine
