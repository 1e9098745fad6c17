// SPDX-License-Identifier: Apache-2.0
#include "stages/cpu_attention_checks.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "cpu/backend.hpp"
#include "support/compare.hpp"
#include "support/formulas.hpp"

namespace psa::testing {
namespace {

DType probability_type(const core::Backend& backend, const ProblemShape& shape) {
  const bool is_bf16 = shape.dtype_q == DType::kBF16 && shape.dtype_kv == DType::kBF16;
  return is_bf16 && std::strcmp(backend.isa, "avx512_bf16") == 0 ? DType::kBF16 : DType::kF32;
}

Values lse_values(const ProblemShape& s, const AttentionResult& result) {
  return values_of({s.batch, s.heads_q, s.len_q, 1}, result.lse);
}

}  // namespace

void expect_close_attention(const core::Geometry& g, const core::Inputs& inputs, Pyramid& pyramid,
                            const std::vector<LevelCode>& levels) {
  const AttentionValues exact = exact_attention(g, inputs, pyramid.levels(), levels);
  for (const core::Backend& backend : cpu::all_backends()) {
    SCOPED_TRACE(backend.isa);
    const AttentionResult result =
        StageRunner(backend, g, {.threads = 2}).attention(inputs, pyramid, levels);
    const AttentionValues plain =
        plain_attention(g, inputs, pyramid.levels(), levels, probability_type(backend, g.shape));
    EXPECT_TRUE(is_within_budget(values_of(result.out), plain.out, exact.out, 2e-6));
    EXPECT_TRUE(is_within_budget(lse_values(g.shape, result), plain.lse, exact.lse, 4e-6));
  }
}

void expect_same_bits_on_threads(const core::Geometry& g, const core::Inputs& inputs,
                                 Pyramid& pyramid, const std::vector<LevelCode>& levels) {
  for (const core::Backend& backend : cpu::all_backends()) {
    const auto one = StageRunner(backend, g).attention(inputs, pyramid, levels);
    const auto three = StageRunner(backend, g, {.threads = 3}).attention(inputs, pyramid, levels);
    EXPECT_TRUE(one.out.buffer().has_same_bytes(three.out.buffer())) << backend.isa;
    EXPECT_EQ(std::memcmp(one.lse.data(), three.lse.data(), one.lse.size() * sizeof(float)), 0)
        << backend.isa;
  }
}

}  // namespace psa::testing
