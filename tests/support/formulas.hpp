// SPDX-License-Identifier: Apache-2.0
#pragma once

// The formulas of docs/semantics.md, written out again without src/semantics and without any
// backend: in double as the exact result, and in float as the plain evaluation that error budgets
// are measured by. Both take the pyramid and the level map as given.

#include <vector>

#include "core/backend.hpp"
#include "support/compare.hpp"

namespace psa::testing {

struct AttentionValues {
  Values out;  // [B, Hq, Lq, D]
  Values lse;  // [B, Hq, Lq, 1]
};

/// S-5 to S-8, and S-23 with rest = linear, in double, out not rounded. Inputs must be finite.
[[nodiscard]] AttentionValues exact_attention(const core::Geometry& geometry,
                                              const core::Inputs& inputs,
                                              const core::KvPyramid& pyramid,
                                              const std::vector<LevelCode>& levels);

/// The same in float; `probabilities`: what e^s is rounded to before it multiplies the values
/// (kBF16 where a backend multiplies in bf16); `maps`: what covariances, weights and maps of S-23
/// are rounded to, each number in a unit of its own. Factors of the rest (S-25) are those of the
/// worst of several roundings of the probabilities. out is rounded to its storage type.
[[nodiscard]] AttentionValues plain_attention(const core::Geometry& geometry,
                                              const core::Inputs& inputs,
                                              const core::KvPyramid& pyramid,
                                              const std::vector<LevelCode>& levels,
                                              DType probabilities = DType::kF32,
                                              DType maps = DType::kF32);

/// S-9 to S-12, before sharing: [B, Hq, Nq, Nk].
[[nodiscard]] Values exact_importance(const core::Geometry& geometry, const core::Inputs& inputs,
                                      const core::KvPyramid& pyramid);
[[nodiscard]] Values plain_importance(const core::Geometry& geometry, const core::Inputs& inputs,
                                      const core::KvPyramid& pyramid);

}  // namespace psa::testing
