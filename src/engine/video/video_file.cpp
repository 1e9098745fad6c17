// SPDX-License-Identifier: Apache-2.0
#include "engine/video/video_file.hpp"

#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "engine/tensors/atomic_file.hpp"
#include "engine/tensors/printable.hpp"
#include "engine/video/gif.hpp"
#include "engine/video/mp4.hpp"
#include "engine/video/png_sequence.hpp"
#include "psa/error.hpp"

namespace psa::engine {
namespace {

std::string formats() {
  return std::string(mp4_encoder().empty() ? "" : "NAME.mp4, ") +
         "NAME.gif, NAME_%04d.png or a folder";
}

/// AtomicFile reports the same, but only when the video has been computed.
void check_file(const std::filesystem::path& path) {
  const auto fail = [&](int reason) {
    throw Error(Status::kIo, "cannot write " + io::printable(path.native()) + ": " +
                                 std::generic_category().message(reason));
  };
  std::error_code ignored;
  const std::filesystem::file_status status = std::filesystem::status(path, ignored);
  if (std::filesystem::is_directory(status)) fail(EISDIR);
  const bool is_there = std::filesystem::exists(status);
  if (is_there && ::access(path.c_str(), W_OK) != 0) fail(errno);
  if (is_there && !std::filesystem::is_regular_file(status)) return;  // written in place
  const std::filesystem::path folder = path.parent_path() / ".";      // fails if it is a file
  if (::access(folder.c_str(), W_OK) != 0) fail(errno);
}

}  // namespace

VideoFormat video_format_of(const std::filesystem::path& path) {
  const std::string extension = path.extension();
  if (extension == ".mp4") {
    if (mp4_encoder().empty()) {
      throw Error(Status::kUnsupported, "cannot write " + io::printable(path.native()) +
                                            ": this psa was built without an FFmpeg that encodes "
                                            ".mp4; it writes " +
                                            formats());
    }
    return VideoFormat::kMp4;
  }
  if (extension == ".gif") return VideoFormat::kGif;
  if (extension == ".png" || (extension.empty() && !path.empty())) return VideoFormat::kPngs;
  throw Error(Status::kInvalidArgument, io::printable(path.native()) +
                                            " is no video that psa writes; it writes " + formats());
}

void check_video_path(const std::filesystem::path& path, int num_frames) {
  if (video_format_of(path) == VideoFormat::kPngs) {
    check_png_sequence(png_sequence_of(path), num_frames);
  } else {
    check_file(path);
  }
}

void write_video(const std::filesystem::path& path, const Video& video, int frames_per_second) {
  constexpr int kMostFramesPerSecond = 240;
  if (frames_per_second < 1 || frames_per_second > kMostFramesPerSecond) {
    throw Error(Status::kInvalidArgument, "the video has " + std::to_string(frames_per_second) +
                                              " frames per second; allowed are 1 to " +
                                              std::to_string(kMostFramesPerSecond));
  }
  switch (video_format_of(path)) {
    case VideoFormat::kMp4:
      io::write_file(path, encode_mp4(video, frames_per_second));
      return;
    case VideoFormat::kGif:
      io::write_file(path, encode_gif(video, frames_per_second));
      return;
    case VideoFormat::kPngs:
      write_png_sequence(png_sequence_of(path), video);
      return;
  }
}

}  // namespace psa::engine
