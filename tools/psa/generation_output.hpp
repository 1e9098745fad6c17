// SPDX-License-Identifier: Apache-2.0
#pragma once

// What psa generate says of its videos.

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/generation/generation.hpp"
#include "engine/video/quality.hpp"
#include "engine/video/video.hpp"
#include "qkv_capture.hpp"

namespace psa::cli {

/// One video with how it was made.
struct GeneratedVideo {
  std::string name;  ///< psa or dense
  engine::Generation generation;
  std::optional<engine::Video> pixels;  ///< as the model makes them; none of latents
  std::optional<engine::Video> shown;   ///< enlarged, as in the file
  std::vector<std::filesystem::path> files;
};

/// A run of psa generate.
struct GenerationRun {
  std::string model;
  std::string prompt;
  std::string attention;  ///< settings of the sparse attention
  VideoGrid grid{};
  int steps = 0;
  int warmup_steps = 0;
  std::vector<index_t> dense_layers;
  std::uint64_t seed = 0;
  double guidance = 1;
  std::string compute;  ///< f32 or bf16
  std::string backend;  ///< cpu or cuda
  GeneratedVideo psa;
  std::optional<GeneratedVideo> dense;
  std::optional<double> skipped_dense_seconds;  ///< what dense would have taken, were it not over
                                                ///< the limit
  std::optional<engine::VideoQuality> quality;  ///< of psa against dense
  std::vector<WrittenCapture> captures;
};

/// "4 first steps and layers 6, 7 with dense attention", or nothing if none are.
[[nodiscard]] std::string dense_parts_text(const GenerationRun& run);
/// Of the videos, then of the captures, in the order in which they were written.
[[nodiscard]] std::vector<std::string> file_names(const GenerationRun& run);
/// Without the comparisons of captures.
[[nodiscard]] std::string generation_text(const GenerationRun& run);
/// "layer 4 in step 10".
[[nodiscard]] std::string place_text(const WrittenCapture& capture);
/// A table for each capture that was compared.
[[nodiscard]] std::string captures_text(const GenerationRun& run);
[[nodiscard]] nlohmann::ordered_json generation_json(const GenerationRun& run);

}  // namespace psa::cli
