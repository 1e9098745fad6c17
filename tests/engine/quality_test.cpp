// SPDX-License-Identifier: Apache-2.0
#include "engine/video/quality.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "engine/error_text.hpp"
#include "engine/sample_video.hpp"

namespace psa::engine {
namespace {

using testing::Each;
using testing::HasSubstr;

/// Color gradients, with up to twice `noise` more or less.
Image noisy_picture(int width, int height, int noise) {
  Image picture(width, height);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      const int offset = noise * ((x * 7 + y * 13 + x * y) % 5 - 2);
      const auto channel = [&](int value) { return static_cast<std::uint8_t>(value + offset); };
      picture.set(x, y, {channel(60 + 4 * x), channel(200 - 3 * y), channel(90 + x + y)});
    }
  }
  return picture;
}

TEST(Quality, EqualVideosAreInfinitelyClose) {
  const Video video = gradient_video(3, 16, 12);
  const VideoQuality quality = compare_videos(video, video);
  EXPECT_TRUE(std::isinf(quality.psnr_db));
  EXPECT_NEAR(quality.ssim.value(), 1, 1e-12);
  EXPECT_EQ(quality.frame_psnr_db.size(), 3U);
  EXPECT_EQ(quality.frame_ssim.size(), 3U);
}

TEST(Quality, PsnrIsOfTheMeanErrorOfAllFrames) {
  const Video black({Image(4, 4), Image(4, 4)});
  const Video grey({Image(4, 4), Image(4, 4, {255, 0, 0})});
  const VideoQuality quality = compare_videos(black, grey);
  EXPECT_TRUE(std::isinf(quality.frame_psnr_db[0]));
  EXPECT_NEAR(quality.frame_psnr_db[1], 10 * std::log10(3.0), 1e-12);
  EXPECT_NEAR(quality.psnr_db, 10 * std::log10(6.0), 1e-12);
  EXPECT_FALSE(quality.ssim) << "smaller than the window";
}

TEST(Quality, AgreesWithScikitImage) {
  // scikit-image 0.26 on the same pictures: peak_signal_noise_ratio, and structural_similarity of
  // their luma with the settings that quality.hpp names.
  const Video reference({noisy_picture(37, 29, 0)});
  const VideoQuality slight = compare_videos(reference, Video({noisy_picture(37, 29, 3)}));
  EXPECT_NEAR(slight.psnr_db, 34.796734691281905, 1e-9);
  EXPECT_NEAR(slight.ssim.value(), 0.7965570384172557, 1e-9);
  const VideoQuality strong = compare_videos(reference, Video({noisy_picture(37, 29, 14)}));
  EXPECT_NEAR(strong.psnr_db, 21.416599072110394, 1e-9);
  EXPECT_NEAR(strong.ssim.value(), 0.15156954349100676, 1e-9);
}

TEST(Quality, IsSymmetric) {
  const Video a = gradient_video(2, 20, 20);
  const Video b = square_video(2, 20, 20);
  EXPECT_EQ(compare_videos(a, b).psnr_db, compare_videos(b, a).psnr_db);
  EXPECT_NEAR(compare_videos(a, b).ssim.value(), compare_videos(b, a).ssim.value(), 1e-14);
}

TEST(Quality, OnlyAlikeVideosAreCompared) {
  for (const Video& other : {square_video(2, 9, 8), square_video(3, 8, 8)}) {
    EXPECT_THAT(
        error_text(Status::kInvalidArgument,
                   [&] { static_cast<void>(compare_videos(square_video(2, 8, 8), other)); }),
        HasSubstr("differ in size or length"));
  }
}

}  // namespace
}  // namespace psa::engine
