// SPDX-License-Identifier: Apache-2.0

// Attention of every kernel of the CUDA backend, in the budget of attention_checks.hpp.

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "cuda/attention_checks.hpp"
#include "cuda/cuda_test.hpp"
#include "reference/backend.hpp"
#include "support/compare.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// Random tensors and a random level for every block.
void expect_close_at_random(const Problem& problem, std::uint64_t seed) {
  SCOPED_TRACE(describe(problem));
  const core::Geometry g = problem.geometry();
  QkvTensors tensors = random_qkv(problem, seed);
  expect_close_attention(g, tensors.inputs(), random_levels(g, seed + 1));
}

// ---- the shapes that all stages are tested with -------------------------------------------------

class CudaAttention : public CudaCases {};

TEST_P(CudaAttention, MixesLevels) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors tensors = GetParam().make_inputs(21);
  expect_close_attention(g, tensors.inputs(), random_levels(g, 22));
}

TEST_P(CudaAttention, ReadsEveryLevelAlone) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors tensors = GetParam().make_inputs(23);
  Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(tensors.inputs());
  for (int code = 0; code < kNumLevelCodes; ++code) {
    SCOPED_TRACE("level " + std::to_string(code));
    expect_close_attention(g, tensors.inputs(), pyramid,
                           uniform_levels(g, static_cast<LevelCode>(code)));
  }
}

TEST_P(CudaAttention, GivesTheSameBitsTwice) {
  const core::Geometry g = GetParam().problem.geometry();
  QkvTensors tensors = GetParam().make_inputs(24);
  expect_same_bits_twice(g, tensors.inputs(), random_levels(g, 25));
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaAttention, ::testing::ValuesIn(half_cases()), case_name);

// ---- variants of the kernels --------------------------------------------------------------------

class CudaAttentionVariants : public CudaTest {};

TEST_F(CudaAttentionVariants, ServeEveryHeadDim) {
  for (const index_t head_dim : {1, 7, 8, 33, 63, 64, 65, 72, 96, 127, 128, 129, 136, 200, 256}) {
    for (const std::int32_t block_q : {64, 128}) {
      for (const DType dtype : {DType::kF16, DType::kBF16}) {
        expect_close_at_random(
            make_problem({2, 1, 150, 210, head_dim}, {block_q, 64, head_dim % 2 == 0}, dtype), 31);
      }
    }
  }
}

TEST_F(CudaAttentionVariants, ServeEveryBlockSize) {
  for (const std::int32_t block_q : {16, 32, 64, 128}) {
    for (const std::int32_t block_kv : {16, 32, 64, 128}) {
      for (const bool causal : {false, true}) {
        for (const index_t head_dim : {64, 128}) {
          expect_close_at_random(
              make_problem({1, 1, 200, 330, head_dim}, {block_q, block_kv, causal}), 32);
        }
      }
    }
  }
}

TEST_F(CudaAttentionVariants, ReadManyTiles) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (const index_t head_dim : {64, 128}) {
      for (const bool causal : {false, true}) {
        expect_close_at_random(make_problem({1, 1, 300, 4100, head_dim}, {128, 128, causal}, dtype),
                               33);
      }
    }
  }
}

TEST_F(CudaAttentionVariants, ReadMoreBlocksThanAWindowLists) {
  for (const std::int32_t block_q : {16, 128}) {
    for (const bool causal : {false, true}) {
      const Problem problem = make_problem({1, 1, 130, 20000, 16}, {block_q, 16, causal});
      expect_close_at_random(problem, 34);
      // Nothing in the first window of 1024 blocks, and nothing behind it.
      const core::Geometry g = problem.geometry();
      QkvTensors tensors = random_qkv(problem, 35);
      std::vector<LevelCode> last = uniform_levels(g, kSkip);
      std::vector<LevelCode> first = last;
      for (std::size_t block = 0; block < last.size(); ++block) {
        const bool is_late = block % static_cast<std::size_t>(g.num_kv_blocks) >= 1030;
        (is_late ? last : first)[block] = static_cast<LevelCode>(1 + block % 6);
      }
      expect_close_attention(g, tensors.inputs(), last);
      expect_close_attention(g, tensors.inputs(), first);
    }
  }
}

TEST_F(CudaAttentionVariants, ShareKeysAmongHeadsInCausalPrefill) {
  for (const std::int32_t block_q : {64, 128}) {
    for (const index_t head_dim : {64, 128}) {
      expect_close_at_random(make_problem({6, 2, 300, 777, head_dim}, {block_q, 64, true}), 36);
    }
  }
}

TEST_F(CudaAttentionVariants, ServeKeyLengthsAndOrdersPerHead) {
  for (const MemoryLayout layout : {MemoryLayout::kBlhd, MemoryLayout::kPadded}) {
    for (const index_t head_dim : {64, 100, 128, 200}) {
      ProblemCase c{"", make_problem({4, 2, 260, 260, head_dim}, {128, 64}), {}, true, layout};
      c.problem.shape.batch = 4;
      c.problem.layout.grid = {4, 5, 13};
      c.kv_lengths = {0, 1, 260, 131};
      QkvTensors tensors = c.make_inputs(37);
      for (const Reorder reorder : {Reorder::kNone, Reorder::kGilbert}) {  // by index, by copies
        c.problem.config.reorder = reorder;
        const core::Geometry g = c.problem.geometry();
        expect_close_attention(g, tensors.inputs(), random_levels(g, 38));
      }
    }
  }
}

TEST_F(CudaAttentionVariants, FollowLogitsThatRise) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (const std::int32_t block_q : {64, 128}) {
      Problem problem = make_problem({1, 1, 130, 900, 64}, {block_q, 64}, dtype);
      problem.config.softmax_scale = 1.0F;  // logits of deviation 8 at the end
      const core::Geometry g = problem.geometry();
      QkvTensors tensors = random_qkv(problem, 39);
      for (index_t t = 0; t < 900; ++t) {
        for (index_t c = 0; c < 64; ++c) {
          const float key = tensors.k.get(0, 0, t, c);
          tensors.k.set(0, 0, t, c, key * static_cast<float>(t) / 900.0F);
        }
      }
      expect_close_attention(g, tensors.inputs(), random_levels(g, 40));
    }
  }
}

// ---- outputs ------------------------------------------------------------------------------------

class CudaAttentionOutput : public CudaTest {};

TEST_F(CudaAttentionOutput, IsWrittenInAnyLayout) {
  for (const index_t head_dim : {40, 61, 128}) {
    const Problem problem = make_problem({3, 1, 150, 200, head_dim}, {64, 64});
    const core::Geometry g = problem.geometry();
    QkvTensors tensors = random_qkv(problem, 41);
    Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(tensors.inputs());
    const std::vector<LevelCode> levels = random_levels(g, 42);
    for (const core::Backend* backend : cuda_backends(g)) {
      const auto plain = StageRunner(*backend, g).attention(tensors.inputs(), pyramid, levels);
      for (const MemoryLayout layout : {MemoryLayout::kBlhd, MemoryLayout::kPadded}) {
        const auto strided = StageRunner(*backend, g, {.out_layout = layout})
                                 .attention(tensors.inputs(), pyramid, levels);
        // Only close: rows that are not aligned to 16 bytes may be another kernel's work.
        EXPECT_TRUE(is_close(values_of(strided.out), values_of(plain.out), 0.02)) << backend->isa;
      }
    }
  }
}

// ---- NaN and Inf --------------------------------------------------------------------------------

class CudaAttentionNan : public CudaTest {};

/// 200 queries and 300 keys, so that query r of a causal call sees keys up to r + 100.
Problem spoiled_problem(bool causal, std::int32_t block_q, DType dtype) {
  return make_problem({1, 1, 200, 300, 64}, {block_q, 64, causal}, dtype);
}

TEST_F(CudaAttentionNan, InAQueryStaysInItsRow) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (const std::int32_t block_q : {32, 128}) {
      for (const bool causal : {false, true}) {
        for (const float bad : {kNan, kInf}) {
          const Problem problem = spoiled_problem(causal, block_q, dtype);
          const core::Geometry g = problem.geometry();
          QkvTensors tensors = random_qkv(problem, 51);
          tensors.q.set(0, 0, 77, 3, bad);
          expect_close_attention(g, tensors.inputs(), random_levels(g, 52));
        }
      }
    }
  }
}

TEST_F(CudaAttentionNan, InAKeyOrValueStaysInTheRowsThatSeeIt) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (const std::int32_t block_q : {32, 128}) {
      for (const bool is_key : {true, false}) {
        for (const float bad : {kNan, kInf}) {
          SCOPED_TRACE(is_key ? "key" : "value");
          const Problem problem = spoiled_problem(true, block_q, dtype);
          const core::Geometry g = problem.geometry();
          QkvTensors tensors = random_qkv(problem, 53);
          (is_key ? tensors.k : tensors.v).set(0, 0, 220, 5, bad);
          expect_close_attention(g, tensors.inputs(), uniform_levels(g, 1));
          expect_close_attention(g, tensors.inputs(), random_levels(g, 54));
        }
      }
    }
  }
}

TEST_F(CudaAttentionNan, InASkippedBlockOrBehindTheKeyLengthIsNotRead) {
  for (const bool causal : {false, true}) {
    const Problem problem = spoiled_problem(causal, 128, DType::kBF16);
    const core::Geometry g = problem.geometry();
    QkvTensors tensors = random_qkv(problem, 55);
    tensors.kv_lengths = {280};
    for (index_t t = 0; t < 300; ++t) {
      const bool is_skipped = t >= 64 && t < 128;
      if (!is_skipped && t < 280) continue;
      for (Tensor* tensor : {&tensors.k, &tensors.v}) tensor->set(0, 0, t, 0, kNan);
    }
    std::vector<LevelCode> levels = uniform_levels(g, 1);
    for (index_t i = 0; i < g.num_q_blocks; ++i) {
      levels[static_cast<std::size_t>(i * g.num_kv_blocks + 1)] = kSkip;
    }
    expect_close_attention(g, tensors.inputs(), levels);
  }
}

}  // namespace
}  // namespace psa::testing
