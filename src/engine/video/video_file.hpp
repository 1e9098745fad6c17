// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "engine/video/video.hpp"

namespace psa::engine {

/// How a video is stored, chosen by its path:
///   NAME.mp4        H.264 through FFmpeg, if psa was built with it
///   NAME.gif        animated GIF with 256 colors
///   NAME_%04d.png   one PNG per frame, numbered from 0; any width of 1 to 9 digits
///   FOLDER          (no extension, or a slash at the end) FOLDER/frame_0000.png, ...; FOLDER is
///                   made if it is missing
enum class VideoFormat : std::uint8_t { kMp4, kGif, kPngs };

/// Throws Error(kInvalidArgument) for another extension, Error(kUnsupported) for .mp4 without
/// FFmpeg; both list what this psa writes.
[[nodiscard]] VideoFormat video_format_of(const std::filesystem::path& path);

/// What write_video() would refuse before it writes: the format; a folder to write to that is
/// missing or may not be written to (Error(kIo)); PNGs of a longer video at the place, which would
/// stay as its end (Error(kInvalidArgument)). For programs that compute for minutes before they
/// write.
void check_video_path(const std::filesystem::path& path, int num_frames);

/// Writes the file, or all files, whole or not at all. Of several PNGs, existing ones are replaced
/// once all are on the disk. Throws as check_video_path(), Error(kInvalidArgument) if
/// `frames_per_second` is not 1..240, Error(kIo) if the disk is full or the like.
void write_video(const std::filesystem::path& path, const Video& video, int frames_per_second);

}  // namespace psa::engine
