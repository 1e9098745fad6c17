// SPDX-License-Identifier: Apache-2.0
#include "engine/video/video_file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "engine/child_process.hpp"
#include "engine/error_text.hpp"
#include "engine/sample_video.hpp"
#include "engine/scratch_dir.hpp"
#include "engine/video/gif.hpp"
#include "engine/video/mp4.hpp"

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#include <stb/stb_image.h>

namespace psa::engine {
namespace {

using io::content_of;
using io::put_content;
using io::ScratchDir;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Image picture_in(const std::filesystem::path& path) {
  const std::string png = content_of(path);
  int width = 0;
  int height = 0;
  int channels = 0;
  const std::unique_ptr<stbi_uc, void (*)(void*)> decoded(
      stbi_load_from_memory(reinterpret_cast<const stbi_uc*>(png.data()),
                            static_cast<int>(png.size()), &width, &height, &channels, 3),
      stbi_image_free);
  if (decoded == nullptr) return {1, 1};
  Image image(width, height);
  std::copy_n(decoded.get(), image.bytes().size(), image.bytes().begin());
  return image;
}

std::string bytes_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(VideoFile, ExtensionChoosesTheFormat) {
  EXPECT_EQ(video_format_of("a.gif"), VideoFormat::kGif);
  EXPECT_EQ(video_format_of("a_%04d.png"), VideoFormat::kPngs);
  EXPECT_EQ(video_format_of("folder"), VideoFormat::kPngs);
  EXPECT_EQ(video_format_of("folder.gif/"), VideoFormat::kPngs);
  for (const char* path : {"a.avi", "a.MP4", ""}) {
    EXPECT_THAT(
        error_text(Status::kInvalidArgument, [&] { static_cast<void>(video_format_of(path)); }),
        AllOf(HasSubstr("is no video that psa writes"), HasSubstr("NAME.gif")));
  }
  const auto mp4 = [] { static_cast<void>(video_format_of("a.mp4")); };
  EXPECT_THAT(error_text(Status::kUnsupported, mp4),
              mp4_encoder().empty() ? HasSubstr("without an FFmpeg") : HasSubstr("(no error)"));
}

TEST(VideoFile, GifIsWritten) {
  const ScratchDir dir;
  const Video video = square_video(3, 20, 12);
  write_video(dir.path("a.gif"), video, 8);
  EXPECT_EQ(content_of(dir.path("a.gif")), bytes_of(encode_gif(video, 8)));
  EXPECT_THAT(dir.listing(), ElementsAre("a.gif"));
}

TEST(VideoFile, FolderHasOnePngPerFrame) {
  const ScratchDir dir;
  const Video video = gradient_video(3, 20, 12);
  for (const char* folder : {"made", "made", "with_slash/"}) {  // the second time into what exists
    write_video(dir.path(folder), video, 8);
    EXPECT_EQ(picture_in(dir.path(folder) / "frame_0000.png"), video.frames()[0]);
    EXPECT_EQ(picture_in(dir.path(folder) / "frame_0002.png"), video.frames()[2]);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path(folder)), {}), 3);
  }
}

TEST(VideoFile, PatternNumbersTheFrames) {
  const ScratchDir dir;
  write_video(dir.path("a%03d b.png"), gradient_video(2, 4, 4), 8);
  write_video(dir.path("c%d.png"), gradient_video(2, 4, 4), 8);
  EXPECT_THAT(dir.listing(), ElementsAre("a000 b.png", "a001 b.png", "c0.png", "c1.png"));
  for (const char* name : {"a.png", "a%s.png", "a%00d.png", "a%03d%03d.png", "a%4d.png", "%"}) {
    const std::filesystem::path path = dir.path(std::string(name) + (name[0] == '%' ? ".png" : ""));
    EXPECT_THAT(error_text(Status::kInvalidArgument,
                           [&] { write_video(path, gradient_video(2, 4, 4), 8); }),
                HasSubstr("frame_%04d.png"))
        << name;
  }
}

TEST(VideoFile, FramesOfALongerVideoAreNotMixedWithNewOnes) {
  const ScratchDir dir;
  write_video(dir.path("frames"), gradient_video(3, 4, 4), 8);
  const std::string before = content_of(dir.path("frames/frame_0000.png"));
  EXPECT_THAT(error_text(Status::kInvalidArgument,
                         [&] { write_video(dir.path("frames"), square_video(2, 9, 9), 8); }),
              AllOf(HasSubstr("frame_0002.png"), HasSubstr("longer video")));
  EXPECT_EQ(content_of(dir.path("frames/frame_0000.png")), before);
  write_video(dir.path("frames"), square_video(4, 9, 9), 8);
  EXPECT_EQ(picture_in(dir.path("frames/frame_0000.png")), square_video(4, 9, 9).frames()[0]);
}

TEST(VideoFile, FullDiskLeavesNothingHalfWritten) {
  const ScratchDir dir;
  const Video noisy = gradient_video(6, 128, 128);
  const auto write_limited = [&](const char* name) {
    return io::io_error_in_child({.max_file_bytes = 512},
                                 [&] { write_video(dir.path(name), noisy, 8); });
  };
  EXPECT_THAT(write_limited("a.gif"), AllOf(HasSubstr("a.gif"), HasSubstr("File too large")));
  EXPECT_THAT(write_limited("frames"), AllOf(HasSubstr("frames"), HasSubstr("File too large")));
  EXPECT_THAT(write_limited("f%d.png"), HasSubstr("File too large"));
  if (!mp4_encoder().empty()) {
    EXPECT_THAT(write_limited("a.mp4"), HasSubstr("File too large"));
  }
  EXPECT_THAT(dir.listing(), IsEmpty());

  std::filesystem::create_directory(dir.path("frames"));
  put_content(dir.path("frames/frame_0000.png"), "before");
  EXPECT_THAT(write_limited("frames"), HasSubstr("File too large"));
  EXPECT_EQ(content_of(dir.path("frames/frame_0000.png")), "before");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path("frames")), {}), 1);
}

TEST(VideoFile, PlacesThatCannotBeWrittenAreReportedBeforehand) {
  const ScratchDir dir;
  const auto defect = [&](const char* name) {
    return error_text(Status::kIo, [&] { check_video_path(dir.path(name), 4); });
  };
  EXPECT_THAT(defect("missing/a.gif"), HasSubstr("No such file or directory"));
  EXPECT_THAT(defect("missing/f%d.png"), HasSubstr("No such file or directory"));
  put_content(dir.path("file"), "");
  EXPECT_THAT(defect("file"), HasSubstr("Not a directory"));
  EXPECT_THAT(defect("file/a.gif"), HasSubstr("Not a directory"));
  std::filesystem::create_directory(dir.path("a.gif"));
  EXPECT_THAT(defect("a.gif"), HasSubstr("Is a directory"));
  EXPECT_EQ(defect("b.gif"), "(no error)");
  EXPECT_EQ(defect("frames"), "(no error)");
  EXPECT_EQ(error_text(Status::kIo, [] { check_video_path("/dev/null", 4); }),
            "cannot write '/dev/null': Not a directory");
  EXPECT_THAT(dir.listing(), ElementsAre("a.gif", "file")) << "nothing was made";

  ::chmod(dir.root().c_str(), 0555);
  for (const char* name : {"b.gif", "f%d.png"}) {
    EXPECT_THAT(io::io_error_in_child({.is_unprivileged = true},
                                      [&] { check_video_path(dir.path(name), 4); }),
                HasSubstr("Permission denied"));
  }
}

TEST(VideoFile, FramesPerSecondAreChecked) {
  const ScratchDir dir;
  for (const int rate : {0, -8, 241}) {
    EXPECT_THAT(error_text(Status::kInvalidArgument,
                           [&] { write_video(dir.path("a.gif"), square_video(2, 8, 8), rate); }),
                HasSubstr("allowed are 1 to 240"));
  }
  EXPECT_THAT(dir.listing(), IsEmpty());
}

}  // namespace
}  // namespace psa::engine
