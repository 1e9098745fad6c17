// SPDX-License-Identifier: Apache-2.0
#include "cuda/attention_checks.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "cuda/cuda_test.hpp"
#include "reference/backend.hpp"
#include "support/compare.hpp"
#include "support/formulas.hpp"

namespace psa::testing {
namespace {

Values lse_values(const ProblemShape& s, const AttentionResult& result) {
  return values_of({s.batch, s.heads_q, s.len_q, 1}, result.lse);
}

}  // namespace

Problem make_problem(const Sizes& sizes, const Blocks& blocks, DType dtype) {
  Problem problem;
  problem.shape = {.heads_q = sizes.heads_q,
                   .heads_kv = sizes.heads_kv,
                   .len_q = sizes.len_q,
                   .len_kv = sizes.len_kv,
                   .head_dim = sizes.head_dim,
                   .dtype_q = dtype,
                   .dtype_kv = dtype,
                   .dtype_out = dtype};
  problem.config.block_q = blocks.q;
  problem.config.block_kv = blocks.kv;
  problem.config.causal = blocks.causal;
  return problem;
}

void expect_close_attention(const core::Geometry& g, const core::Inputs& inputs, Pyramid& pyramid,
                            const std::vector<LevelCode>& levels) {
  const DType dtype = g.shape.dtype_kv;
  const AttentionValues exact = exact_attention(g, inputs, pyramid.levels(), levels);
  const AttentionValues plain = plain_attention(g, inputs, pyramid.levels(), levels, dtype, dtype);
  const auto backends = cuda_backends(g);
  ASSERT_FALSE(backends.empty());
  for (const core::Backend* backend : backends) {
    SCOPED_TRACE(backend->isa);
    const AttentionResult result = StageRunner(*backend, g).attention(inputs, pyramid, levels);
    EXPECT_TRUE(is_within_budget(values_of(result.out), plain.out, exact.out, 2e-6));
    EXPECT_TRUE(is_within_budget(lse_values(g.shape, result), plain.lse, exact.lse, 4e-6));
  }
}

void expect_close_attention(const core::Geometry& g, const core::Inputs& inputs,
                            const std::vector<LevelCode>& levels) {
  Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(inputs);
  expect_close_attention(g, inputs, pyramid, levels);
}

void expect_same_bits_twice(const core::Geometry& g, const core::Inputs& inputs,
                            const std::vector<LevelCode>& levels) {
  Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(inputs);
  for (const core::Backend* backend : cuda_backends(g)) {
    const StageRunner runner(*backend, g);
    const auto one = runner.attention(inputs, pyramid, levels);
    const auto two = runner.attention(inputs, pyramid, levels);
    EXPECT_TRUE(one.out.buffer().has_same_bytes(two.out.buffer())) << backend->isa;
    EXPECT_EQ(std::memcmp(one.lse.data(), two.lse.data(), one.lse.size() * sizeof(float)), 0)
        << backend->isa;
  }
}

}  // namespace psa::testing
