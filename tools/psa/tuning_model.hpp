// SPDX-License-Identifier: Apache-2.0
#pragma once

// The video model that psa tune --model finds a configuration for: its dense videos, and q, k and v
// of its self-attention while it makes them.

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "call_options.hpp"
#include "engine/blocks/wan_transformer.hpp"
#include "engine/generation/generation.hpp"
#include "engine/sampler/scheduler_config.hpp"
#include "engine/video/video.hpp"
#include "problem.hpp"
#include "qkv_capture.hpp"
#include "tuning_budgets.hpp"
#include "video_model.hpp"

namespace psa::cli {

/// Options as typed; empty: not given.
struct TuningModelOptions {
  std::string model;  ///< folder
  std::vector<std::string> prompts;
  std::string prompts_file;
  std::string compute;
  SamplingOptions sampling;

  /// --model and what needs it. Must outlive the App.
  void add(CLI::App& command);
};

/// A video beside that of dense attention from the same noise.
struct TunedVideo {
  engine::Video pixels;
  double psnr_db = 0;  ///< infinite if they are equal
  double seconds = 0;  ///< of the model calls
  double dense_seconds = 0;
};

class TuningModel {
 public:
  /// Loads the model and encodes the prompts. Throws Error: kInvalidArgument for an option or a
  /// prompt that the model does not take; what loading throws.
  TuningModel(const TuningModelOptions& options, const CallOptions& call, bool is_quiet);

  /// Of self-attention, with the base configuration that `call` gives.
  [[nodiscard]] Problem problem(const CallOptions& call) const;

  /// Files of q, k and v of every layer that is not dense, in an early and a late step of each
  /// prompt, written to `folder` while the prompts' videos are made with dense attention. Throws
  /// Error(kIo), before the model runs if there is too little space.
  [[nodiscard]] std::vector<std::string> capture(const std::filesystem::path& folder);

  [[nodiscard]] int steps() const { return request_.steps; }
  /// --warmup-steps, if it is given.
  [[nodiscard]] std::optional<int> fixed_warmup() const { return fixed_warmup_; }
  /// Latents cannot be compared in dB.
  [[nodiscard]] bool makes_pixels() const;
  /// After capture(), of one of the prompts.
  [[nodiscard]] const engine::Video& dense_video(const std::string& prompt) const;
  /// After capture(): the video of one of the prompts. `what` is said while it is made.
  [[nodiscard]] TunedVideo make_video(const std::string& prompt, const Budgets& budgets,
                                      int warmup_steps, const std::string& what) const;

 private:
  struct Prompt {
    std::string text;
    std::vector<float> encoded;          ///< [tokens, text_dim]
    std::optional<engine::Video> dense;  ///< of capture(), unless the model makes latents
    double dense_seconds = 0;
  };

  [[nodiscard]] std::size_t index_of(const std::string& prompt) const;
  [[nodiscard]] engine::GenerationRequest request_of(std::size_t prompt) const;
  void check_space(const std::filesystem::path& folder) const;

  std::unique_ptr<engine::WanTransformer> transformer_;
  engine::SchedulerConfig scheduler_;
  engine::EngineOptions engine_;
  engine::GenerationRequest request_;  ///< without text and attention
  std::vector<Prompt> prompts_;
  std::vector<float> unconditional_;  ///< [tokens, text_dim]
  std::optional<int> fixed_warmup_;
  CaptureChoice choice_;
  bool is_quiet_;
};

}  // namespace psa::cli
