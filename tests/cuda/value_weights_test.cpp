// SPDX-License-Identifier: Apache-2.0

// Value weights of the CUDA backend (S-27): those of the reference but for rounding in float.

#include <gtest/gtest.h>

#include <vector>

#include "cuda/cuda_test.hpp"
#include "support/value_cases.hpp"

namespace psa::testing {
namespace {

void expect_weights_on_every_isa(const Problem& problem, const core::Inputs& inputs) {
  for (const core::Backend* backend : cuda_backends(problem.geometry())) {
    expect_weights_of_reference(*backend, problem, inputs);
  }
}

class CudaValueWeights : public CudaCases {};

TEST_P(CudaValueWeights, AreThoseOfTheReference) {
  QkvTensors tensors = GetParam().make_inputs(63);
  expect_weights_on_every_isa(GetParam().problem, tensors.inputs());
}

TEST_P(CudaValueWeights, AreThoseOfTheReferenceFarFromZero) {
  QkvTensors tensors = GetParam().make_inputs(64);
  move_values(tensors.v, 40.0F);
  expect_weights_on_every_isa(GetParam().problem, tensors.inputs());
}

TEST_P(CudaValueWeights, AreThoseOfTheReferenceWithValuesThatAreNotFinite) {
  QkvTensors tensors = GetParam().make_inputs(65);
  spoil_values(tensors.v);
  expect_weights_on_every_isa(GetParam().problem, tensors.inputs());
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaValueWeights, ::testing::ValuesIn(half_cases()), case_name);

class CudaValueWeightsSizes : public CudaTest {};

TEST_F(CudaValueWeightsSizes, HeadsAndBlocksOfEverySize) {
  for (const index_t head_dim : {1, 8, 20, 64, 96, 128, 200, 256}) {
    for (const std::int32_t block_kv : {16, 32, 64, 128}) {
      Problem problem;
      problem.shape = {.batch = 2,
                       .heads_q = 2,
                       .heads_kv = 2,
                       .len_q = 1900,
                       .len_kv = 1900,
                       .head_dim = head_dim,
                       .dtype_q = DType::kBF16,
                       .dtype_kv = DType::kBF16,
                       .dtype_out = DType::kBF16};
      problem.config.block_kv = block_kv;
      problem.config.num_levels = 1;
      for (const bool causal : {false, true}) {
        problem.config.causal = causal;
        SCOPED_TRACE(describe(problem));
        QkvTensors tensors = random_qkv(problem, 62);
        tensors.kv_lengths = {1900, 531};
        expect_weights_on_every_isa(problem, tensors.inputs());
      }
    }
  }
}

}  // namespace
}  // namespace psa::testing
