// SPDX-License-Identifier: Apache-2.0
// Built where FFmpeg is not there (PSA_WITH_FFMPEG).
#include "engine/video/mp4.hpp"
#include "psa/error.hpp"

namespace psa::engine {

std::string mp4_encoder() { return ""; }

std::vector<std::byte> encode_mp4(const Video& /*video*/, int /*frames_per_second*/) {
  throw Error(Status::kUnsupported, "this psa was built without FFmpeg and writes no .mp4");
}

}  // namespace psa::engine
