// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the value weights stage of every backend is tested with (S-27).

#include "core/backend.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"
#include "support/tensors.hpp"

namespace psa::testing {

/// Every seventh token gets `offset` more in all channels, all others somewhat less than that.
void move_values(Tensor& v, float offset);
/// Makes one token of each head NaN and one infinite.
void spoil_values(Tensor& v);
/// A backend's value weights are those of the reference but for rounding in float.
void expect_weights_of_reference(const core::Backend& backend, Problem problem,
                                 const core::Inputs& inputs, const RunOptions& options = {});

}  // namespace psa::testing
