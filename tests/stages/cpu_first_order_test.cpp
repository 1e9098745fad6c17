// SPDX-License-Identifier: Apache-2.0

// The first-order term of rest = linear (S-23) on every instruction set of this machine: the budget
// of the attention stage, the same bits on any number of threads, and inputs that are not finite.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "cpu/backend.hpp"
#include "reference/backend.hpp"
#include "stages/cpu_attention_checks.hpp"
#include "support/compare.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

core::Geometry linear_geometry(Problem problem) {
  problem.config.rest = Rest::kLinear;
  return problem.geometry();
}

class CpuFirstOrder : public ::testing::TestWithParam<ProblemCase> {};

TEST_P(CpuFirstOrder, S23StaysInTheBudgetOfAttention) {
  const core::Geometry g = linear_geometry(GetParam().problem);
  QkvTensors in = GetParam().make_inputs(61);
  Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(in.inputs());
  expect_close_attention(g, in.inputs(), pyramid, random_levels(g, 62));
  expect_close_attention(g, in.inputs(), pyramid, uniform_levels(g, kBlockMean));
}

TEST_P(CpuFirstOrder, GivesTheSameBitsOnAnyNumberOfThreads) {
  const core::Geometry g = linear_geometry(GetParam().problem);
  QkvTensors in = GetParam().make_inputs(63);
  Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(in.inputs());
  expect_same_bits_on_threads(g, in.inputs(), pyramid, random_levels(g, 64));
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuFirstOrder, ::testing::ValuesIn(problem_cases()),
                         [](const auto& tested) { return tested.param.name; });

/// 40 queries in blocks of 16 and 64 keys in blocks of 16; query block 0 skips KV block 2, and all
/// others are read as means.
struct RestOnly {
  Problem problem;
  QkvTensors in;

  explicit RestOnly(DType dtype) : problem(make_problem(dtype)), in(random_qkv(problem, 71)) {}

  static Problem make_problem(DType dtype) {
    Problem p;
    p.shape = {1, 1, 1, 40, 64, 16, dtype, dtype, DType::kF32};
    return p;
  }

  [[nodiscard]] Tensor out(const core::Backend& backend) {
    const core::Geometry g = linear_geometry(problem);
    std::vector<LevelCode> levels = uniform_levels(g, kBlockMean);
    levels[2] = kSkip;
    const StageRunner runner(backend, g);
    Pyramid pyramid = runner.pyramid(in.inputs());
    return runner.attention(in.inputs(), pyramid, levels).out;
  }
};

// S-23: a row that is not finite is left out of the map of its block.
TEST(CpuFirstOrderNan, InAQueryStaysInItsRow) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const core::Backend& backend : cpu::all_backends()) {
      for (const float bad : {kNan, kInf}) {
        RestOnly run(dtype);
        const Tensor before = run.out(backend);
        run.in.q.set(0, 0, 7, 3, bad);
        const Tensor out = run.out(backend);
        for (index_t r = 0; r < 40; ++r) {
          EXPECT_EQ(is_finite_row(out, r), r != 7) << backend.isa << " row " << r;
          if (r < 16) continue;
          EXPECT_EQ(before.get(0, 0, r, 5), out.get(0, 0, r, 5));
        }
      }
    }
  }
}

TEST(CpuFirstOrderNan, InAKeyOrValueStaysInTheRowsThatReadItsBlock) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const core::Backend& backend : cpu::all_backends()) {
      for (const bool is_key : {true, false}) {
        RestOnly run(dtype);
        (is_key ? run.in.k : run.in.v).set(0, 0, 45, 0, kNan);
        const Tensor out = run.out(backend);
        for (index_t r = 0; r < 40; ++r) {
          EXPECT_EQ(is_finite_row(out, r), r < 16) << backend.isa << " row " << r;
        }
      }
    }
  }
}

/// Outputs of one block of queries of one channel at scale 1/2 that reads all keys as block means.
std::vector<float> outputs(const core::Backend& backend, const std::vector<float>& q,
                           const std::vector<float>& k, const std::vector<float>& v) {
  Problem problem;
  problem.shape = {1, 1, 1, static_cast<index_t>(q.size()), static_cast<index_t>(k.size()), 1};
  problem.config.softmax_scale = 0.5F;
  const core::Geometry g = linear_geometry(problem);
  QkvTensors in = random_qkv(problem, 72);
  const auto set = [](Tensor& tensor, const std::vector<float>& rows) {
    for (std::size_t r = 0; r < rows.size(); ++r) {
      tensor.set(0, 0, static_cast<index_t>(r), 0, rows[r]);
    }
  };
  set(in.q, q);
  set(in.k, k);
  set(in.v, v);
  const StageRunner runner(backend, g);
  Pyramid pyramid = runner.pyramid(in.inputs());
  const Tensor out = runner.attention(in.inputs(), pyramid, uniform_levels(g, kBlockMean)).out;
  std::vector<float> rows;
  for (std::size_t r = 0; r < q.size(); ++r)
    rows.push_back(out.get(0, 0, static_cast<index_t>(r), 0));
  return rows;
}

TEST(CpuFirstOrderNan, S23LeavesOutRowsAndProductsThatAreNotFinite) {
  for (const core::Backend& backend : cpu::all_backends()) {
    SCOPED_TRACE(backend.isa);
    // C = 10, and of the only row that qualifies v = 1/4 * 4 * 1: M = 1/2 * 10 / (3/2).
    const std::vector<float> rows = outputs(backend, {2, kNan, 1e30F}, {1, 3}, {10, 30});
    EXPECT_FLOAT_EQ(rows[0], 20 + 2 * 10 / 3.0F);
    EXPECT_TRUE(std::isnan(rows[1]));
    EXPECT_FLOAT_EQ(rows[2], 1e31F / 3);
    // M = 8.9e4, and its product with the second row overflows.
    EXPECT_FLOAT_EQ(outputs(backend, {1, 3e38F}, {-1, 1}, {-1e5F, 3e5F})[1], 1e5F);
    EXPECT_FLOAT_EQ(outputs(backend, {1e25F}, {-1, 1}, {-10, 30})[0], 10);
  }
}

// Block 0 has logit -inf at every query; its moments are not finite.
TEST(CpuFirstOrderNan, S23BlocksWithoutWeightAddNothing) {
  std::vector<float> k;
  std::vector<float> v;
  for (int j = 0; j < 32; ++j) {
    k.push_back(j < 16 ? -kInf : static_cast<float>(j % 2 * 2 - 1));
    v.push_back(j < 16 ? 1.0F : 8 * k.back());
  }
  // C = 8, v = 1/4 * 4 * 1: M = 1/2 * 8 / (3/2).
  EXPECT_FLOAT_EQ(outputs(reference::backend(), {2}, k, v)[0], 16 / 3.0F);
  for (const core::Backend& backend : cpu::all_backends()) {
    EXPECT_FLOAT_EQ(outputs(backend, {2}, k, v)[0], 16 / 3.0F) << backend.isa;
  }
}

// Covariances of such keys and values overflow, which leaves the block means alone.
TEST(CpuFirstOrderNan, NeverComesFromFiniteNumbers) {
  for (const core::Backend& backend : cpu::all_backends()) {
    for (const float magnitude : {1e-38F, 1e10F, 1e19F, 1e25F}) {
      RestOnly run(DType::kF32);
      for (index_t l = 0; l < 64; ++l) {
        run.in.k.set(0, 0, l, l % 16, l % 2 == 0 ? magnitude : -magnitude);
        run.in.v.set(0, 0, l, l % 16, l % 3 == 0 ? magnitude : -magnitude);
      }
      const Tensor out = run.out(backend);
      for (index_t r = 0; r < 40; ++r) {
        EXPECT_TRUE(is_finite_row(out, r)) << backend.isa << " row " << r << " " << magnitude;
      }
    }
  }
}

}  // namespace
}  // namespace psa::testing
