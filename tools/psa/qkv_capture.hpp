// SPDX-License-Identifier: Apache-2.0
#pragma once

// q, k and v of a model's self-attention, written while it runs, in the form that psa compare
// reads, and compared afterwards.

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "comparison.hpp"
#include "engine/blocks/wan_transformer.hpp"
#include "engine/generation/generation.hpp"

namespace psa::cli {

/// What --capture names: each of the layers in each of the steps.
struct CaptureChoice {
  std::set<int> layers;
  std::set<int> steps;
};

/// What was written of one layer in one step.
struct WrittenCapture {
  std::filesystem::path path;
  int layer = 0;
  int step = 0;
  std::optional<Comparison> comparison;  ///< compare_capture(), for a report
};

/// "layers=1,4,steps=3,15": both lists, in either order, each number in [0, count). Throws
/// Error(kInvalidArgument).
[[nodiscard]] CaptureChoice parse_capture(std::string_view text, int num_layers, int num_steps);

/// The file of a layer and step beside `out`: video.mp4 -> video_layer4_step15.safetensors.
[[nodiscard]] std::filesystem::path capture_path(const std::filesystem::path& out, int layer,
                                                 int step);

/// Writes q, k, v [1, heads, tokens, head_dim] of the chosen layers and steps beside `out`, with
/// the grid and `prompt` as metadata, and appends them to `written`, which must outlive the
/// observer. It throws Error(kIo).
[[nodiscard]] engine::GenerationObserver capturing(CaptureChoice choice, std::filesystem::path out,
                                                   std::string prompt,
                                                   std::vector<WrittenCapture>& written);

/// Every method of psa compare on the written tensors of a video of `grid`, with rows, maps and the
/// curve; PSA as in `attention`. Throws what load_inputs() and psa throw.
[[nodiscard]] Comparison compare_capture(const std::filesystem::path& path, const VideoGrid& grid,
                                         const Config& attention, const PlanOptions& options,
                                         bool is_quiet);

}  // namespace psa::cli
