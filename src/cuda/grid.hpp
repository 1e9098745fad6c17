// SPDX-License-Identifier: Apache-2.0
#pragma once

// Sizes of grids.

#include <cstdint>
#include <limits>
#include <string>

#include "psa/error.hpp"
#include "psa/types.hpp"

namespace psa::cuda {

/// The size of a one-dimensional grid; throws if CUDA cannot count that far.
[[nodiscard]] inline unsigned int grid_of(index_t ctas) {
  constexpr index_t kMost = std::numeric_limits<std::int32_t>::max();
  if (ctas <= kMost) return static_cast<unsigned int>(ctas);
  throw Error(Status::kUnsupported, "this call needs a grid of " + std::to_string(ctas) +
                                        " CTAs; CUDA allows " + std::to_string(kMost));
}

}  // namespace psa::cuda
