// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "psa/types.hpp"

namespace psa::engine {

enum class SamplerKind : std::uint8_t {
  kEuler,  ///< first order: x += (sigma_next - sigma) * velocity
  kUniPc,  ///< UniPC, a multistep predictor-corrector: fewer steps for the same error
};

/// How a flow-matching model is sampled, as its checkpoint says in scheduler_config.json. The
/// defaults are those of a checkpoint without that file.
struct SchedulerConfig {
  SamplerKind kind = SamplerKind::kEuler;
  double shift = 5;                      ///< > 0; above 1 more steps are spent at high noise
  int num_train_timesteps = 1000;        ///< the timestep that the model is told at sigma = 1
  int solver_order = 2;                  ///< UniPC: 1 or 2
  std::vector<int> disable_corrector{};  ///< UniPC: no correction of the result of these steps
};

/// The configuration in `<model>/scheduler_config.json` or
/// `<model>/scheduler/scheduler_config.json` (a diffusers pipeline), else the defaults. Reads the
/// classes FlowMatchEulerDiscreteScheduler and UniPCMultistepScheduler of diffusers, with
/// diffusers' default for a key that is missing. Throws Error(kUnsupported) for another class or a
/// setting that changes the result and is not computed here, Error(kIo) for a file that is not
/// valid; both name the file and the key.
[[nodiscard]] SchedulerConfig read_scheduler_config(const std::filesystem::path& model);

/// The same of the text of such a file; `label` stands for the path in messages.
[[nodiscard]] SchedulerConfig parse_scheduler_config(std::string_view text, std::string label);

}  // namespace psa::engine
