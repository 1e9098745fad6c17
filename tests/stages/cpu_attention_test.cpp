// SPDX-License-Identifier: Apache-2.0

// Attention of the CPU backend on every instruction set of this machine: out and lse may err at
// most twice as much as a plain evaluation of the same precision, plus a floor of a few units in
// the last place of float.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

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

/// What the probabilities are rounded to before they multiply the values.
class CpuAttention : public ::testing::TestWithParam<ProblemCase> {};

TEST_P(CpuAttention, MixesLevels) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors tensors = GetParam().make_inputs(21);
  Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(tensors.inputs());
  expect_close_attention(g, tensors.inputs(), pyramid, random_levels(g, 22));
}

TEST_P(CpuAttention, ReadsEveryLevelAlone) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors tensors = GetParam().make_inputs(23);
  Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(tensors.inputs());
  for (int code = 0; code < kNumLevelCodes; ++code) {
    SCOPED_TRACE("level " + std::to_string(code));
    expect_close_attention(g, tensors.inputs(), pyramid,
                           uniform_levels(g, static_cast<LevelCode>(code)));
  }
}

TEST_P(CpuAttention, GivesTheSameBitsOnAnyNumberOfThreads) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors tensors = GetParam().make_inputs(24);
  Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(tensors.inputs());
  expect_same_bits_on_threads(g, tensors.inputs(), pyramid, random_levels(g, 25));
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuAttention, ::testing::ValuesIn(problem_cases()),
                         [](const auto& tested) { return tested.param.name; });

TEST(CpuAttentionOfficial, GivesPaddedRowsTheirFullWeight) {
  for (const bool causal : {false, true}) {
    Problem problem;
    problem.shape = {.batch = 2,
                     .heads_q = 2,
                     .heads_kv = 1,
                     .len_q = 150,
                     .len_kv = 300,
                     .head_dim = 24,
                     .dtype_kv = DType::kBF16};
    problem.config.block_q = 128;
    problem.config.block_kv = 128;
    problem.config.rest = Rest::kSkip;
    problem.config.compat = Compat::kOfficial;
    problem.config.causal = causal;
    const core::Geometry g = problem.geometry();
    QkvTensors tensors = random_qkv(problem, 31);
    tensors.kv_lengths = {300, 133};
    Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(tensors.inputs());
    expect_close_attention(g, tensors.inputs(), pyramid, random_levels(g, 32));
  }
}

TEST(CpuAttentionOutput, IsWrittenInAnyLayout) {
  const ProblemCase problem_case = problem_cases().at(5);
  const core::Geometry g = problem_case.problem.geometry();
  QkvTensors tensors = problem_case.make_inputs(41);
  Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(tensors.inputs());
  const std::vector<LevelCode> levels = random_levels(g, 42);
  for (const core::Backend& backend : cpu::all_backends()) {
    const auto plain = StageRunner(backend, g).attention(tensors.inputs(), pyramid, levels);
    for (const MemoryLayout layout : {MemoryLayout::kBlhd, MemoryLayout::kPadded}) {
      const auto strided = StageRunner(backend, g, {.out_layout = layout})
                               .attention(tensors.inputs(), pyramid, levels);
      EXPECT_EQ(values_of(strided.out).data, values_of(plain.out).data) << backend.isa;
    }
  }
}

/// Dense attention of 40 queries and 60 keys, with one number of an input replaced.
struct SpoiledRun {
  Problem problem;
  core::Geometry geometry;
  QkvTensors tensors;

  SpoiledRun(bool causal, DType dtype)
      : problem(make_problem(causal, dtype)),
        geometry(problem.geometry()),
        tensors(random_qkv(problem, 51)) {}

  static Problem make_problem(bool causal, DType dtype) {
    Problem p;
    p.shape = {.len_q = 40,
               .len_kv = 60,
               .head_dim = 16,
               .dtype_q = dtype,
               .dtype_kv = dtype,
               .dtype_out = DType::kF32};
    p.config.causal = causal;
    return p;
  }

  [[nodiscard]] Tensor out(const core::Backend& backend) {
    const StageRunner runner(backend, geometry);
    Pyramid pyramid = runner.pyramid(tensors.inputs());
    return runner.attention(tensors.inputs(), pyramid, uniform_levels(geometry, 1)).out;
  }
};

bool has_nan(const Tensor& out, index_t row) {
  for (index_t c = 0; c < out.shape()[3]; ++c) {
    if (std::isnan(out.get(0, 0, row, c))) return true;
  }
  return false;
}

TEST(CpuAttentionNan, InAQueryStaysInItsRow) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const core::Backend& backend : cpu::all_backends()) {
      for (const float bad : {kNan, kInf}) {
        SpoiledRun run(false, dtype);
        run.tensors.q.set(0, 0, 7, 3, bad);
        const Tensor out = run.out(backend);
        for (index_t r = 0; r < 40; ++r) {
          EXPECT_EQ(has_nan(out, r), r == 7) << backend.isa << " row " << r << " value " << bad;
        }
      }
    }
  }
}

TEST(CpuAttentionNan, InAKeyOrValueStaysInTheRowsThatSeeIt) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const core::Backend& backend : cpu::all_backends()) {
      for (const bool is_key : {true, false}) {
        SpoiledRun run(true, dtype);  // query r sees keys up to r + 20
        (is_key ? run.tensors.k : run.tensors.v).set(0, 0, 45, 0, kNan);
        const Tensor out = run.out(backend);
        for (index_t r = 0; r < 40; ++r) {
          EXPECT_EQ(has_nan(out, r), r >= 25) << backend.isa << " row " << r << " key " << is_key;
        }
      }
    }
  }
}

}  // namespace
}  // namespace psa::testing
