// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the tests of the attention stage on a device share: problems in 16-bit types, and every
// kernel against the formula.

#include <cstdint>
#include <vector>

#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {

struct Sizes {
  index_t heads_q = 1;
  index_t heads_kv = 1;
  index_t len_q = 0;
  index_t len_kv = 0;
  index_t head_dim = 0;
};

struct Blocks {
  std::int32_t q = 128;
  std::int32_t kv = 128;
  bool causal = false;
};

/// All tensors in `dtype`.
[[nodiscard]] Problem make_problem(const Sizes& sizes, const Blocks& blocks,
                                   DType dtype = DType::kBF16);

/// Every kernel that serves the geometry: out and lse may err at most twice as much as a plain
/// evaluation with probabilities and maps (S-23) of the same storage type, plus a floor of a few
/// units in the last place of float.
void expect_close_attention(const core::Geometry& geometry, const core::Inputs& inputs,
                            Pyramid& pyramid, const std::vector<LevelCode>& levels);
/// The same with the pyramid of the inputs.
void expect_close_attention(const core::Geometry& geometry, const core::Inputs& inputs,
                            const std::vector<LevelCode>& levels);

/// Every kernel twice: the same bits.
void expect_same_bits_twice(const core::Geometry& geometry, const core::Inputs& inputs,
                            const std::vector<LevelCode>& levels);

}  // namespace psa::testing
