// SPDX-License-Identifier: Apache-2.0
#pragma once

// Whole calls of a plan on random tensors, in guarded memory. Tensors and results are on the host
// whatever the plan's device.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/plan.hpp"
#include "support/tensors.hpp"

namespace psa::testing {

/// Backends of the host and instruction sets that this machine can run.
[[nodiscard]] std::vector<core::PlanOptions> every_backend();
[[nodiscard]] std::string describe(const core::PlanOptions& options);

struct CallResult {
  Tensor out;
  std::vector<float> lse;         // [B, Hq, Lq]
  std::vector<LevelCode> levels;  // [B, Hq, Nq, Nk], as used
  core::RunStats stats;
};

/// What a call is given beside its tensors; empty vectors: nothing.
struct CallExtras {
  std::vector<LevelCode> levels{};
  std::vector<float> scores{};
  MemoryLayout out_layout = MemoryLayout::kBhld;
  bool wants_stats = true;  ///< which wait for the device
};

/// Runs psa's pipeline once in a fresh workspace of exactly the plan's size, filled with NaN bytes.
/// Fails the running test if anything around the workspace or an output was written, or if an input
/// was changed.
[[nodiscard]] CallResult call_plan(const core::Plan& plan, QkvTensors& qkv,
                                   const CallExtras& extras = {});

[[nodiscard]] core::Plan make_plan(const Problem& problem, const core::PlanOptions& options,
                                   Device device = {});

/// ||a - b|| / ||b|| over all elements.
[[nodiscard]] double relative_l2(const Tensor& a, const Tensor& b);

}  // namespace psa::testing
