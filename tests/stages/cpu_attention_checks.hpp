// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the tests of the attention stage on the CPU share: each instruction set of this machine
// against the formula, and on other numbers of threads.

#include <vector>

#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {

/// Every instruction set: out and lse may err at most twice as much as a plain evaluation in float,
/// with probabilities of the type in which it multiplies, plus a floor of a few units in the last
/// place.
void expect_close_attention(const core::Geometry& geometry, const core::Inputs& inputs,
                            Pyramid& pyramid, const std::vector<LevelCode>& levels);

/// Every instruction set: the same bits on one and on three threads.
void expect_same_bits_on_threads(const core::Geometry& geometry, const core::Inputs& inputs,
                                 Pyramid& pyramid, const std::vector<LevelCode>& levels);

}  // namespace psa::testing
