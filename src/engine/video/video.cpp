// SPDX-License-Identifier: Apache-2.0
#include "engine/video/video.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "psa/error.hpp"
#include "psa/types.hpp"

namespace psa::engine {
namespace {

[[noreturn]] void reject(const std::string& message) {
  throw Error(Status::kInvalidArgument, message);
}

std::string size_text(int frames, int width, int height) {
  return std::to_string(frames) + " frames of " + std::to_string(width) + "x" +
         std::to_string(height) + " pixels";
}

std::uint8_t byte_of(float value) {
  return static_cast<std::uint8_t>(std::lround((std::clamp(value, -1.0F, 1.0F) + 1) * 127.5F));
}

void check_finite(std::span<const float> samples) {
  const auto bad = std::find_if(samples.begin(), samples.end(),
                                [](float value) { return !std::isfinite(value); });
  if (bad == samples.end()) return;
  reject("the video has values that are no numbers (the first of them at element " +
         std::to_string(bad - samples.begin()) + " of " + std::to_string(samples.size()) + ")");
}

}  // namespace

Video::Video(std::vector<Image> frames) : frames_(std::move(frames)) {
  if (frames_.empty()) reject("a video needs at least one frame");
  for (const Image& frame : frames_) {
    if (frame.width() != width() || frame.height() != height()) {
      reject("the frames of a video differ in size");
    }
  }
}

Video video_of(std::span<const float> samples, VideoSize size) {
  const index_t plane = index_t{size.height} * size.width;
  const auto count = static_cast<index_t>(samples.size());
  if (size.frames < 1 || size.height < 1 || size.width < 1 || count % 3 != 0 ||
      count / 3 / size.frames != plane || count / 3 % size.frames != 0) {
    reject(std::to_string(count) + " values are no video of " +
           size_text(size.frames, size.width, size.height) + " in three colors");
  }
  check_finite(samples);
  std::vector<Image> frames;
  for (index_t f = 0; f < size.frames; ++f) {
    Image frame(size.width, size.height);
    const std::span<std::uint8_t> bytes = frame.bytes();
    for (index_t i = 0; i < plane; ++i) {
      for (index_t c = 0; c < 3; ++c) {
        bytes[static_cast<std::size_t>(3 * i + c)] =
            byte_of(samples[static_cast<std::size_t>((c * size.frames + f) * plane + i)]);
      }
    }
    frames.push_back(std::move(frame));
  }
  return Video(std::move(frames));
}

Video enlarged(const Video& video, int factor) {
  std::vector<Image> frames;
  for (const Image& frame : video.frames()) frames.push_back(enlarged(frame, factor));
  return Video(std::move(frames));
}

}  // namespace psa::engine
