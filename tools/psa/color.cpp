// SPDX-License-Identifier: Apache-2.0
#include "color.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <numbers>

namespace psa::cli {
namespace {

// Ends and bow of the scale in OKLCh: lightness, hue in degrees, chroma at the dark end, at most.
constexpr double kDarkest = 0.2;
constexpr double kLightest = 0.955;
constexpr double kFirstHue = 275;
constexpr double kLastHue = 463;
constexpr double kEdgeChroma = 0.05;
constexpr double kPeakChroma = 0.18;

using Linear = std::array<double, 3>;  // linear-light sRGB

// OKLab (B. Ottosson, 2020) to linear sRGB.
Linear linear_of_oklch(double lightness, double chroma, double hue_degrees) {
  const double hue = hue_degrees * std::numbers::pi / 180;
  const double a = chroma * std::cos(hue);
  const double b = chroma * std::sin(hue);
  const double l = std::pow(lightness + 0.3963377774 * a + 0.2158037573 * b, 3);
  const double m = std::pow(lightness - 0.1055613458 * a - 0.0638541728 * b, 3);
  const double s = std::pow(lightness - 0.0894841775 * a - 1.2914855480 * b, 3);
  return {4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
          -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
          -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s};
}

bool is_displayable(const Linear& color) {
  return std::all_of(color.begin(), color.end(),
                     [](double channel) { return channel >= -1e-4 && channel <= 1 + 1e-4; });
}

std::uint8_t stored(double linear) {
  const double bounded = std::clamp(linear, 0.0, 1.0);
  const double encoded =
      bounded <= 0.0031308 ? 12.92 * bounded : 1.055 * std::pow(bounded, 1 / 2.4) - 0.055;
  return static_cast<std::uint8_t>(std::lround(encoded * 255));
}

double linear_of(std::uint8_t channel) {
  const double encoded = channel / 255.0;
  return encoded <= 0.04045 ? encoded / 12.92 : std::pow((encoded + 0.055) / 1.055, 2.4);
}

}  // namespace

Rgb heat_color(double t) {
  const double x = t > 0 ? std::min(t, 1.0) : 0.0;
  const double lightness = kDarkest + (kLightest - kDarkest) * x;
  const double hue = kFirstHue + (kLastHue - kFirstHue) * x;
  double chroma = kEdgeChroma + (kPeakChroma - kEdgeChroma) * std::sin(std::numbers::pi * x);
  // Chroma gives way, never lightness: that keeps the steps equal.
  Linear color = linear_of_oklch(lightness, chroma, hue);
  while (!is_displayable(color) && chroma > 0.005) {
    chroma -= 0.005;
    color = linear_of_oklch(lightness, chroma, hue);
  }
  return {stored(color[0]), stored(color[1]), stored(color[2])};
}

Rgb level_color(LevelCode code) {
  // Positions on the scale of skip, levels 1 to 5 and mean.
  constexpr std::array<double, kNumLevelCodes> kPositions{0.0, 1.0, 0.82, 0.66, 0.50, 0.35, 0.19};
  return heat_color(kPositions.at(code));
}

std::string_view level_text(LevelCode code) {
  constexpr std::array<std::string_view, kNumLevelCodes> kTexts{
      "skipped",           "token by token",     "means of 2 tokens", "means of 4 tokens",
      "means of 8 tokens", "means of 16 tokens", "one mean per block"};
  return kTexts.at(code);
}

double luminance(Rgb color) {
  return 0.2126 * linear_of(color[0]) + 0.7152 * linear_of(color[1]) + 0.0722 * linear_of(color[2]);
}

std::string css_color(Rgb color) {
  std::array<char, 8> text{};
  std::snprintf(text.data(), text.size(), "#%02x%02x%02x", unsigned{color[0]}, unsigned{color[1]},
                unsigned{color[2]});
  return text.data();
}

}  // namespace psa::cli
