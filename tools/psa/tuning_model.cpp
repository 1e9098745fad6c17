// SPDX-License-Identifier: Apache-2.0
#include "tuning_model.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <system_error>
#include <utility>

#include "engine/generation/generation_defaults.hpp"
#include "engine/sampler/scheduler_config.hpp"
#include "engine/tensors/printable.hpp"
#include "engine/video/quality.hpp"
#include "psa/error.hpp"
#include "qkv_capture.hpp"
#include "step_progress.hpp"
#include "table.hpp"
#include "tuning_prompts.hpp"

namespace psa::cli {
namespace {

/// An early and a late step: what attention reads changes over sampling, most in the beginning.
CaptureChoice capture_choice(const engine::WanConfig& model,
                             const engine::GenerationRequest& request) {
  CaptureChoice choice;
  for (const double part : {0.15, 0.75}) {
    choice.steps.insert(static_cast<int>(part * request.steps));
  }
  const std::vector<index_t>& dense = request.dense_layers;
  for (index_t layer = 0; layer < model.num_layers; ++layer) {
    if (std::find(dense.begin(), dense.end(), layer) == dense.end()) {
      choice.layers.insert(static_cast<int>(layer));
    }
  }
  if (!choice.layers.empty()) return choice;
  throw Error(Status::kInvalidArgument, "no layer is left to tune: all " +
                                            std::to_string(model.num_layers) +
                                            " are dense layers (--dense-layers)");
}

double seconds_of(const engine::Generation& generation) {
  constexpr double kMsPerSecond = 1000;
  return generation.total_ms() / kMsPerSecond;
}

}  // namespace

void TuningModelOptions::add(CLI::App& command) {
  constexpr const char* kGroup = "Model";
  CLI::Option* folder =
      command.add_option("--model", model, "folder of a Wan checkpoint (diffusers format)")
          ->type_name("DIR")
          ->group(kGroup);
  CLI::Option* prompt = command.add_option("--prompt", prompts, "of a video to tune on; repeat it")
                            ->type_name("TEXT")
                            ->group(kGroup)
                            ->needs(folder);
  command
      .add_option("--prompts", prompts_file,
                  "file with a prompt a line (default: prompts.txt of the model)")
      ->type_name("FILE")
      ->group(kGroup)
      ->needs(folder)
      ->excludes(prompt);
  add_compute_option(command, compute, kGroup);
  sampling.seed_flag = "--noise-seed";
  sampling.add(command);
  for (const char* flag : {"--compute", "--frames", "--height", "--width", "--steps",
                           "--noise-seed", "--guidance", "--warmup-steps", "--dense-layers"}) {
    command.get_option(flag)->needs(folder);
  }
}

TuningModel::TuningModel(const TuningModelOptions& options, const CallOptions& call, bool is_quiet)
    : scheduler_(engine::read_scheduler_config(options.model)), is_quiet_(is_quiet) {
  const auto encoder = engine::open_text_encoder(options.model);
  for (std::string& text : tuning_prompts(options.prompts, options.prompts_file, options.model)) {
    std::vector<float> encoded = encoder->encode(text);
    prompts_.push_back({std::move(text), std::move(encoded), std::nullopt, 0});
  }
  unconditional_ = encoder->unconditional();
  request_ = sampling_request(options.sampling, engine::read_generation_defaults(options.model),
                              call.file_config());
  if (!options.sampling.warmup_steps.empty()) fixed_warmup_ = request_.warmup_steps;
  const PlanOptions machine = call.plan_options();
  engine_ = engine_options(machine.backend == "auto" ? "cpu" : machine.backend, options.compute,
                           machine.num_threads);
  transformer_ = load_transformer(options.model, engine_, *encoder);
  choice_ = capture_choice(transformer_->config(), request_);
}

Problem TuningModel::problem(const CallOptions& call) const {
  const engine::WanConfig& model = transformer_->config();
  Problem problem;
  call.apply_base(problem);
  problem.layout.grid = model.grid_of(request_.size);
  const index_t tokens = problem.layout.grid.tokens();
  const index_t heads = model.num_attention_heads;
  const DType dtype = engine_.compute;
  problem.shape = {1, heads, heads, tokens, tokens, model.attention_head_dim, dtype, dtype, dtype};
  call.apply_flags(problem);
  apply_default_order(call, problem);
  return problem;
}

std::size_t TuningModel::index_of(const std::string& prompt) const {
  const auto found = std::find_if(prompts_.begin(), prompts_.end(),
                                  [&](const Prompt& known) { return known.text == prompt; });
  return static_cast<std::size_t>(found - prompts_.begin());
}

const engine::Video& TuningModel::dense_video(const std::string& prompt) const {
  return prompts_[index_of(prompt)].dense.value();
}

engine::GenerationRequest TuningModel::request_of(std::size_t prompt) const {
  engine::GenerationRequest request = request_;
  request.text = prompts_[prompt].encoded;
  request.unconditional = unconditional_;
  // So that captures do not differ in their prompts alone.
  request.seed += prompt;
  return request;
}

void TuningModel::check_space(const std::filesystem::path& folder) const {
  constexpr int kTensors = 3;
  const engine::WanConfig& model = transformer_->config();
  const auto values =
      static_cast<std::uintmax_t>(kTensors * model.grid_of(request_.size).tokens() * model.dim());
  const std::uintmax_t bytes = values * size_of(engine_.compute) * choice_.layers.size() *
                               choice_.steps.size() * prompts_.size();
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(folder, error);
  if (error || space.available >= bytes) return;
  throw Error(Status::kIo, "captures of " + std::to_string(prompts_.size()) + " prompts take " +
                               bytes_text(static_cast<double>(bytes)) + "; " +
                               io::printable(folder.string()) + " has " +
                               bytes_text(static_cast<double>(space.available)) +
                               " left (--keep-captures DIR names another folder)");
}

bool TuningModel::makes_pixels() const {
  constexpr index_t kColors = 3;
  return transformer_->config().out_channels == kColors;
}

std::vector<std::string> TuningModel::capture(const std::filesystem::path& folder) {
  check_space(folder);
  std::vector<WrittenCapture> written;
  StepProgress progress("tune", static_cast<int>(prompts_.size()), request_.steps, is_quiet_);
  for (std::size_t i = 0; i < prompts_.size(); ++i) {
    const std::filesystem::path base = folder / ("prompt" + std::to_string(i));
    engine::GenerationObserver observer = capturing(choice_, base, prompts_[i].text, written);
    observer.after_step = [&](const engine::StepReport& step) { progress.end_step(step); };
    progress.begin("dense video " + std::to_string(i + 1) + " of " +
                   std::to_string(prompts_.size()));
    const engine::Generation dense =
        engine::generate(*transformer_, scheduler_, engine::dense_request(request_of(i)), observer);
    prompts_[i].dense_seconds = seconds_of(dense);
    if (makes_pixels()) prompts_[i].dense = pixels_of(dense, request_.size);
  }
  std::vector<std::string> files;
  std::transform(written.begin(), written.end(), std::back_inserter(files),
                 [](const WrittenCapture& capture) { return capture.path.string(); });
  return files;
}

TunedVideo TuningModel::make_video(const std::string& prompt, const Budgets& budgets,
                                   int warmup_steps, const std::string& what) const {
  const std::size_t index = index_of(prompt);
  engine::GenerationRequest request = request_of(index);
  request.warmup_steps = warmup_steps;
  request.attention = budgets.config;
  for (const auto& [layer, config] : budgets.layers) request.layers[layer.value()] = config;
  StepProgress progress("tune", 1, request.steps, is_quiet_);
  progress.begin(what);
  engine::GenerationObserver observer;
  observer.after_step = [&](const engine::StepReport& step) { progress.end_step(step); };
  const engine::Generation made = engine::generate(*transformer_, scheduler_, request, observer);
  engine::Video pixels = pixels_of(made, request_.size);
  const double psnr_db = engine::compare_videos(dense_video(prompt), pixels).psnr_db;
  return {std::move(pixels), psnr_db, seconds_of(made), prompts_[index].dense_seconds};
}

}  // namespace psa::cli
