// SPDX-License-Identifier: Apache-2.0

// Similarity caps of the CUDA backend (S-16): those of the reference, except where a similarity
// lies within rounding of its threshold. The thresholds below are checked to keep clear of that.

#include <gtest/gtest.h>

#include <vector>

#include "cuda/cuda_test.hpp"
#include "reference/backend.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

/// Caps at thresholds moved by `shift`.
std::vector<std::uint8_t> caps_at(const core::Backend& backend, Problem problem,
                                  const core::Inputs& inputs, float shift) {
  for (float& cosine : *problem.config.similarity_cap) cosine += shift;
  return StageRunner(backend, problem.geometry()).similarity(inputs);
}

/// Number of caps that differ from the first one.
int expect_caps_of_reference(Problem problem, const core::Inputs& inputs, float base) {
  problem.config.num_levels = 5;
  problem.config.similarity_cap = {base + 0.1F, base, base + 0.05F, base - 0.1F};
  const auto expected = caps_at(reference::backend(), problem, inputs, 0.0F);
  // No similarity is so close to a threshold that rounding decides.
  EXPECT_EQ(caps_at(reference::backend(), problem, inputs, 1e-5F), expected);
  EXPECT_EQ(caps_at(reference::backend(), problem, inputs, -1e-5F), expected);
  for (const core::Backend* backend : cuda_backends(problem.geometry())) {
    EXPECT_EQ(caps_at(*backend, problem, inputs, 0.0F), expected)
        << backend->isa << " threshold " << base;
  }
  int different = 0;
  for (const std::uint8_t cap : expected) different += cap != expected.front() ? 1 : 0;
  return different;
}

class CudaSimilarity : public CudaCases {};

TEST_P(CudaSimilarity, CapsAreThoseOfTheReference) {
  QkvTensors tensors = GetParam().make_inputs(61);
  int different = 0;
  for (const float base : {-0.3F, -0.1F, 0.03F, 0.2F, 0.6F}) {
    different += expect_caps_of_reference(GetParam().problem, tensors.inputs(), base);
  }
  if (GetParam().problem.geometry().num_kv_blocks > 4) {
    EXPECT_GT(different, 0) << "nothing was decided";
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaSimilarity, ::testing::ValuesIn(half_cases()), case_name);

class CudaSimilaritySizes : public CudaTest {};

TEST_F(CudaSimilaritySizes, HeadsAndBlocksOfEverySize) {
  for (const index_t head_dim : {1, 8, 20, 64, 96, 128, 200, 256}) {
    for (const std::int32_t block_kv : {16, 32, 64, 128}) {
      Problem problem;
      problem.shape = {.batch = 2,
                       .heads_q = 2,
                       .heads_kv = 2,
                       .len_q = 1,
                       .len_kv = 700,
                       .head_dim = head_dim,
                       .dtype_q = DType::kBF16,
                       .dtype_kv = DType::kBF16,
                       .dtype_out = DType::kBF16};
      problem.config.block_kv = block_kv;
      SCOPED_TRACE(describe(problem));
      QkvTensors tensors = random_qkv(problem, 62);
      tensors.kv_lengths = {700, 531};
      expect_caps_of_reference(problem, tensors.inputs(), 0.02F);
    }
  }
}

}  // namespace
}  // namespace psa::testing
