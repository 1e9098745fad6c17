// SPDX-License-Identifier: Apache-2.0
#pragma once

// Pyramid Sparse Attention: the whole C++ API.
//
//   const psa::Plan plan = psa::Plan::create(shape, layout, psa::find_preset("balanced").config);
//   psa::Workspace workspace(plan.workspace_bytes());
//   psa::run(plan, {.q = q, .k = k, .v = v, .out = out}, workspace.bytes());

#include "psa/config.hpp"     // IWYU pragma: export
#include "psa/error.hpp"      // IWYU pragma: export
#include "psa/half.hpp"       // IWYU pragma: export
#include "psa/level_map.hpp"  // IWYU pragma: export
#include "psa/plan.hpp"       // IWYU pragma: export
#include "psa/presets.hpp"    // IWYU pragma: export
#include "psa/stages.hpp"     // IWYU pragma: export
#include "psa/types.hpp"      // IWYU pragma: export
#include "psa/version.hpp"    // IWYU pragma: export
