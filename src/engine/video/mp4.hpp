// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "engine/video/video.hpp"

namespace psa::engine {

/// The FFmpeg encoder that encode_mp4() uses: "libx264" (H.264), or "mpeg4" (MPEG-4 part 2, larger
/// and not shown by browsers) if FFmpeg has no other. Empty if psa was built without FFmpeg.
[[nodiscard]] std::string mp4_encoder();

/// The bytes of an .mp4 file whose index comes first, so that browsers can start at once: yuv420p
/// in BT.709 with limited range, near visually lossless (CRF 16). An odd last column or row is
/// doubled. Encoded on one thread, without times or versions: equal videos give equal bytes with
/// one version of FFmpeg. Throws Error(kUnsupported) if mp4_encoder() is empty, Error(kInternal)
/// with FFmpeg's reason if encoding fails.
[[nodiscard]] std::vector<std::byte> encode_mp4(const Video& video, int frames_per_second);

}  // namespace psa::engine
