// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/video/image.hpp"

namespace psa::engine {

/// At least one frame; all have one size.
class Video {
 public:
  /// Throws Error(kInvalidArgument) if there are no frames or they differ in size.
  explicit Video(std::vector<Image> frames);

  [[nodiscard]] std::span<const Image> frames() const { return frames_; }
  [[nodiscard]] int num_frames() const { return static_cast<int>(frames_.size()); }
  [[nodiscard]] int width() const { return frames_.front().width(); }
  [[nodiscard]] int height() const { return frames_.front().height(); }
  friend bool operator==(const Video&, const Video&) = default;

 private:
  std::vector<Image> frames_;
};

/// Sizes of a video in pixels.
struct VideoSize {
  int frames = 0;
  int height = 0;
  int width = 0;
};

/// A sampled video [3, frames, height, width] (red, green, blue), values in [-1, 1]; others are
/// clamped. Value v becomes round(127.5 (v + 1)). Throws Error(kInvalidArgument) if the sizes are
/// not positive or do not match, or a value is NaN or infinite (the model has diverged).
[[nodiscard]] Video video_of(std::span<const float> samples, VideoSize size);

[[nodiscard]] Video enlarged(const Video& video, int factor);

/// One of several videos that are shown together.
struct LabelledVideo {
  std::string label;  ///< drawn above; digits, letters and " .%:", cut at the width of the video
  const Video* video = nullptr;
};

/// Videos of one size and length beside each other, each below its label. Throws
/// Error(kInvalidArgument) if there are none or they differ.
[[nodiscard]] Video side_by_side(std::span<const LabelledVideo> videos);

/// `columns` frames of each video in a row, evenly spaced from the first to the last, one row per
/// video below its label (no label, no line). Throws as side_by_side(), or if `columns` is not
/// 1..number of frames.
[[nodiscard]] Image frame_strip(std::span<const LabelledVideo> videos, int columns);

}  // namespace psa::engine
