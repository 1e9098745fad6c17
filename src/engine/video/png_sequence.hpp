// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include "engine/video/video.hpp"

namespace psa::engine {

/// Where the frames of a video go as PNG files.
struct PngSequence {
  std::filesystem::path folder;
  std::string stem;  ///< before the number
  int digits = 4;    ///< at least that many, with leading zeros
  std::string tail;  ///< after the number
  bool may_create_folder = false;

  /// The path of frame `index`, counted from 0.
  [[nodiscard]] std::filesystem::path path_of(int index) const;
};

/// From "FOLDER/NAME_%04d.png" or "FOLDER". Throws Error(kInvalidArgument) for a .png without a
/// number or with two.
[[nodiscard]] PngSequence png_sequence_of(const std::filesystem::path& path);

/// As check_video_path().
void check_png_sequence(const PngSequence& sequence, int num_frames);

/// As write_video(): encodes into a folder beside the frames, then moves all to their names.
void write_png_sequence(const PngSequence& sequence, const Video& video);

}  // namespace psa::engine
