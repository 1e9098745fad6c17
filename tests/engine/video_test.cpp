// SPDX-License-Identifier: Apache-2.0
#include "engine/video/video.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/error_text.hpp"
#include "engine/sample_video.hpp"
#include "engine/video/bitmap_font.hpp"

namespace psa::engine {
namespace {

using testing::HasSubstr;

constexpr Rgb kPaper{255, 255, 255};

TEST(Video, SamplesAreChannelsFramesRowsColumns) {
  std::vector<float> samples(3 * 2 * 2 * 3, -1);  // [3, 2, 2, 3]
  const auto sample = [&](std::size_t c, std::size_t f, std::size_t y, std::size_t x) -> float& {
    return samples[((c * 2 + f) * 2 + y) * 3 + x];
  };
  sample(0, 1, 0, 2) = 1;
  sample(1, 1, 0, 2) = 0;
  sample(2, 0, 1, 1) = 7;
  sample(0, 0, 0, 0) = -7;
  const Video video = video_of(samples, {.frames = 2, .height = 2, .width = 3});
  EXPECT_EQ(video.num_frames(), 2);
  EXPECT_EQ(video.width(), 3);
  EXPECT_EQ(video.height(), 2);
  EXPECT_EQ(video.frames()[1].at(2, 0), (Rgb{255, 128, 0}));
  EXPECT_EQ(video.frames()[0].at(1, 1), (Rgb{0, 0, 255})) << "clamped";
  EXPECT_EQ(video.frames()[0].at(0, 0), (Rgb{0, 0, 0}));
}

TEST(Video, SamplesThatAreNoVideoAreRefused) {
  const auto refusal = [](std::size_t count, VideoSize size) {
    return error_text(Status::kInvalidArgument,
                      [&] { static_cast<void>(video_of(std::vector<float>(count), size)); });
  };
  EXPECT_EQ(refusal(36, {2, 2, 4}),
            "36 values are no video of 2 frames of 4x2 pixels in three colors");
  EXPECT_THAT(refusal(0, {0, 2, 3}), HasSubstr("0 frames"));
  EXPECT_THAT(refusal(36, {2, -2, -3}), HasSubstr("-3x-2"));
  std::vector<float> samples(36);
  samples[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(error_text(Status::kInvalidArgument,
                         [&] {
                           static_cast<void>(video_of(samples, {2, 2, 3}));
                         }),
              HasSubstr("element 7 of 36"));
}

TEST(Video, FramesOfAVideoHaveOneSize) {
  EXPECT_THAT(error_text(Status::kInvalidArgument, [] { const Video video({}); }),
              HasSubstr("at least one frame"));
  EXPECT_THAT(error_text(Status::kInvalidArgument,
                         [] {
                           const Video video({Image(2, 3), Image(3, 2)});
                         }),
              HasSubstr("differ in size"));
}

TEST(Video, EnlargingRepeatsPixels) {
  const Video video = enlarged(square_video(2, 8, 9), 3);
  EXPECT_EQ(video.width(), 24);
  EXPECT_EQ(video.height(), 27);
  const Video small = square_video(2, 8, 9);
  for (int y = 0; y < 27; ++y) {
    for (int x = 0; x < 24; ++x) {
      ASSERT_EQ(video.frames()[1].at(x, y), small.frames()[1].at(x / 3, y / 3));
    }
  }
  const auto refusal = [&](int factor) {
    return error_text(Status::kInvalidArgument,
                      [&] { static_cast<void>(enlarged(small, factor)); });
  };
  EXPECT_EQ(refusal(0), "pictures are enlarged 0 times; allowed are 1 and more");
  EXPECT_THAT(refusal(100000), HasSubstr("a side of the picture is 800000 pixels"));
}

TEST(Video, SideBySideKeepsBothAndLabelsThem) {
  const Video left = square_video(3, 33, 15);
  const Video right = gradient_video(3, 33, 15);
  const Video both = side_by_side(std::vector<LabelledVideo>{{"psa", &left}, {"dense", &right}});
  EXPECT_EQ(both.num_frames(), 3);
  EXPECT_EQ(both.width() % 2, 0);
  EXPECT_EQ(both.height() % 2, 0);
  const int gap = 2;
  const int line = gap + text_height(1);
  EXPECT_EQ(both.width(), 33 + gap + 33);
  EXPECT_EQ(both.height(), line + 15);
  for (int f = 0; f < 3; ++f) {
    const auto frame = static_cast<std::size_t>(f);
    EXPECT_EQ(both.frames()[frame].at(10, line + 3), left.frames()[frame].at(10, 3));
    EXPECT_EQ(both.frames()[frame].at(33 + gap + 10, line + 3), right.frames()[frame].at(10, 3));
    EXPECT_EQ(both.frames()[frame].at(33, line + 3), kPaper) << "between them";
  }
  int ink = 0;
  for (int x = 0; x < 33; ++x) ink += both.frames()[0].at(x, 3) != kPaper ? 1 : 0;
  EXPECT_GT(ink, 2) << "the middle of the label";
}

TEST(Video, LongLabelsStayAboveTheirVideo) {
  const Video left = square_video(1, 16, 8);
  const Video both = side_by_side(std::vector<LabelledVideo>{{"mmmmmmmmmmmm", &left}, {"", &left}});
  for (int y = 0; y < 2 + text_height(1); ++y) {
    for (int x = 16; x < both.width(); ++x) EXPECT_EQ(both.frames()[0].at(x, y), kPaper);
  }
}

TEST(Video, StripShowsFirstAndLastFrame) {
  const Video video = gradient_video(9, 20, 10);
  const Image strip = frame_strip(std::vector<LabelledVideo>{{"", &video}}, 3);
  EXPECT_EQ(strip.width(), 3 * 20 + 2 * 2);
  EXPECT_EQ(strip.height(), 10);
  EXPECT_EQ(strip.at(5, 5), video.frames()[0].at(5, 5));
  EXPECT_EQ(strip.at(22 + 5, 5), video.frames()[4].at(5, 5));
  EXPECT_EQ(strip.at(44 + 5, 5), video.frames()[8].at(5, 5));
  const Image one = frame_strip(std::vector<LabelledVideo>{{"", &video}}, 1);
  EXPECT_EQ(one, video.frames()[0]);
}

TEST(Video, StripHasOneRowPerVideo) {
  const Video top = square_video(4, 20, 10);
  const Video bottom = gradient_video(4, 20, 10);
  const Image strip = frame_strip(std::vector<LabelledVideo>{{"psa", &top}, {"dense", &bottom}}, 4);
  const int line = 2 + text_height(1);
  EXPECT_EQ(strip.height(), 2 * (line + 10) + 2);
  EXPECT_EQ(strip.at(22 + 6, line + 6), top.frames()[1].at(6, 6));
  EXPECT_EQ(strip.at(22 + 6, line + 10 + 2 + line + 6), bottom.frames()[1].at(6, 6));
}

TEST(Video, OnlyAlikeVideosAreShownTogether) {
  const Video video = square_video(2, 8, 8);
  const Video longer = square_video(3, 8, 8);
  const auto show = [](const std::vector<LabelledVideo>& videos, int columns) {
    return error_text(Status::kInvalidArgument,
                      [&] { static_cast<void>(frame_strip(videos, columns)); });
  };
  EXPECT_THAT(show({}, 1), HasSubstr("no video"));
  EXPECT_THAT(show({{"a", &video}, {"b", &longer}}, 1), HasSubstr("differ in size or length"));
  EXPECT_THAT(show({{"a", &video}}, 3), HasSubstr("3 frames was asked for; the video has 2"));
  EXPECT_THAT(show({{"a", &video}}, 0), HasSubstr("0 frames"));
}

TEST(BitmapFont, GlyphsDiffer) {
  std::set<std::optional<std::uint16_t>> seen;
  for (const char c : std::string("0123456789abcdefghijklmnopqrstuvwxyz.%: ")) {
    EXPECT_TRUE(seen.insert(glyph_of(c)).second) << c;
  }
}

TEST(BitmapFont, CaseDoesNotMatterAndOthersAreBlank) {
  EXPECT_EQ(glyph_of('a'), glyph_of('A'));
  EXPECT_EQ(glyph_of(' '), 0);
  EXPECT_EQ(glyph_of('#'), std::nullopt);
  Image image(40, 5, kPaper);
  draw_text(image, 0, 0, "#", {}, 1);
  EXPECT_EQ(image, Image(40, 5, kPaper));
  draw_text(image, 0, 0, "1", {}, 1);
  EXPECT_EQ(image.at(1, 0), (Rgb{}));
  EXPECT_EQ(text_width("abc", 2), 24);
}

}  // namespace
}  // namespace psa::engine
