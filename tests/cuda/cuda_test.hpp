// SPDX-License-Identifier: Apache-2.0
#pragma once

// What every test of the CUDA backend needs: the backends of this machine, a fixture that skips
// where there is none, and problems in the storage types that tensor cores read.
//
//   class CudaPyramid : public CudaCases {};
//   TEST_P(CudaPyramid, IsTheMeanOfItsTokens) {
//     for (const core::Backend* backend : cuda_backends(GetParam().problem.geometry())) { ... }
//   }
//   INSTANTIATE_TEST_SUITE_P(Cases, CudaPyramid, ::testing::ValuesIn(half_cases()), case_name);

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/backend.hpp"
#include "support/problem_cases.hpp"

namespace psa::testing {

/// Why no test can run on a device here; empty: they can.
[[nodiscard]] std::string why_no_cuda();

/// The tables that device 0 runs, best first; with a geometry those that can serve it.
[[nodiscard]] std::vector<const core::Backend*> cuda_backends();
[[nodiscard]] std::vector<const core::Backend*> cuda_backends(const core::Geometry& geometry);
/// The one that `auto` takes for a geometry, for stages that all tables share.
[[nodiscard]] const core::Backend& cuda_backend(const core::Geometry& geometry);

/// problem_cases(), each with all tensors in f16 and with all in bf16: "OneTokenF16", ...
[[nodiscard]] std::vector<ProblemCase> half_cases();

/// Skips the running test, with the reason, where there is no device; fails it if the program was
/// started with --require-cuda.
void cuda_device_or_skip();

class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override { cuda_device_or_skip(); }
};

class CudaCases : public ::testing::TestWithParam<ProblemCase> {
 protected:
  void SetUp() override { cuda_device_or_skip(); }
};

[[nodiscard]] inline std::string case_name(const ::testing::TestParamInfo<ProblemCase>& tested) {
  return tested.param.name;
}

}  // namespace psa::testing
