// SPDX-License-Identifier: Apache-2.0
#include "engine/video/quality.hpp"

#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>
#include <string>

#include "psa/error.hpp"

namespace psa::engine {
namespace {

constexpr int kWindow = 11;
constexpr int kWindowCentre = kWindow / 2;
constexpr double kDeviation = 1.5;
constexpr double kPeak = 255;

/// One channel of a picture, row-major.
struct Plane {
  std::size_t width = 0;
  std::size_t height = 0;
  std::vector<double> values{};
};

std::array<double, kWindow> gaussian() {
  std::array<double, kWindow> weights{};
  for (int i = 0; i < kWindow; ++i) {
    const double x = (i - kWindowCentre) / kDeviation;
    weights[static_cast<std::size_t>(i)] = std::exp(-x * x / 2);
  }
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight /= sum;
  return weights;
}

/// Weighted means over the windows inside the plane: kWindow - 1 fewer rows and columns.
Plane blurred(const Plane& plane) {
  static const std::array<double, kWindow> weights = gaussian();
  Plane across{plane.width - kWindow + 1, plane.height};
  across.values.resize(across.width * across.height);
  for (std::size_t y = 0; y < across.height; ++y) {
    for (std::size_t x = 0; x < across.width; ++x) {
      double sum = 0;
      for (std::size_t i = 0; i < kWindow; ++i) {
        sum += weights[i] * plane.values[y * plane.width + x + i];
      }
      across.values[y * across.width + x] = sum;
    }
  }
  Plane result{across.width, across.height - kWindow + 1};
  result.values.resize(result.width * result.height);
  for (std::size_t y = 0; y < result.height; ++y) {
    for (std::size_t i = 0; i < kWindow; ++i) {
      for (std::size_t x = 0; x < result.width; ++x) {
        result.values[y * result.width + x] +=
            weights[i] * across.values[(y + i) * across.width + x];
      }
    }
  }
  return result;
}

Plane luma(const Image& image) {
  Plane plane{static_cast<std::size_t>(image.width()), static_cast<std::size_t>(image.height())};
  const std::span<const std::uint8_t> bytes = image.bytes();
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    plane.values.push_back(0.299 * bytes[i] + 0.587 * bytes[i + 1] + 0.114 * bytes[i + 2]);
  }
  return plane;
}

Plane product(const Plane& a, const Plane& b) {
  Plane result{a.width, a.height, a.values};
  for (std::size_t i = 0; i < result.values.size(); ++i) result.values[i] *= b.values[i];
  return result;
}

double ssim_of(const Image& reference, const Image& image) {
  constexpr double kC1 = 0.01 * kPeak * 0.01 * kPeak;
  constexpr double kC2 = 0.03 * kPeak * 0.03 * kPeak;
  const Plane a = luma(reference);
  const Plane b = luma(image);
  const Plane mean_a = blurred(a);
  const Plane mean_b = blurred(b);
  const Plane square_a = blurred(product(a, a));
  const Plane square_b = blurred(product(b, b));
  const Plane cross = blurred(product(a, b));
  double sum = 0;
  for (std::size_t i = 0; i < cross.values.size(); ++i) {
    const double ma = mean_a.values[i];
    const double mb = mean_b.values[i];
    const double variances = square_a.values[i] - ma * ma + square_b.values[i] - mb * mb;
    const double covariance = cross.values[i] - ma * mb;
    sum += (2 * ma * mb + kC1) * (2 * covariance + kC2) /
           ((ma * ma + mb * mb + kC1) * (variances + kC2));
  }
  return sum / static_cast<double>(cross.values.size());
}

double mean_squared_error(const Image& reference, const Image& image) {
  double sum = 0;
  for (std::size_t i = 0; i < image.bytes().size(); ++i) {
    const double difference = reference.bytes()[i] - image.bytes()[i];
    sum += difference * difference;
  }
  return sum / static_cast<double>(image.bytes().size());
}

double psnr_db(double squared_error) {
  if (squared_error == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(kPeak * kPeak / squared_error);
}

}  // namespace

VideoQuality compare_videos(const Video& reference, const Video& video) {
  if (reference.num_frames() != video.num_frames() || reference.width() != video.width() ||
      reference.height() != video.height()) {
    throw Error(Status::kInvalidArgument, "videos that are compared differ in size or length");
  }
  const bool has_ssim = video.width() >= kWindow && video.height() >= kWindow;
  VideoQuality quality;
  double squared_error = 0;
  double ssim = 0;
  for (std::size_t f = 0; f < video.frames().size(); ++f) {
    const double error = mean_squared_error(reference.frames()[f], video.frames()[f]);
    squared_error += error;
    quality.frame_psnr_db.push_back(psnr_db(error));
    if (!has_ssim) continue;
    quality.frame_ssim.push_back(ssim_of(reference.frames()[f], video.frames()[f]));
    ssim += quality.frame_ssim.back();
  }
  quality.psnr_db = psnr_db(squared_error / video.num_frames());
  if (has_ssim) quality.ssim = ssim / video.num_frames();
  return quality;
}

}  // namespace psa::engine
