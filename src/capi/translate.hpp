// SPDX-License-Identifier: Apache-2.0
#pragma once

// The structs of psa.h checked and turned into the types of core. Checked here is what the
// translation would lose (sizes, reserved fields, flags, enumerations of the C side alone); ranges
// are checked by core.

#include <optional>

#include "core/plan.hpp"
#include "core/presets.hpp"
#include "core/registry.hpp"
#include "psa/c_structs.hpp"
#include "psa/psa.h"

namespace psa::capi {

[[nodiscard]] detail::Problem problem_of(const psa_problem* problem);
/// For a problem of `heads_q` heads. Without it densities per head are not read and left out.
[[nodiscard]] Config config_of(const psa_config* config, std::optional<index_t> heads_q = {});
/// Null gives the defaults.
[[nodiscard]] core::PlanOptions plan_options_of(const psa_plan_options* options);
[[nodiscard]] core::CallIo call_io_of(const psa_io* io);

[[nodiscard]] psa_preset to_c(const core::PresetEntry& entry);
[[nodiscard]] psa_stats to_c(const core::RunStats& stats);
[[nodiscard]] psa_backend_info to_c(const core::BackendEntry& entry);

}  // namespace psa::capi
