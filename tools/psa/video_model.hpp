// SPDX-License-Identifier: Apache-2.0
#pragma once

// A video model on the command line: how it samples and runs, for psa generate and psa tune.

#include <CLI/CLI.hpp>
#include <array>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "config_file.hpp"
#include "engine/blocks/wan_transformer.hpp"
#include "engine/generation/generation.hpp"
#include "engine/generation/generation_defaults.hpp"
#include "engine/text/text_encoder.hpp"
#include "engine/video/video.hpp"

namespace psa::cli {

/// Options as typed; empty: not given.
struct SamplingOptions {
  std::string frames, height, width;
  std::string steps, guidance, seed, warmup_steps, dense_layers;
  const char* seed_flag = "--seed";  ///< set before add() where it means something else

  /// Must outlive the App.
  void add(CLI::App& command);
};

/// An integer that was given, else the one that the model recommends, in [low, high]. Throws Error:
/// kInvalidArgument with `flag` for the first, or if there is neither; kIo for the second.
[[nodiscard]] index_t integer_of(const char* flag, const std::string& given,
                                 std::optional<index_t> fallback, index_t low, index_t high);

/// The options over what the model recommends; `file`, if there is one, over its warm-up too. Text
/// and attention are left to the caller. Throws Error(kInvalidArgument) for an option out of its
/// range and what integer_of() throws.
[[nodiscard]] engine::GenerationRequest sampling_request(const SamplingOptions& options,
                                                         const engine::GenerationDefaults& defaults,
                                                         const std::optional<FileConfig>& file);

/// --compute of a command.
void add_compute_option(CLI::App& command, std::string& compute, const char* group);

/// `backend`: cpu or cuda; `compute`: empty for the best. Throws Error(kInvalidArgument).
[[nodiscard]] engine::EngineOptions engine_options(const std::string& backend,
                                                   const std::string& compute, int threads);

/// The transformer of a checkpoint. Throws what WanTransformer::load() throws, and Error(kIo) if it
/// does not take the text of `encoder`.
[[nodiscard]] std::unique_ptr<engine::WanTransformer> load_transformer(
    const std::filesystem::path& model, const engine::EngineOptions& options,
    const engine::TextEncoder& encoder);

/// A video of `size` (frames, height, width) of a model that predicts pixels. Throws what
/// engine::video_of() throws.
[[nodiscard]] engine::Video pixels_of(const engine::Generation& generation,
                                      const std::array<index_t, 3>& size);

/// Pixels per pixel with which a small video can be seen.
[[nodiscard]] int visible_enlargement(index_t height, index_t width);

}  // namespace psa::cli
