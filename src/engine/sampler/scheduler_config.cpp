// SPDX-License-Identifier: Apache-2.0
#include "engine/sampler/scheduler_config.hpp"

#include <array>
#include <cmath>
#include <utility>

#include "engine/tensors/json_object.hpp"
#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"

namespace psa::engine {
namespace {

using io::JsonObject;

constexpr std::string_view kEulerClass = "FlowMatchEulerDiscreteScheduler";
constexpr std::string_view kUniPcClass = "UniPCMultistepScheduler";
constexpr index_t kMaxTimesteps = 1'000'000;

[[noreturn]] void refuse(const JsonObject& file, std::string_view key, const std::string& why) {
  throw Error(Status::kUnsupported, file.label() + ": " + io::printable(key) + " " + why);
}

void require_off(const JsonObject& file, std::string_view key) {
  if (file.flag(key).value_or(false)) refuse(file, key, "is true, which psa does not compute");
}

void require_missing(const JsonObject& file, std::string_view key) {
  if (file.has(key)) refuse(file, key, "is set, which psa does not compute");
}

void require_text(const JsonObject& file, std::string_view key, std::string_view fallback,
                  std::string_view wanted) {
  const std::string value = file.text(key).value_or(std::string(fallback));
  if (value != wanted) {
    refuse(file, key, "is " + io::printable(value) + "; psa computes " + io::printable(wanted));
  }
}

double positive(const JsonObject& file, std::string_view key, double fallback) {
  const double value = file.number(key).value_or(fallback);
  if (!(value > 0) || !std::isfinite(value)) file.reject(key, "expected a number above 0");
  return value;
}

int count(const JsonObject& file, std::string_view key, int fallback, index_t most) {
  const index_t value = file.integer(key).value_or(fallback);
  if (value < 1 || value > most) file.reject(key, "expected 1 to " + std::to_string(most));
  return static_cast<int>(value);
}

/// Settings of both classes that reshape the sigmas.
void check_schedule(const JsonObject& file) {
  for (const char* key :
       {"use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"}) {
    require_off(file, key);
  }
  require_missing(file, "shift_terminal");
}

SchedulerConfig euler_config(const JsonObject& file) {
  check_schedule(file);
  require_off(file, "invert_sigmas");
  require_off(file, "stochastic_sampling");
  SchedulerConfig config;
  config.shift = positive(file, "shift", 1);
  return config;
}

SchedulerConfig unipc_config(const JsonObject& file) {
  check_schedule(file);
  require_off(file, "thresholding");
  require_missing(file, "solver_p");
  require_text(file, "prediction_type", "epsilon", "flow_prediction");
  require_text(file, "solver_type", "bh2", "bh2");
  require_text(file, "final_sigmas_type", "zero", "zero");
  for (const char* key : {"predict_x0", "lower_order_final"}) {
    if (!file.flag(key).value_or(true)) refuse(file, key, "is false, which psa does not compute");
  }
  if (!file.flag("use_flow_sigmas").value_or(false)) {
    refuse(file, "use_flow_sigmas", "is not true; psa samples flow-matching models only");
  }
  SchedulerConfig config;
  config.kind = SamplerKind::kUniPc;
  config.shift = positive(file, "flow_shift", 1);
  config.solver_order = count(file, "solver_order", 2, 100);
  if (config.solver_order > 2) {
    refuse(file, "solver_order", "is " + std::to_string(config.solver_order) + "; psa has 1 and 2");
  }
  for (const index_t step : file.integers("disable_corrector").value_or(std::vector<index_t>{})) {
    if (step < 0 || step > kMaxTimesteps) file.reject("disable_corrector", "expected step numbers");
    config.disable_corrector.push_back(static_cast<int>(step));
  }
  return config;
}

SchedulerConfig config_of(const JsonObject& file) {
  const std::string class_name = file.text("_class_name").value_or("");
  SchedulerConfig config;
  if (class_name == kEulerClass) {
    config = euler_config(file);
  } else if (class_name == kUniPcClass) {
    config = unipc_config(file);
  } else if (class_name.empty()) {
    file.reject("_class_name", "expected the name of a scheduler of diffusers");
  } else {
    refuse(file, "_class_name",
           "is " + io::printable(class_name) + "; psa has " + std::string(kEulerClass) + " and " +
               std::string(kUniPcClass));
  }
  config.num_train_timesteps = count(file, "num_train_timesteps", 1000, kMaxTimesteps);
  return config;
}

}  // namespace

SchedulerConfig read_scheduler_config(const std::filesystem::path& model) {
  constexpr std::string_view kName = "scheduler_config.json";
  for (const std::filesystem::path& path : {model / kName, model / "scheduler" / kName}) {
    std::error_code unreachable;
    const bool is_there = std::filesystem::exists(path, unreachable);
    // What cannot be looked at is no missing file: reading it reports why.
    if (is_there || unreachable) return config_of(JsonObject::read(path));
  }
  return {};
}

SchedulerConfig parse_scheduler_config(std::string_view text, std::string label) {
  return config_of(JsonObject::parse(text, std::move(label)));
}

}  // namespace psa::engine
