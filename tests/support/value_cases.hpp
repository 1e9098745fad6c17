// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the value weights stage of every backend is tested with (S-27).

#include <vector>

#include "support/tensors.hpp"

namespace psa::testing {

/// Every seventh token gets `offset` more in all channels, all others somewhat less than that.
void move_values(Tensor& v, float offset);
/// Makes one token of each head NaN and one infinite.
void spoil_values(Tensor& v);
/// Equal but for rounding in float.
void expect_near_weights(const std::vector<float>& weights, const std::vector<float>& expected);

}  // namespace psa::testing
