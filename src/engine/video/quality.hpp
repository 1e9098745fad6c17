// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <vector>

#include "engine/video/video.hpp"

namespace psa::engine {

/// How close a video is to a reference. Both measures are symmetric.
struct VideoQuality {
  /// Peak signal-to-noise ratio in dB: 10 log10(255^2 / mean squared error over all channels of all
  /// pixels of all frames); infinite if the videos are equal.
  double psnr_db = 0;
  /// Mean structural similarity (Wang et al., 2004) of the frames, at most 1: on luma (0.299 R +
  /// 0.587 G + 0.114 B, not rounded), Gaussian window of 11x11 with deviation 1.5, K1 = 0.01,
  /// K2 = 0.03, only windows inside the frame; as scikit-image's structural_similarity with
  /// gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255. Nothing if the
  /// frames are smaller than the window.
  std::optional<double> ssim;
  std::vector<double> frame_psnr_db;  ///< [frames]
  std::vector<double> frame_ssim;     ///< [frames], or empty without ssim
};

/// Throws Error(kInvalidArgument) if the videos differ in size or length.
[[nodiscard]] VideoQuality compare_videos(const Video& reference, const Video& video);

}  // namespace psa::engine
