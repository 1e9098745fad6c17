// SPDX-License-Identifier: Apache-2.0

// The pooled keys and values of the CPU backend, on every instruction set of this machine.

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "core/tensor.hpp"
#include "cpu/backend.hpp"
#include "reference/backend.hpp"
#include "semantics/pooling.hpp"
#include "support/compare.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

/// S-4 by plain loops: the real rows of one level of K (or V), [B, Hkv, rows, D], others 0.
template <typename Real>
Values plain_means(const core::Geometry& g, const core::Inputs& in, bool is_key, int code) {
  const ProblemShape& s = g.shape;
  const TensorView& t = is_key ? in.k : in.v;
  const index_t factor = semantics::pool_factor(code, g.config.block_kv);
  const index_t rows = semantics::pooled_rows(s.len_kv, factor);
  Values values{{s.batch, s.heads_kv, rows, s.head_dim}, {}};
  for (index_t b = 0; b < s.batch; ++b) {
    for (index_t h = 0; h < s.heads_kv; ++h) {
      const std::int32_t* order = in.kv_order.of(b, h);
      for (index_t r = 0; r < rows; ++r) {
        const index_t end = std::min((r + 1) * factor, in.kv_length(b));
        for (index_t c = 0; c < s.head_dim; ++c) {
          Real sum = 0;
          for (index_t w = r * factor; w < end; ++w) {
            const std::byte* row = core::row_address(t, b, h, order == nullptr ? w : order[w]);
            sum += static_cast<Real>(core::load_element(row, t.dtype, c));
          }
          const index_t count = std::max<index_t>(end - r * factor, 1);
          values.data.push_back(static_cast<double>(sum / static_cast<Real>(count)));
        }
      }
    }
  }
  return values;
}

/// What the stage wrote, with the rows that stand for no real position as 0.
Values written_means(const core::Geometry& g, const core::Inputs& in, const Tensor& level,
                     int code) {
  Values values = values_of(level);
  const index_t factor = semantics::pool_factor(code, g.config.block_kv);
  const auto [batch, heads, rows, channels] = level.shape();
  for (index_t i = 0; i < batch * heads * rows; ++i) {
    const index_t b = i / (heads * rows);
    if (i % rows * factor < in.kv_length(b)) continue;
    std::fill_n(values.data.begin() + i * channels, channels, 0.0);
  }
  return values;
}

class CpuPyramid : public ::testing::TestWithParam<ProblemCase> {};

TEST_P(CpuPyramid, HoldsMeansOfRealTokens) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors tensors = GetParam().make_inputs(5);
  const core::Inputs in = tensors.inputs();
  for (const core::Backend& backend : cpu::all_backends()) {
    Pyramid pyramid = StageRunner(backend, g, {.threads = 2}).pyramid(in);
    for (int code = 2; code < kNumLevelCodes; ++code) {
      if (!semantics::is_level_code(code, g.config.block_kv)) continue;
      for (const bool is_key : {true, false}) {
        SCOPED_TRACE(std::string(backend.isa) + ", level " + std::to_string(code));
        const Tensor& level = is_key ? pyramid.k(code) : pyramid.v(code);
        EXPECT_TRUE(
            is_within_budget(written_means(g, in, level, code),
                             rounded_to(plain_means<float>(g, in, is_key, code), g.shape.dtype_kv),
                             plain_means<double>(g, in, is_key, code), 2e-7));
      }
    }
  }
}

TEST_P(CpuPyramid, LeavesLevelsThatNobodyReadsAlone) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors tensors = GetParam().make_inputs(6);
  const core::Executor executor(1);
  for (const core::Backend& backend : cpu::all_backends()) {
    Pyramid pyramid(g);
    core::KvPyramid wanted{};
    wanted[4] = {pyramid.levels()[4].k, nullptr, pyramid.levels()[4].rows};
    GuardedBuffer scratch(backend.scratch_bytes(g));
    backend.pyramid({g, executor, scratch.data(), scratch.size()}, {tensors.inputs(), wanted});
    const Pyramid all = StageRunner(backend, g).pyramid(tensors.inputs());
    EXPECT_TRUE(pyramid.k(4).buffer().has_same_bytes(Pyramid(all).k(4).buffer())) << backend.isa;
    EXPECT_TRUE(pyramid.v(4).buffer().has_same_bytes(Pyramid(g).v(4).buffer())) << backend.isa;
    EXPECT_TRUE(pyramid.k(3).buffer().has_same_bytes(Pyramid(g).k(3).buffer())) << backend.isa;
    EXPECT_TRUE(scratch.is_intact()) << backend.isa;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuPyramid, ::testing::ValuesIn(problem_cases()),
                         [](const auto& tested) { return tested.param.name; });

TEST(CpuPyramidOverflow, DoesNotOccurInMeansOfFiniteNumbers) {
  constexpr float kLarge = 3.0e38F;
  Problem problem;
  problem.shape = {.len_q = 16, .len_kv = 200, .head_dim = 20};
  problem.config.block_kv = 128;
  const core::Geometry g = problem.geometry();
  QkvTensors tensors = random_qkv(problem, 7);
  tensors.k.fill(kLarge);
  tensors.v.fill(-kLarge);
  for (const core::Backend& backend : cpu::all_backends()) {
    Pyramid pyramid = StageRunner(backend, g).pyramid(tensors.inputs());
    for (int code = 2; code < kNumLevelCodes; ++code) {
      for (index_t r = 0; r < pyramid.k(code).shape()[2]; ++r) {
        EXPECT_NEAR(pyramid.k(code).get(0, 0, r, 19) / kLarge, 1.0F, 1e-6F) << backend.isa;
        EXPECT_NEAR(pyramid.v(code).get(0, 0, r, 0) / kLarge, -1.0F, 1e-6F) << backend.isa;
      }
    }
  }
}

TEST(CpuPyramidOfficial, IsBitEqualToTheReference) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    Problem problem;
    problem.shape = {.batch = 2,
                     .heads_q = 2,
                     .heads_kv = 2,
                     .len_q = 20,
                     .len_kv = 300,
                     .head_dim = 21,
                     .dtype_kv = dtype};
    problem.config.block_q = 128;
    problem.config.block_kv = 128;
    problem.config.rest = Rest::kSkip;
    problem.config.compat = Compat::kOfficial;
    const core::Geometry g = problem.geometry();
    QkvTensors tensors = random_qkv(problem, 3);
    tensors.kv_lengths = {300, 131};
    Pyramid expected = StageRunner(reference::backend(), g).pyramid(tensors.inputs());
    for (const core::Backend& backend : cpu::all_backends()) {
      Pyramid pyramid = StageRunner(backend, g).pyramid(tensors.inputs());
      for (int code = 2; code < kNumLevelCodes; ++code) {
        SCOPED_TRACE(std::string(backend.isa) + ", level " + std::to_string(code));
        EXPECT_TRUE(pyramid.k(code).buffer().has_same_bytes(expected.k(code).buffer()));
        EXPECT_TRUE(pyramid.v(code).buffer().has_same_bytes(expected.v(code).buffer()));
      }
    }
  }
}

}  // namespace
}  // namespace psa::testing
