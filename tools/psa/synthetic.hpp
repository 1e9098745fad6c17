// SPDX-License-Identifier: Apache-2.0
#pragma once

// Made-up q, k and v for benchmarks.

#include <cstdint>

#include "problem.hpp"
#include "tensors_in.hpp"

namespace psa::cli {

enum class SyntheticData : std::uint8_t {
  kNormal,      ///< independent standard normal values: attention is diffuse
  kStructured,  ///< near tokens of the grid attend to each other, as in video models
};

struct SyntheticInputs {
  OwnedTensor q, k, v;
};

/// Equal arguments give equal tensors, on any number of threads.
[[nodiscard]] SyntheticInputs make_synthetic(const Problem& problem, SyntheticData kind,
                                             std::uint64_t seed, int threads);

}  // namespace psa::cli
