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
#include "engine/blocks/attention_plans.hpp"
#include "engine/blocks/wan_transformer.hpp"
#include "engine/generation/generation.hpp"
#include "engine/generation/generation_defaults.hpp"
#include "engine/text/text_encoder.hpp"
#include "engine/video/video_file.hpp"
#include "generation_output.hpp"
#include "generation_report.hpp"
#include "machine.hpp"
#include "output.hpp"
#include "progress.hpp"
#include "psa/error.hpp"
#include "qkv_capture.hpp"
#include "report.hpp"
#include "table.hpp"
#include "tensors_out.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

constexpr index_t kMaxSide = 1 << 16;
constexpr index_t kMaxSteps = 1000;
constexpr index_t kMaxFramesPerSecond = 240;
constexpr double kMaxGuidance = 1000;
constexpr Words<DeviceType, 2> kBackends{{{"cpu", DeviceType::kCpu}, {"cuda", DeviceType::kCuda}}};

/// Options as typed; empty: not given.
struct GenerateCommand {
  CallOptions call;
  std::string model;
  std::string prompt;
  std::string out;
  std::string steps, seed, guidance, warmup_steps, dense_layers;
  std::string frames, height, width, frames_per_second, enlarge;
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

index_t integer_of(const char* flag, const std::string& given, std::optional<index_t> fallback,
                   index_t low, index_t high) {
  if (!given.empty()) return parse_integer({flag, given}, low, high);
  if (fallback && *fallback >= low && *fallback <= high) return *fallback;
  if (fallback) {
    throw Error(Status::kIo, std::string(engine::kDefaultsFile) + " of the model gives " +
                                 std::to_string(*fallback) + " for " + flag + "; allowed are " +
                                 std::to_string(low) + " to " + std::to_string(high));
  }
  throw Error(Status::kInvalidArgument, std::string(flag) + " is needed: the model has no " +
                                            engine::kDefaultsFile + " that says it");
}

index_t size_of_axis(const char* flag, const std::string& given,
                     const engine::GenerationDefaults& defaults, std::size_t axis) {
  std::optional<index_t> fallback;
  if (defaults.size) fallback = (*defaults.size)[axis];
  return integer_of(flag, given, fallback, 1, kMaxSide);
}

/// --config; without it and --preset, the file that the model recommends.
std::optional<FileConfig> base_file(const GenerateCommand& command,
                                    const engine::GenerationDefaults& defaults) {
  if (!command.call.base_name().empty() || !defaults.config) return command.call.file_config();
  return read_config_file(std::filesystem::path(command.model) / *defaults.config, {});
}

/// Settings over what the model recommends, or over the default configuration in Gilbert order,
/// which a video always allows.
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
    problem.config.reorder = Reorder::kGilbert;
  }
  options.apply_base(problem);
  options.apply_flags(problem);
  return problem;
}

/// "6,7", or "none"; not given: what the model recommends. generate() knows how many there are.
std::vector<index_t> dense_layers_of(const std::string& given,
                                     const engine::GenerationDefaults& defaults) {
  if (given.empty()) return defaults.dense_layers.value_or(std::vector<index_t>{});
  std::vector<index_t> layers;
  if (given == "none") return layers;
  for (const std::string_view layer : split(given, ',')) {
    layers.push_back(parse_integer({"a layer of --dense-layers", layer}, 0,
                                   std::numeric_limits<index_t>::max()));
  }
  return layers;
}

/// The flag's, else those of --config, else what the model recommends.
int warmup_steps_of(const GenerateCommand& command, const std::optional<FileConfig>& file,
                    const engine::GenerationDefaults& defaults, int steps) {
  if (command.warmup_steps.empty() && file && file->warmup_steps) {
    return static_cast<int>(parse_integer(
        {file->origin + ": warmup_steps", std::to_string(*file->warmup_steps)}, 0, steps));
  }
  return static_cast<int>(integer_of("--warmup-steps", command.warmup_steps,
                                     defaults.warmup_steps.value_or(0), 0, steps));
}

GenerateSettings settings_of(const GenerateCommand& command,
                             const engine::GenerationDefaults& defaults) {
  GenerateSettings settings;
  engine::GenerationRequest& request = settings.request;
  const std::optional<FileConfig> file = base_file(command, defaults);
  request.size = {size_of_axis("--frames", command.frames, defaults, 0),
                  size_of_axis("--height", command.height, defaults, 1),
                  size_of_axis("--width", command.width, defaults, 2)};
  constexpr index_t kSteps = 30;
  constexpr index_t kFramesPerSecond = 8;
  request.steps = static_cast<int>(
      integer_of("--steps", command.steps, defaults.steps.value_or(kSteps), 1, kMaxSteps));
  request.warmup_steps = warmup_steps_of(command, file, defaults, request.steps);
  request.dense_layers = dense_layers_of(command.dense_layers, defaults);
  request.guidance =
      static_cast<float>(command.guidance.empty() ? defaults.guidance.value_or(1)
                                                  : parse_number({"--guidance", command.guidance},
                                                                 -kMaxGuidance, kMaxGuidance));
  if (!command.seed.empty()) {
    request.seed = static_cast<std::uint64_t>(
        parse_integer({"--seed", command.seed}, 0, std::numeric_limits<index_t>::max()));
  }
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

/// "psa, step 4 of 30, density 0.149, 1.6 s a step, 42 s left".
class StepProgress {
 public:
  StepProgress(int videos, int steps, bool is_quiet)
      : progress_("generate", videos * steps, is_quiet), steps_(steps) {}

  void begin(const std::string& name) {
    name_ = name;
    done_ = 0;
    announce("");
  }
  void end_step(const engine::StepReport& step) {
    ++done_;
    const double seconds = step.total_ms / 1000;
    if (done_ == steps_) return;
    announce(", density " + fixed(step.density(), 3) + ", " + fixed(seconds, 1) + " s a step, " +
             fixed(seconds * (steps_ - done_), 0) + " s left");
  }

 private:
  void announce(const std::string& more) {
    progress_.step(name_ + ", step " + std::to_string(done_ + 1) + " of " + std::to_string(steps_) +
                   more);
  }

  Progress progress_;
  int steps_;
  int done_ = 0;
  std::string name_;
};

void check_text(const engine::TextEncoder& encoder, const engine::WanConfig& model) {
  if (encoder.width() == model.text_dim) return;
  throw Error(Status::kIo, "the text encoder has " + std::to_string(encoder.width()) +
                               " channels, the transformer's text_dim is " +
                               std::to_string(model.text_dim));
}

engine::Video pixels_of(const engine::Generation& generation, const GenerateSettings& settings) {
  const auto& size = settings.request.size;
  return engine::video_of(generation.sample, {static_cast<int>(size[0]), static_cast<int>(size[1]),
                                              static_cast<int>(size[2])});
}

/// So that small videos can be seen.
int enlargement(const GenerateSettings& settings) {
  constexpr index_t kVisible = 256;
  const auto& size = settings.request.size;
  const index_t fits = std::max<index_t>(1, kVisible / std::max(size[1], size[2]));
  return settings.enlarge.value_or(static_cast<int>(fits));
}

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
    result.pixels = pixels_of(result.generation, settings);
    result.shown = engine::enlarged(*result.pixels, enlargement(settings));
    engine::write_video(path, *result.shown, settings.frames_per_second);
  }
  result.files.push_back(path);
}

/// q, k and v of the chosen layers and steps.
engine::GenerationObserver capturing(const CaptureChoice& choice, const GenerateCommand& command,
                                     std::vector<Capture>& written) {
  engine::GenerationObserver observer;
  observer.after_attention = [&](int step, const engine::LayerAttention& layer) {
    if (!choice.steps.contains(step) || !choice.layers.contains(layer.layer)) return;
    const std::filesystem::path path = capture_path(command.out, layer.layer, step);
    write_capture(path, step, command.prompt, layer);
    written.push_back({path, layer.layer, step, {}});
  };
  return observer;
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
  engine::GenerationRequest request = settings.request;
  request.attention = engine::dense_config();
  request.layers.clear();
  GeneratedVideo& dense = run.dense.emplace();
  dense.name = "dense";
  dense.generation =
      engine::generate(model, engine::read_scheduler_config(command.model), request, observer);
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
  check_text(encoder, model.config());
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

  StepProgress progress(settings.compares_dense ? 2 : 1, request.steps, command.is_json);
  CaptureChoice choice;
  engine::GenerationObserver observer;
  if (!command.capture.empty()) {
    choice =
        parse_capture(command.capture, static_cast<int>(model.config().num_layers), request.steps);
    observer = capturing(choice, command, run.captures);
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
  for (Capture& capture : run.captures) {
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

engine::EngineOptions engine_options(const GenerateCommand& command) {
  engine::EngineOptions options;
  options.backend = parse_word({"--backend", command.backend}, kBackends);
  options.num_threads = command.threads;
  options.compute = command.compute.empty() ? engine::preferred_compute(options.backend)
                                            : parse_dtype("--compute", command.compute);
  return options;
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
  const engine::EngineOptions options = engine_options(command);
  const auto model = engine::WanTransformer::load(command.model, options);
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
  command
      .add_option("--compute", options.compute,
                  "default: bf16 where the processor has it, and on CUDA, which takes no other")
      ->type_name("f32|bf16")
      ->group(kGroup);
  command.add_option("--threads", options.threads, "0 (default): one per usable processor")
      ->type_name("N")
      ->check(CLI::Range(0, 1024).description(""))
      ->group(kGroup);
}

void add_sampling_options(CLI::App& command, GenerateCommand& options) {
  constexpr const char* kGroup = "Sampling (default: the model's psa.json)";
  const auto add = [&](const char* flag, std::string& value, const char* help,
                       const char* type = "N") {
    command.add_option(flag, value, help)->type_name(type)->group(kGroup);
  };
  add("--frames", options.frames, "of the video");
  add("--height", options.height, "in pixels");
  add("--width", options.width, "in pixels");
  add("--steps", options.steps, "of the sampler (else 30)");
  add("--seed", options.seed, "of the noise; equal seeds give equal videos (default 0)");
  add("--guidance", options.guidance, "strength of the prompt; 1 (else) is none", "G");
  add("--warmup-steps", options.warmup_steps, "first steps with dense attention (else 0)");
  add("--dense-layers", options.dense_layers, "layers with dense attention, from 0, or none",
      "N,...");
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
  add_sampling_options(*command, *options);
  add_result_options(*command, *options);
  options->call.add_attention(*command);
  command->footer(
      "Example:\n"
      "  psa generate --model models/shapes --prompt 'a large red circle moves left on a dark "
      "background'\n    -o video.mp4 --compare dense --capture layers=4,steps=10 --report out");
  command->callback([options, command] { run_generate(*options, command_text(*command)); });
}

}  // namespace psa::cli
