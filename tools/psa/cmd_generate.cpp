// SPDX-License-Identifier: Apache-2.0
// psa generate: a video from a prompt, by a transformer whose self-attention is psa's.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "call_options.hpp"
#include "command_text.hpp"
#include "commands.hpp"
#include "device_memory.hpp"
#include "engine/blocks/wan_transformer.hpp"
#include "engine/generation/generation.hpp"
#include "engine/generation/generation_defaults.hpp"
#include "engine/text/text_encoder.hpp"
#include "engine/video/video_file.hpp"
#include "generation_output.hpp"
#include "generation_report.hpp"
#include "machine.hpp"
#include "output.hpp"
#include "psa/error.hpp"
#include "qkv_capture.hpp"
#include "report.hpp"
#include "step_progress.hpp"
#include "table.hpp"
#include "tensors_out.hpp"
#include "values.hpp"
#include "video_model.hpp"

namespace psa::cli {
namespace {

constexpr index_t kMaxFramesPerSecond = 240;

/// Options as typed; empty: not given.
struct GenerateCommand {
  CallOptions call;
  std::string model;
  std::string prompt;
  std::string out;
  SamplingOptions sampling;
  std::string frames_per_second, enlarge;
  std::string compare, dense_limit;
  std::string capture;
  std::string compute;
  std::string backend = "cpu";
  std::string report;  // folder
  int threads = 0;
  bool lists_words = false;
  bool is_json = false;
};

/// What the options and the model's own defaults come to.
struct GenerateSettings {
  engine::GenerationRequest request;
  std::string attention;  // as settings
  int frames_per_second = 8;
  std::optional<int> enlarge;
  bool compares_dense = false;
  double dense_limit = std::numeric_limits<double>::infinity();  ///< seconds
};

/// --config; without it and --preset, the file that the model recommends.
std::optional<FileConfig> base_file(const GenerateCommand& command,
                                    const engine::GenerationDefaults& defaults) {
  if (!command.call.base_name().empty() || !defaults.config) return command.call.file_config();
  return read_config_file(std::filesystem::path(command.model) / *defaults.config, {});
}

/// Settings over what the model recommends, or over the preset `balanced`.
Problem attention_problem(const CallOptions& options, const engine::GenerationDefaults& defaults,
                          const std::optional<FileConfig>& file) {
  Problem problem;
  const bool has_base = !options.base_name().empty();
  if (!has_base && defaults.attention) {
    for (const std::string_view word : split(*defaults.attention, ' ')) {
      const std::size_t equals = word.find('=');
      const Setting* setting = find_setting(word.substr(0, equals));
      const std::string label = std::string(engine::kDefaultsFile) + ": attention";
      if (setting == nullptr || equals == std::string_view::npos) {
        reject({label, word}, "expected NAME=VALUE with a name of docs/cli.md");
      }
      setting->apply(problem, label, word.substr(equals + 1));
    }
  } else if (file) {
    problem.config = file->config;
  } else if (!has_base) {
    problem.config = find_preset("balanced").config;
  }
  options.apply_base(problem);
  options.apply_flags(problem);
  return problem;
}

GenerateSettings settings_of(const GenerateCommand& command,
                             const engine::GenerationDefaults& defaults) {
  GenerateSettings settings;
  const std::optional<FileConfig> file = base_file(command, defaults);
  engine::GenerationRequest& request = settings.request;
  request = sampling_request(command.sampling, defaults, file);
  constexpr index_t kFramesPerSecond = 8;
  settings.frames_per_second = static_cast<int>(
      integer_of("--fps", command.frames_per_second,
                 defaults.frames_per_second.value_or(kFramesPerSecond), 1, kMaxFramesPerSecond));
  if (!command.enlarge.empty()) {
    constexpr index_t kMaxEnlarge = 64;
    settings.enlarge =
        static_cast<int>(parse_integer({"--enlarge", command.enlarge}, 1, kMaxEnlarge));
  }
  if (!command.compare.empty() && command.compare != "dense") {
    reject({"--compare", command.compare}, "allowed: dense");
  }
  settings.compares_dense = !command.compare.empty();
  if (!command.dense_limit.empty()) {
    if (command.compare.empty()) {
      reject({"--dense-limit", command.dense_limit}, "needs --compare dense");
    }
    constexpr double kMaxSeconds = 1e9;
    settings.dense_limit = parse_number({"--dense-limit", command.dense_limit}, 0, kMaxSeconds);
  }
  const Problem attention = attention_problem(command.call, defaults, file);
  request.attention = attention.config;
  settings.attention = format_settings(attention);
  if (!file) return settings;
  for (const auto& [layer, config] : file->layers) {
    Problem problem{{}, {}, config};
    command.call.apply_flags(problem);
    request.layers[layer] = problem.config;
  }
  if (!file->layers.empty()) settings.attention += " and " + file->origin + " by layer";
  return settings;
}

bool writes_latents(const GenerateCommand& command) {
  return command.out.ends_with(".safetensors");
}

/// video.mp4 -> video_dense.mp4; a folder "frames/" -> "frames_dense"; psa.mp4 -> dense.mp4.
std::filesystem::path variant_path(const std::filesystem::path& out, const std::string& name) {
  const std::filesystem::path base = out.has_filename() ? out : out.parent_path();
  std::filesystem::path path = base.parent_path() / base.stem();
  if (base.stem() == "psa") {
    path.replace_filename(name);
  } else {
    // The number of a series of pictures stays behind the name: a_%04d.png -> a_%04d_dense.png.
    path += "_" + name;
  }
  path += base.extension();
  return path;
}

/// Everything that can go wrong with results, before minutes are spent on them.
void check_outputs(const GenerateCommand& command, const GenerateSettings& settings) {
  std::vector<std::filesystem::path> paths{command.out};
  if (settings.compares_dense) {
    paths.push_back(variant_path(command.out, "dense"));
    if (!writes_latents(command)) paths.push_back(variant_path(command.out, "compare"));
  }
  for (const std::filesystem::path& path : paths) {
    if (writes_latents(command)) {
      check_output_writable(path);
    } else {
      engine::check_video_path(path, static_cast<int>(settings.request.size[0]));
    }
  }
  if (command.report.empty()) return;
  if (writes_latents(command)) reject({"--report", command.report}, "latents cannot be shown");
  check_output_writable(report_path(command.report));
}

void check_channels(const GenerateCommand& command, const engine::WanConfig& model) {
  constexpr index_t kColors = 3;
  if (writes_latents(command) || model.out_channels == kColors) return;
  throw Error(Status::kUnsupported,
              "the model predicts " + std::to_string(model.out_channels) +
                  " latent channels, which a VAE turns into pixels; psa has none yet. --out "
                  "NAME.safetensors writes the latents");
}

// ---- running
// -------------------------------------------------------------------------------------

void write_latents(const std::filesystem::path& path, const engine::Generation& generation,
                   const engine::WanConfig& model, const GenerateSettings& settings) {
  const auto& size = settings.request.size;
  write_tensors(path,
                {{.name = "latents",
                  .dtype = io::FileDType::kF32,
                  .shape = {model.out_channels, size[0], size[1], size[2]},
                  .data = std::as_bytes(std::span(generation.sample))}},
                {});
}

void store(const GenerateCommand& command, const GenerateSettings& settings,
           const engine::WanConfig& model, const std::filesystem::path& path,
           GeneratedVideo& result) {
  if (writes_latents(command)) {
    write_latents(path, result.generation, model, settings);
  } else {
    result.pixels = pixels_of(result.generation, settings.request.size);
    const int fits = visible_enlargement(settings.request.size[1], settings.request.size[2]);
    result.shown = engine::enlarged(*result.pixels, settings.enlarge.value_or(fits));
    engine::write_video(path, *result.shown, settings.frames_per_second);
  }
  result.files.push_back(path);
}

/// What the same video would take with dense attention: as long as the warm-up's steps, or, without
/// any, attention stretched by the columns that it left out.
double dense_seconds(const engine::Generation& generation) {
  double step_ms = generation.step_ms() - generation.step_attention_ms() +
                   generation.step_attention_ms() / generation.step_density();
  if (generation.steps.front().is_dense) step_ms = generation.steps.front().total_ms;
  constexpr double kMsPerSecond = 1000;
  return step_ms * static_cast<double>(generation.steps.size()) / kMsPerSecond;
}

/// The same video with dense attention, and how much they differ.
void run_dense(const GenerateCommand& command, const GenerateSettings& settings,
               engine::WanTransformer& model, const engine::GenerationObserver& observer,
               GenerationRun& run) {
  GeneratedVideo& dense = run.dense.emplace();
  dense.name = "dense";
  dense.generation = engine::generate(model, engine::read_scheduler_config(command.model),
                                      engine::dense_request(settings.request), observer);
  store(command, settings, model.config(), variant_path(command.out, dense.name), dense);
  if (!dense.shown) return;
  run.quality = engine::compare_videos(*dense.pixels, *run.psa.pixels);
  const std::filesystem::path both = variant_path(command.out, "compare");
  const std::vector<engine::LabelledVideo> videos{{"psa", &*run.psa.shown},
                                                  {"dense", &*dense.shown}};
  engine::write_video(both, engine::side_by_side(videos), settings.frames_per_second);
  dense.files.push_back(both);
}

GenerationRun run_model(const GenerateCommand& command, GenerateSettings& settings,
                        engine::WanTransformer& model, const engine::TextEncoder& encoder) {
  engine::GenerationRequest& request = settings.request;
  const std::vector<float> unconditional = encoder.unconditional();
  request.unconditional = unconditional;

  GenerationRun run;
  run.model = command.model;
  run.prompt = command.prompt;
  run.attention = settings.attention;
  run.grid = model.config().grid_of(request.size);
  run.steps = request.steps;
  run.warmup_steps = request.warmup_steps;
  run.dense_layers = request.dense_layers;
  run.seed = request.seed;
  run.guidance = static_cast<double>(request.guidance);

  StepProgress progress("generate", settings.compares_dense ? 2 : 1, request.steps,
                        command.is_json);
  CaptureChoice choice;
  engine::GenerationObserver observer;
  if (!command.capture.empty()) {
    choice =
        parse_capture(command.capture, static_cast<int>(model.config().num_layers), request.steps);
    observer = capturing(choice, command.out, command.prompt, run.captures);
  }
  observer.after_step = [&](const engine::StepReport& step) { progress.end_step(step); };
  run.psa.name = "psa";
  progress.begin(run.psa.name);
  run.psa.generation =
      engine::generate(model, engine::read_scheduler_config(command.model), request, observer);
  store(command, settings, model.config(), command.out, run.psa);
  if (!settings.compares_dense) return run;
  if (const double seconds = dense_seconds(run.psa.generation); seconds > settings.dense_limit) {
    run.skipped_dense_seconds = seconds;
    return run;
  }
  observer.after_attention = {};
  progress.begin("dense");
  run_dense(command, settings, model, observer, run);
  return run;
}

void compare_captures(const GenerateCommand& command, const Config& attention, GenerationRun& run) {
  PlanOptions options;
  options.backend = command.backend;
  options.num_threads = command.threads;
  for (WrittenCapture& capture : run.captures) {
    capture.comparison =
        compare_capture(capture.path, run.grid, attention, options, command.is_json);
  }
}

void print_words(const engine::TextEncoder& encoder) {
  for (const engine::WordGroup& group : encoder.words()) {
    print(group.name + ": " + join(group.words, " ") + "\n");
  }
}

ReportFacts report_facts(const std::string& command_line, DeviceType backend) {
  const Machine machine = this_machine();
  ReportFacts facts{command_line,
                    "",
                    {{"processor", machine.cpu_model},
                     {"processors", std::to_string(machine.usable) + " usable"},
                     {"system", machine.system},
                     {"memory", bytes_text(static_cast<double>(machine.memory_bytes))}}};
  if (backend == DeviceType::kCuda) {
    facts.machine.emplace_back("GPU", cuda_report().devices.at(0).name);
  }
  return facts;
}

void run_generate(const GenerateCommand& command, const std::string& command_line) {
  const auto encoder = engine::open_text_encoder(command.model);
  if (command.lists_words) return print_words(*encoder);
  if (command.out.empty()) {
    throw Error(Status::kInvalidArgument, "--out is needed: where the video goes");
  }
  GenerateSettings settings = settings_of(command, engine::read_generation_defaults(command.model));
  const std::vector<float> text = encoder->encode(command.prompt);
  settings.request.text = text;
  check_outputs(command, settings);
  const engine::EngineOptions options =
      engine_options(command.backend, command.compute, command.threads);
  const auto model = load_transformer(command.model, options, *encoder);
  check_channels(command, model->config());
  GenerationRun run = run_model(command, settings, *model, *encoder);
  run.compute = std::string(name_of(options.compute));
  run.backend = command.backend;
  if (!command.is_json) print(generation_text(run));
  if (!command.report.empty()) compare_captures(command, settings.request.attention, run);
  if (command.is_json) {
    print_json(generation_json(run));
  } else {
    print(captures_text(run));
  }
  if (command.report.empty()) return;
  const std::filesystem::path path = report_path(command.report);
  write_report(path, generation_report_html(run, settings.frames_per_second,
                                            report_facts(command_line, options.backend)));
  if (!command.is_json) print("report     " + path.string() + "\n");
}

// ---- options
// -------------------------------------------------------------------------------------

void add_model_options(CLI::App& command, GenerateCommand& options) {
  constexpr const char* kGroup = "Model";
  command.add_option("--model", options.model, "folder of a Wan checkpoint (diffusers format)")
      ->type_name("DIR")
      ->required()
      ->group(kGroup);
  command.add_option("--prompt", options.prompt, "what the video shows")
      ->type_name("TEXT")
      ->group(kGroup);
  command
      .add_flag("--list-words", options.lists_words, "which words the model knows, and no video")
      ->group(kGroup);
  command.add_option("--backend", options.backend, "where: cpu (default) or cuda (device 0)")
      ->type_name("NAME")
      ->group(kGroup);
  add_compute_option(command, options.compute, kGroup);
  command.add_option("--threads", options.threads, "0 (default): one per usable processor")
      ->type_name("N")
      ->check(CLI::Range(0, 1024).description(""))
      ->group(kGroup);
}

void add_result_options(CLI::App& command, GenerateCommand& options) {
  constexpr const char* kGroup = "Results";
  command
      .add_option("-o,--out", options.out,
                  ".mp4, .gif, NAME_%04d.png, a folder, or .safetensors for latents")
      ->type_name("PATH")
      ->group(kGroup);
  command.add_option("--fps", options.frames_per_second, "frames per second (else 8)")
      ->type_name("N")
      ->group(kGroup);
  command.add_option("--enlarge", options.enlarge, "pixels per pixel (default: to about 256)")
      ->type_name("N")
      ->group(kGroup);
  command
      .add_option("--compare", options.compare,
                  "the same video with dense attention too, and how much they differ")
      ->type_name("dense")
      ->group(kGroup);
  command
      .add_option("--dense-limit", options.dense_limit,
                  "no dense video if it would take longer than this")
      ->type_name("SECONDS")
      ->group(kGroup);
  command
      .add_option("--capture", options.capture,
                  "write q, k, v for psa compare: layers=N,...,steps=N,...")
      ->type_name("WHICH")
      ->group(kGroup);
  command
      .add_option("--report", options.report,
                  "write DIR/report.html, with the videos, and psa compare on what is captured")
      ->type_name("DIR")
      ->group(kGroup);
  command.add_flag("--json", options.is_json, "print JSON")->group(kGroup);
}

}  // namespace

void add_generate_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("generate", "a video from a prompt, by a model with PSA inside");
  const auto options = std::make_shared<GenerateCommand>();
  add_model_options(*command, *options);
  options->sampling.add(*command);
  add_result_options(*command, *options);
  options->call.add_attention(*command);
  command->footer(
      "Example:\n"
      "  psa generate --model models/shapes --prompt 'a large red circle moves left on a dark "
      "background'\n    -o video.mp4 --compare dense --capture layers=4,steps=10 --report out");
  command->callback([options, command] { run_generate(*options, command_text(*command)); });
}

}  // namespace psa::cli
