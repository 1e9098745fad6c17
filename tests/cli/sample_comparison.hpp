// SPDX-License-Identifier: Apache-2.0
#pragma once

// A small finished comparison with made-up numbers, for tests of what is printed.

#include "comparison.hpp"

namespace psa::cli {

/// Two heads of a 2x3x4 grid (24 tokens), blocks of 16: dense, PSA and binary, with rows and maps.
[[nodiscard]] Comparison sample_comparison();
[[nodiscard]] Problem sample_problem();

}  // namespace psa::cli
