// SPDX-License-Identifier: Apache-2.0
#include "engine/sampler/sampler.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "engine/error_text.hpp"
#include "engine/sampler_golden.hpp"
#include "engine/scratch_dir.hpp"

namespace psa::engine {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::FloatNear;
using testing::HasSubstr;
using testing::Pointwise;

constexpr std::size_t kElements = 4;  // of a sample of sampler_golden.hpp

TEST(Sampler, SchedulesAreThoseOfDiffusers) {
  for (const SamplerGolden& golden : kSamplerGolden) {
    SCOPED_TRACE(golden.name);
    const Sampler sampler =
        Sampler::create(golden.config, static_cast<int>(golden.timesteps.size()));
    std::vector<float> timesteps;
    std::vector<float> sigmas;
    for (int i = 0; i < sampler.steps(); ++i) timesteps.push_back(sampler.timestep(i));
    for (int i = 0; i <= sampler.steps(); ++i) sigmas.push_back(sampler.sigma(i));
    // UniPC's are whole numbers, so that a tolerance of rounding means equality.
    EXPECT_THAT(timesteps, Pointwise(FloatNear(1e-4F), golden.timesteps));
    EXPECT_THAT(sigmas, Pointwise(FloatNear(1.2e-7F), golden.sigmas));
  }
}

TEST(Sampler, EveryStepIsThatOfDiffusers) {
  for (const SamplerGolden& golden : kSamplerGolden) {
    SCOPED_TRACE(golden.name);
    Sampler sampler = Sampler::create(golden.config, static_cast<int>(golden.timesteps.size()));
    const std::span<const float> samples(golden.samples);
    const std::span<const float> velocities(golden.velocities);
    std::vector<float> sample(samples.begin(), samples.begin() + kElements);
    for (std::size_t i = 0; i < golden.timesteps.size(); ++i) {
      sampler.step(static_cast<int>(i), velocities.subspan(i * kElements, kElements), sample);
      // diffusers computes its coefficients in float.
      EXPECT_THAT(sample,
                  Pointwise(FloatNear(2e-5F), samples.subspan((i + 1) * kElements, kElements)))
          << "after step " << i;
    }
  }
}

/// Exact velocity where the videos are normal numbers with mean 0.5 and deviation 0.3.
std::vector<float> velocity_of_normal_videos(std::span<const float> sample, float sigma) {
  constexpr double kMean = 0.5;
  constexpr double kVariance = 0.09;
  const auto s = static_cast<double>(sigma);
  const double variance = (1 - s) * (1 - s) * kVariance + s * s;
  std::vector<float> velocity;
  for (const float x : sample) {
    const double offset = (static_cast<double>(x) - (1 - s) * kMean) / variance;
    const double noise = s * offset;
    const double video = kMean + (1 - s) * kVariance * offset;
    velocity.push_back(static_cast<float>(noise - video));
  }
  return velocity;
}

/// Largest distance from the end of the exact trajectory, which is mean + deviation * noise.
double error_after(SamplerKind kind, int steps) {
  const std::vector<float> noise{-2.0F, -0.5F, 0.1F, 1.5F};
  Sampler sampler = Sampler::create({.kind = kind, .shift = 3}, steps);
  std::vector<float> sample = noise;
  for (int i = 0; i < steps; ++i) {
    sampler.step(i, velocity_of_normal_videos(sample, sampler.sigma(i)), sample);
  }
  double error = 0;
  for (std::size_t i = 0; i < noise.size(); ++i) {
    const double exact = 0.5 + 0.3 * static_cast<double>(noise[i]);
    error = std::max(error, std::abs(static_cast<double>(sample[i]) - exact));
  }
  return error;
}

TEST(Sampler, ErrorFallsWithTheOrderOfTheSolver) {
  EXPECT_LT(error_after(SamplerKind::kEuler, 40), 0.6 * error_after(SamplerKind::kEuler, 20));
  EXPECT_LT(error_after(SamplerKind::kUniPc, 40), 0.3 * error_after(SamplerKind::kUniPc, 20));
  EXPECT_LT(error_after(SamplerKind::kUniPc, 40), 0.3 * error_after(SamplerKind::kEuler, 40));
}

TEST(Sampler, StepsAreTakenInOrderWithOneSize) {
  Sampler sampler = Sampler::create({}, 2);
  std::vector<float> sample(3);
  const std::vector<float> velocity(3);
  const auto step = [&](int index, std::size_t size) {
    return error_text(Status::kInvalidArgument,
                      [&] { sampler.step(index, std::span(velocity).first(size), sample); });
  };
  EXPECT_EQ(step(1, 3), "step 1 of 2 was asked for; the next one is 0");
  EXPECT_EQ(step(0, 2), "step 0 has 2 velocities and 3 samples; expected 3");
  EXPECT_EQ(step(0, 3), "(no error)");
  sample.resize(2);
  EXPECT_EQ(step(1, 2), "step 1 has 2 velocities and 2 samples; expected 3");
  sample.resize(3);
  EXPECT_EQ(step(1, 3), "(no error)");
  EXPECT_EQ(step(2, 3), "step 2 of 2 was asked for; the next one is 2");
}

TEST(Sampler, BadSettingsAreRefused) {
  const auto create = [](const SchedulerConfig& config, int steps) {
    return error_text(Status::kInvalidArgument,
                      [&] { static_cast<void>(Sampler::create(config, steps)); });
  };
  EXPECT_EQ(create({}, 0), "the number of steps is 0; allowed are 1 to 1000");
  EXPECT_EQ(create({}, -3), "the number of steps is -3; allowed are 1 to 1000");
  EXPECT_EQ(create({}, 1001), "the number of steps is 1001; allowed are 1 to 1000");
  EXPECT_THAT(create({.shift = 0}, 1), HasSubstr("shift is 0.0"));
  EXPECT_THAT(create({.shift = std::numeric_limits<double>::quiet_NaN()}, 1),
              HasSubstr("shift is"));
  EXPECT_THAT(create({.num_train_timesteps = 0}, 1), HasSubstr("num_train_timesteps is 0"));
  EXPECT_THAT(create({.kind = SamplerKind::kUniPc, .solver_order = 3}, 1),
              HasSubstr("solver_order is 3"));
  const Sampler sampler = Sampler::create({}, 2);
  EXPECT_THAT(error_text(Status::kInvalidArgument, [&] { static_cast<void>(sampler.timestep(2)); }),
              HasSubstr("no step 2"));
  EXPECT_THAT(error_text(Status::kInvalidArgument, [&] { static_cast<void>(sampler.sigma(-1)); }),
              HasSubstr("no step -1"));
}

TEST(Guidance, ExtrapolatesFromTheUnconditionalVelocity) {
  std::vector<float> velocity{1.0F, 2.0F};
  guide(std::vector<float>{0.5F, 3.0F}, 3.0F, velocity);
  EXPECT_THAT(velocity, ElementsAre(2.0F, 0.0F));
  EXPECT_EQ(
      error_text(Status::kInvalidArgument, [&] { guide(std::vector<float>(3), 3, velocity); }),
      "guidance combines 3 and 2 velocities; expected equally many");
}

TEST(SchedulerConfig, BothClassesOfDiffusersAreRead) {
  const SchedulerConfig euler = parse_scheduler_config(
      R"({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3, "shift_terminal": null,
          "use_dynamic_shifting": false, "base_shift": 0.5})",
      "file");
  EXPECT_EQ(euler.kind, SamplerKind::kEuler);
  EXPECT_EQ(euler.shift, 3);
  EXPECT_EQ(euler.num_train_timesteps, 1000);
  // As in the Wan 2.1 checkpoints.
  const SchedulerConfig unipc = parse_scheduler_config(
      R"({"_class_name": "UniPCMultistepScheduler", "_diffusers_version": "0.33.0.dev0",
          "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001,
          "disable_corrector": [3], "dynamic_thresholding_ratio": 0.995,
          "final_sigmas_type": "zero", "flow_shift": 3.0, "lower_order_final": true,
          "num_train_timesteps": 500, "predict_x0": true, "prediction_type": "flow_prediction",
          "rescale_betas_zero_snr": false, "sample_max_value": 1.0, "solver_order": 1,
          "solver_p": null, "solver_type": "bh2", "steps_offset": 0, "thresholding": false,
          "timestep_spacing": "linspace", "trained_betas": null, "use_beta_sigmas": false,
          "use_exponential_sigmas": false, "use_flow_sigmas": true, "use_karras_sigmas": false})",
      "file");
  EXPECT_EQ(unipc.kind, SamplerKind::kUniPc);
  EXPECT_EQ(unipc.shift, 3);
  EXPECT_EQ(unipc.num_train_timesteps, 500);
  EXPECT_EQ(unipc.solver_order, 1);
  EXPECT_THAT(unipc.disable_corrector, ElementsAre(3));
}

TEST(SchedulerConfig, IsFoundInBothLayoutsAndMayBeMissing) {
  const io::ScratchDir dir;
  EXPECT_EQ(read_scheduler_config(dir.root()).shift, 5);
  EXPECT_EQ(read_scheduler_config(dir.root()).kind, SamplerKind::kEuler);
  std::filesystem::create_directory(dir.path("scheduler"));
  io::put_content(dir.path("scheduler/scheduler_config.json"),
                  R"({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2})");
  EXPECT_EQ(read_scheduler_config(dir.root()).shift, 2);
  io::put_content(dir.path("scheduler_config.json"),
                  R"({"_class_name": "FlowMatchEulerDiscreteScheduler"})");
  EXPECT_EQ(read_scheduler_config(dir.root()).shift, 1) << "diffusers' default";
}

TEST(SchedulerConfig, WhatWouldChangeTheResultIsRefused) {
  const auto refusal = [](const std::string& settings) {
    return error_text(Status::kUnsupported, [&] {
      static_cast<void>(parse_scheduler_config("{" + settings + "}", "file"));
    });
  };
  EXPECT_EQ(refusal(R"("_class_name": "DDIMScheduler")"),
            "'file': '_class_name' is 'DDIMScheduler'; psa has FlowMatchEulerDiscreteScheduler and "
            "UniPCMultistepScheduler");
  const std::string euler = R"("_class_name": "FlowMatchEulerDiscreteScheduler", )";
  for (const char* key : {"use_dynamic_shifting", "use_karras_sigmas", "use_exponential_sigmas",
                          "use_beta_sigmas", "invert_sigmas", "stochastic_sampling"}) {
    EXPECT_THAT(refusal(euler + '"' + key + R"(": true)"), HasSubstr(key));
  }
  EXPECT_THAT(refusal(euler + R"("shift_terminal": 0.1)"), HasSubstr("shift_terminal"));
  const std::string unipc = R"("_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": true, )"
                            R"("prediction_type": "flow_prediction", )";
  for (const char* setting :
       {R"("thresholding": true)", R"("predict_x0": false)", R"("lower_order_final": false)",
        R"("solver_type": "bh1")", R"("final_sigmas_type": "sigma_min")", R"("solver_order": 3)",
        R"("solver_p": {})"}) {
    const std::string key = std::string(setting).substr(1, std::string(setting).find("\":") - 1);
    EXPECT_THAT(refusal(unipc + setting), HasSubstr("'" + key + "'"));
  }
  EXPECT_THAT(refusal(R"("_class_name": "UniPCMultistepScheduler")"),
              HasSubstr("'prediction_type' is 'epsilon'; psa computes 'flow_prediction'"));
  EXPECT_THAT(refusal(R"("_class_name": "UniPCMultistepScheduler",
                         "prediction_type": "flow_prediction")"),
              HasSubstr("use_flow_sigmas"));
}

TEST(SchedulerConfig, InvalidFilesAreReported) {
  const auto defect = [](const std::string& text) {
    return error_text(Status::kIo,
                      [&] { static_cast<void>(parse_scheduler_config(text, "file")); });
  };
  EXPECT_EQ(defect("{"), "'file': not valid JSON at byte 2");
  EXPECT_EQ(defect("[]"), "'file': not a JSON object");
  EXPECT_EQ(defect("{}"),
            "'file': '_class_name' is missing; expected the name of a scheduler of diffusers");
  const std::string euler = R"({"_class_name": "FlowMatchEulerDiscreteScheduler", )";
  EXPECT_EQ(defect(euler + R"("shift": "5"})"), "'file': 'shift' is '\"5\"'; expected a number");
  EXPECT_THAT(defect(euler + R"("shift": -5})"), HasSubstr("expected a number above 0"));
  EXPECT_THAT(defect(euler + R"("num_train_timesteps": 0})"), HasSubstr("expected 1 to"));
  EXPECT_THAT(defect(euler + R"("num_train_timesteps": 1.5})"), HasSubstr("a whole number"));
  EXPECT_THAT(defect(euler + R"("use_karras_sigmas": 1})"), HasSubstr("expected true or false"));
  EXPECT_THAT(defect(R"({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": true,
                         "prediction_type": "flow_prediction", "disable_corrector": [-1]})"),
              HasSubstr("disable_corrector"));
}

}  // namespace
}  // namespace psa::engine
