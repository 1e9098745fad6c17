// SPDX-License-Identifier: Apache-2.0

// The pooled keys and values of the CUDA backend (S-4).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "cuda/cuda_test.hpp"
#include "reference/backend.hpp"
#include "semantics/pooling.hpp"
#include "support/compare.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

/// Distance of the stored numbers around x.
double spacing(DType dtype, double x) {
  const int digits = dtype == DType::kF16 ? 11 : 8;
  const int least = dtype == DType::kF16 ? -13 : -125;  // exponent of the smallest normal number
  int exponent = 0;
  static_cast<void>(std::frexp(x, &exponent));
  return std::ldexp(1.0, std::max(exponent, least) - digits);
}

/// Every mean is at most one stored number away from the reference's, which is the exact mean
/// rounded once, or off by the rounding of a float sum. Rows of no real position are 0.
::testing::AssertionResult holds_means(const core::Geometry& g, const core::Inputs& in, int code,
                                       const Tensor& actual, const Tensor& reference) {
  const Values values = values_of(actual);
  const Values expected = values_of(reference);
  const index_t factor = semantics::pool_factor(code, g.config.block_kv);
  const auto [batch, heads, rows, channels] = actual.shape();
  for (std::size_t i = 0; i < values.data.size(); ++i) {
    const index_t row = static_cast<index_t>(i) / channels;
    const index_t b = row / rows / heads;
    const bool is_real = row % rows * factor < in.kv_length(b);
    const double exact = is_real ? expected.data[i] : 0.0;
    const double allowed = is_real ? spacing(g.shape.dtype_kv, exact) + 1e-6 : 0.0;
    if (std::abs(values.data[i] - exact) <= allowed) continue;
    return ::testing::AssertionFailure()
           << "row " << row % rows << " of head " << row / rows << ", channel "
           << static_cast<index_t>(i) % channels << ": " << values.data[i] << ", expected " << exact
           << " +- " << allowed;
  }
  return ::testing::AssertionSuccess();
}

void expect_means(const core::Geometry& g, const core::Inputs& in) {
  Pyramid expected = StageRunner(reference::backend(), g).pyramid(in);
  for (const core::Backend* backend : cuda_backends(g)) {
    Pyramid pyramid = StageRunner(*backend, g).pyramid(in);
    for (int code = 2; code < kNumLevelCodes; ++code) {
      if (!semantics::is_level_code(code, g.config.block_kv)) continue;
      SCOPED_TRACE(std::string(backend->isa) + ", level " + std::to_string(code));
      EXPECT_TRUE(holds_means(g, in, code, pyramid.k(code), expected.k(code))) << "keys";
      EXPECT_TRUE(holds_means(g, in, code, pyramid.v(code), expected.v(code))) << "values";
    }
  }
}

class CudaPyramid : public CudaCases {};

TEST_P(CudaPyramid, HoldsMeansOfRealTokens) {
  QkvTensors tensors = GetParam().make_inputs(5);
  expect_means(GetParam().problem.geometry(), tensors.inputs());
}

TEST_P(CudaPyramid, LeavesLevelsThatNobodyReadsAlone) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors tensors = GetParam().make_inputs(6);
  const core::Executor executor(1);
  for (const core::Backend* backend : cuda_backends(g)) {
    Pyramid all = StageRunner(*backend, g).pyramid(tensors.inputs());
    Pyramid some(g);
    core::KvPyramid wanted{};
    wanted[4] = some.levels()[4];
    DeviceCopies copies(*backend->memory);
    const core::Inputs inputs = copies.in(tensors.inputs(), g.shape);
    wanted[4].k = copies.out(static_cast<std::byte*>(wanted[4].k),
                             static_cast<index_t>(some.k(4).buffer().size()));
    wanted[4].v = nullptr;
    backend->pyramid({g, executor}, {inputs, wanted});
    copies.finish();
    EXPECT_TRUE(some.k(4).buffer().has_same_bytes(all.k(4).buffer())) << backend->isa;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaPyramid, ::testing::ValuesIn(half_cases()), case_name);

class CudaPyramidSizes : public CudaTest {};

Problem bf16_problem(const ProblemShape& shape, std::int32_t block_kv) {
  Problem problem;
  problem.shape = shape;
  problem.shape.dtype_q = problem.shape.dtype_kv = problem.shape.dtype_out = DType::kBF16;
  problem.config.block_kv = block_kv;
  return problem;
}

TEST_F(CudaPyramidSizes, EveryTailOfABlock) {
  constexpr index_t kBatch = 130;
  const Problem problem = bf16_problem(
      {.batch = kBatch, .heads_q = 2, .heads_kv = 2, .len_q = 1, .len_kv = 300, .head_dim = 8}, 64);
  QkvTensors tensors = random_qkv(problem, 8);
  for (index_t b = 0; b < kBatch; ++b) {
    tensors.kv_lengths.push_back(static_cast<std::int32_t>(171 + b));
  }
  expect_means(problem.geometry(), tensors.inputs());
}

TEST_F(CudaPyramidSizes, HeadsOfEverySize) {
  for (const index_t head_dim : {1, 7, 24, 64, 72, 100, 128, 136, 250, 256}) {
    for (const std::int32_t block_kv : {16, 128}) {
      const Problem problem = bf16_problem({.batch = 2,
                                            .heads_q = 3,
                                            .heads_kv = 3,
                                            .len_q = 1,
                                            .len_kv = 1000,
                                            .head_dim = head_dim},
                                           block_kv);
      SCOPED_TRACE(describe(problem));
      QkvTensors tensors = random_qkv(problem, 9);
      tensors.kv_lengths = {389, 1000};
      expect_means(problem.geometry(), tensors.inputs());
    }
  }
}

/// Rows as a caller slices them out of something wider: 16-byte rows on a 2-byte boundary.
TEST_F(CudaPyramidSizes, RowsThatAreNotAligned) {
  const Problem problem = bf16_problem({.len_q = 1, .len_kv = 90, .head_dim = 16}, 32);
  QkvTensors tensors = random_qkv(problem, 10);
  core::Inputs inputs = tensors.inputs();
  for (TensorView* view : {&inputs.k, &inputs.v}) {
    view->data = static_cast<std::byte*>(view->data) + size_of(view->dtype);
    view->shape[2] = view->shape[2] - 1;
  }
  Problem shifted = problem;
  shifted.shape.len_kv = 89;
  const core::Geometry g = shifted.geometry();
  Pyramid expected = StageRunner(reference::backend(), g).pyramid(inputs);
  const core::Executor executor(1);
  for (const core::Backend* backend : cuda_backends(g)) {
    Tensor level({1, 1, core::pyramid_rows(g, 3), 16}, DType::kBF16);
    DeviceCopies copies(*backend->memory);
    // Aligned memory, of which everything but the first element is the tensor.
    core::Inputs whole = copies.in(tensors.inputs(), problem.shape);
    whole.k.data = static_cast<std::byte*>(whole.k.data) + size_of(DType::kBF16);
    whole.k.shape[2] = 89;
    core::KvPyramid wanted{};
    const TensorView out = copies.out(level.view());
    wanted[3] = {out.data, nullptr, level.shape()[2]};
    backend->pyramid({g, executor}, {whole, wanted});
    copies.finish();
    EXPECT_TRUE(holds_means(g, inputs, 3, level, expected.k(3))) << backend->isa;
  }
}

TEST_F(CudaPyramidSizes, LargeNumbersDoNotOverflow) {
  constexpr float kLarge = 3.0e38F;
  const Problem problem = bf16_problem({.len_q = 16, .len_kv = 200, .head_dim = 24}, 128);
  QkvTensors tensors = random_qkv(problem, 7);
  tensors.k.fill(kLarge);
  tensors.v.fill(-kLarge);
  const float stored = tensors.k.get(0, 0, 0, 0);
  const core::Geometry g = problem.geometry();
  for (const core::Backend* backend : cuda_backends(g)) {
    Pyramid pyramid = StageRunner(*backend, g).pyramid(tensors.inputs());
    for (int code = 2; code < kNumLevelCodes; ++code) {
      for (index_t r = 0; r < pyramid.k(code).shape()[2]; ++r) {
        EXPECT_EQ(pyramid.k(code).get(0, 0, r, 19), stored) << backend->isa << ", level " << code;
        EXPECT_EQ(pyramid.v(code).get(0, 0, r, 0), -stored) << backend->isa << ", level " << code;
      }
    }
  }
}

TEST_F(CudaPyramidSizes, ANanReachesTheRowsThatContainItOnly) {
  const Problem problem = bf16_problem({.len_q = 16, .len_kv = 200, .head_dim = 8}, 64);
  QkvTensors tensors = random_qkv(problem, 11);
  tensors.k.set(0, 0, 70, 3, std::numeric_limits<float>::quiet_NaN());
  const core::Geometry g = problem.geometry();
  for (const core::Backend* backend : cuda_backends(g)) {
    Pyramid pyramid = StageRunner(*backend, g).pyramid(tensors.inputs());
    for (int code = 2; code < kNumLevelCodes; ++code) {
      const Tensor& level = pyramid.k(code);
      const index_t factor = semantics::pool_factor(code, g.config.block_kv);
      for (index_t r = 0; r < level.shape()[2]; ++r) {
        for (index_t c = 0; c < 8; ++c) {
          EXPECT_EQ(std::isnan(level.get(0, 0, r, c)), r == 70 / factor && c == 3) << code;
        }
      }
    }
  }
}

/// Two heads that lie 2^31 elements apart.
TEST_F(CudaPyramidSizes, StridesBeyond31Bits) {
  constexpr index_t kFar = (index_t{1} << 31) + 64;
  const Problem problem =
      bf16_problem({.heads_q = 2, .heads_kv = 2, .len_q = 1, .len_kv = 40, .head_dim = 8}, 16);
  QkvTensors tensors = random_qkv(problem, 12);
  const core::Geometry g = problem.geometry();
  const core::Executor executor(1);
  Pyramid expected = StageRunner(reference::backend(), g).pyramid(tensors.inputs());
  const core::Backend& backend = cuda_backend(g);
  const std::size_t head_bytes = 40 * 8 * size_of(DType::kBF16);
  const DeviceBuffer keys(*backend.memory, kFar * 2 + head_bytes);
  for (const index_t h : {0, 1}) {
    backend.memory->copy(core::bytes_copy(keys.data() + h * kFar * 2,
                                          tensors.k.buffer().data() + h * head_bytes, head_bytes),
                         Stream{});
  }
  core::Inputs inputs;
  inputs.k = tensors.k.view();
  inputs.k.data = keys.data();
  inputs.k.stride[1] = kFar;
  Tensor level({1, 2, core::pyramid_rows(g, 2), 8}, DType::kBF16);
  DeviceCopies copies(*backend.memory);
  core::KvPyramid wanted{};
  wanted[2] = {copies.out(level.view()).data, nullptr, level.shape()[2]};
  backend.pyramid({g, executor}, {inputs, wanted});
  copies.finish();
  EXPECT_TRUE(holds_means(g, tensors.inputs(), 2, level, expected.k(2)));
}

}  // namespace
}  // namespace psa::testing
