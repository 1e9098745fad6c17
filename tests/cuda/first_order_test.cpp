// SPDX-License-Identifier: Apache-2.0

// rest = linear on a device (S-23): attention with the first-order term of every kernel, in the
// budget of the attention stage, and inputs that are not finite.

#include "cuda/first_order/first_order.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "cuda/attention_checks.hpp"
#include "cuda/cuda_test.hpp"
#include "reference/backend.hpp"
#include "support/causal_probes.hpp"
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

/// Random levels, and all blocks as means.
void expect_close(const core::Geometry& g, QkvTensors& tensors, std::uint64_t seed) {
  expect_close_attention(g, tensors.inputs(), random_levels(g, seed));
  expect_close_attention(g, tensors.inputs(), uniform_levels(g, kBlockMean));
}

void expect_close(const Problem& problem, std::uint64_t seed) {
  SCOPED_TRACE(describe(problem));
  QkvTensors tensors = random_qkv(problem, seed);
  expect_close(linear_geometry(problem), tensors, seed + 1);
}

// ---- the shapes that all stages are tested with -------------------------------------------------

class CudaFirstOrder : public CudaCases {};

TEST_P(CudaFirstOrder, S23StaysInTheBudgetOfAttention) {
  QkvTensors tensors = GetParam().make_inputs(61);
  expect_close(linear_geometry(GetParam().problem), tensors, 62);
}

TEST_P(CudaFirstOrder, GivesTheSameBitsTwice) {
  const core::Geometry g = linear_geometry(GetParam().problem);
  QkvTensors tensors = GetParam().make_inputs(63);
  expect_same_bits_twice(g, tensors.inputs(), random_levels(g, 64));
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaFirstOrder, ::testing::ValuesIn(half_cases()), case_name);

// ---- variants of the kernels --------------------------------------------------------------------

class CudaFirstOrderVariants : public CudaTest {};

TEST_F(CudaFirstOrderVariants, ServeEveryHeadDim) {
  for (const index_t head_dim : {1, 8, 33, 64, 72, 96, 128, 136, 200, 256}) {
    for (const std::int32_t block_q : {64, 128}) {
      for (const DType dtype : {DType::kF16, DType::kBF16}) {
        expect_close(
            make_problem({2, 1, 150, 210, head_dim}, {block_q, 64, head_dim % 3 == 0}, dtype), 71);
      }
    }
  }
}

TEST_F(CudaFirstOrderVariants, ServeEveryBlockSize) {
  for (const std::int32_t block_q : {16, 32, 64, 128}) {
    for (const std::int32_t block_kv : {16, 32, 64, 128}) {
      for (const bool causal : {false, true}) {
        for (const index_t head_dim : {64, 128}) {
          expect_close(make_problem({1, 1, 200, 330, head_dim}, {block_q, block_kv, causal}), 72);
        }
      }
    }
  }
}

TEST_F(CudaFirstOrderVariants, ReadMoreBlocksThanAWindowLists) {
  for (const bool causal : {false, true}) {
    expect_close(make_problem({1, 1, 130, 20000, 16}, {64, 16, causal}), 73);
  }
}

TEST_F(CudaFirstOrderVariants, ShareKeysAmongHeadsInCausalPrefill) {
  for (const index_t head_dim : {64, 128}) {
    expect_close(make_problem({6, 2, 700, 1777, head_dim}, {64, 64, true}), 74);
  }
}

TEST_F(CudaFirstOrderVariants, ServeKeyLengthsAndOrdersPerHead) {
  for (const MemoryLayout layout : {MemoryLayout::kBlhd, MemoryLayout::kPadded}) {
    for (const index_t head_dim : {64, 100, 128, 200}) {
      ProblemCase c{"", make_problem({4, 2, 260, 260, head_dim}, {128, 64}), {}, true, layout};
      c.problem.shape.batch = 4;
      c.problem.layout.grid = {4, 5, 13};
      c.kv_lengths = {0, 1, 260, 131};
      QkvTensors tensors = c.make_inputs(75);
      for (const Reorder reorder : {Reorder::kNone, Reorder::kGilbert}) {  // by index, by copies
        c.problem.config.reorder = reorder;
        expect_close(linear_geometry(c.problem), tensors, 76);
      }
    }
  }
}

// ---- probe rows (S-25): calls of 1024 queries and more ------------------------------------------

class CudaRestProbes : public CudaTest {};

TEST_F(CudaRestProbes, ServeEveryHeadDim) {
  for (const index_t head_dim : {40, 64, 100, 128, 200}) {
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      expect_close(make_problem({2, 1, 1100, 1100, head_dim}, {64, 64, head_dim % 8 != 0}, dtype),
                   77);
    }
  }
}

TEST_F(CudaRestProbes, ServeEveryBlockOfKeys) {
  for (const std::int32_t block_kv : {16, 32, 128}) {
    for (const bool causal : {false, true}) {
      expect_close(make_problem({3, 1, 1030, 1500, 64}, {128, block_kv, causal}), 100);
    }
  }
}

TEST_F(CudaRestProbes, ServeFactorsOfEveryNumberOfProbes) {
  for (const std::int32_t block_q : {16, 128}) {
    expect_close(make_problem({2, 1, 2300, 2700, 64}, {block_q, 64, true}), 82);
  }
}

TEST_F(CudaRestProbes, ServeKeyLengthsAndOrders) {
  ProblemCase c{"", make_problem({4, 2, 1200, 1200, 72}, {128, 64}), {}, true, MemoryLayout::kBlhd};
  c.problem.shape.batch = 3;
  c.problem.layout.grid = {8, 10, 15};
  c.kv_lengths = {700, 1, 1200};
  QkvTensors tensors = c.make_inputs(79);
  for (const Reorder reorder : {Reorder::kNone, Reorder::kGilbert}) {
    c.problem.config.reorder = reorder;
    const core::Geometry g = linear_geometry(c.problem);
    expect_close(g, tensors, 80);
    expect_same_bits_twice(g, tensors.inputs(), random_levels(g, 81));
  }
}

/// The first `heads_kv` heads of k and v, and the queries that read them.
QkvTensors first_heads(const QkvTensors& from, const Problem& problem) {
  QkvTensors to = random_qkv(problem, 1);
  const auto copy = [](Tensor& tensor, const Tensor& source) {
    const auto& shape = tensor.shape();
    for (index_t h = 0; h < shape[1]; ++h) {
      for (index_t l = 0; l < shape[2]; ++l) {
        for (index_t c = 0; c < shape[3]; ++c) tensor.set(0, h, l, c, source.get(0, h, l, c));
      }
    }
  };
  copy(to.q, from.q);
  copy(to.k, from.k);
  copy(to.v, from.v);
  return to;
}

// Devices may share out the heads of a call: its probes are summed in chunks that do not depend on
// their number.
TEST(RestProbeChunks, DoNotDependOnTheNumberOfHeads) {
  const auto chunks = [](index_t len_kv, int heads) {
    const core::Geometry g = linear_geometry(make_problem({48, 48, 1024, len_kv, 64}, {128, 64}));
    return cuda::carve_first_order(g, {0, heads}, nullptr, nullptr).probe.chunks;
  };
  EXPECT_EQ(chunks(200, 1), 1);
  EXPECT_EQ(chunks(2100, 1), 4);
  EXPECT_EQ(chunks(75600, 1), 21);
  for (const index_t len_kv : {200, 2100, 75600}) {
    for (const int heads : {2, 12, 48}) EXPECT_EQ(chunks(len_kv, heads), chunks(len_kv, 1));
  }
}

TEST_F(CudaRestProbes, GiveAHeadTheSameBitsWhateverHeadsThereAre) {
  const Problem many = make_problem({20, 10, 1300, 2100, 64}, {128, 64});
  const Problem few = make_problem({2, 1, 1300, 2100, 64}, {128, 64});
  QkvTensors all = random_qkv(many, 83);
  QkvTensors some = first_heads(all, few);
  const auto attend = [](const core::Backend& backend, const Problem& problem, QkvTensors& in) {
    const core::Geometry g = linear_geometry(problem);
    std::vector<LevelCode> levels = uniform_levels(g, kBlockMean);
    for (std::size_t j = 0; j < levels.size(); j += 5) levels[j] = 1;
    const StageRunner runner(backend, g);
    Pyramid pyramid = runner.pyramid(in.inputs());
    return runner.attention(in.inputs(), pyramid, levels);
  };
  for (const core::Backend* backend : cuda_backends(linear_geometry(many))) {
    SCOPED_TRACE(backend->isa);
    const AttentionResult with_others = attend(*backend, many, all);
    const AttentionResult alone = attend(*backend, few, some);
    for (std::size_t r = 0; r < alone.lse.size(); ++r) {
      ASSERT_EQ(alone.lse[r], with_others.lse[r]) << r;
    }
  }
}

TEST_F(CudaRestProbes, S25RowsFollowProbesOfEarlierBlocksAlone) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (const core::Backend* backend : cuda_backends(CausalProbes(dtype).problem.geometry())) {
      expect_rows_to_follow_earlier_probes(*backend, dtype);
    }
  }
}

TEST_F(CudaRestProbes, BadKeysLeaveEarlierRowsAlone) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (const core::Backend* backend : cuda_backends(CausalProbes(dtype).problem.geometry())) {
      expect_bad_keys_to_leave_earlier_rows_alone(*backend, dtype);
    }
  }
}

// ---- NaN, Inf and numbers near the limits -------------------------------------------------------

class CudaFirstOrderNan : public CudaTest {};

/// 40 queries in blocks of 16 and 64 keys in blocks of 16; query block 0 skips KV block 2, and all
/// others are read as means.
struct RestOnly {
  Problem problem;
  QkvTensors in;

  explicit RestOnly(DType dtype)
      : problem(make_problem({1, 1, 40, 64, 16}, {16, 16}, dtype)), in(random_qkv(problem, 81)) {}

  [[nodiscard]] core::Geometry geometry() const { return linear_geometry(problem); }

  [[nodiscard]] Tensor out(const core::Backend& backend) {
    const core::Geometry g = geometry();
    std::vector<LevelCode> levels = uniform_levels(g, kBlockMean);
    levels[2] = kSkip;
    const StageRunner runner(backend, g);
    Pyramid pyramid = runner.pyramid(in.inputs());
    return runner.attention(in.inputs(), pyramid, levels).out;
  }
};

TEST_F(CudaFirstOrderNan, InAQueryStaysInItsRow) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (const core::Backend* backend : cuda_backends(RestOnly(dtype).geometry())) {
      for (const float bad : {kNan, kInf}) {
        RestOnly run(dtype);
        const Tensor before = run.out(*backend);
        run.in.q.set(0, 0, 7, 3, bad);
        const Tensor out = run.out(*backend);
        for (index_t r = 0; r < 40; ++r) {
          // An infinite query may see nothing but logits of -inf, and then gives 0.
          if (r != 7 || std::isnan(bad)) {
            EXPECT_EQ(is_finite_row(out, r), r != 7) << backend->isa << " row " << r;
          }
          if (r < 16) continue;
          EXPECT_EQ(before.get(0, 0, r, 5), out.get(0, 0, r, 5));
        }
      }
    }
  }
}

TEST_F(CudaFirstOrderNan, InAKeyOrValueStaysInTheRowsThatReadItsBlock) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (const core::Backend* backend : cuda_backends(RestOnly(dtype).geometry())) {
      for (const bool is_key : {true, false}) {
        for (const float bad : {kNan, kInf}) {
          RestOnly run(dtype);
          // Without the block, which the rows of query block 0 skip.
          const Tensor before = run.out(*backend);
          (is_key ? run.in.k : run.in.v).set(0, 0, 45, 0, bad);
          const Tensor out = run.out(*backend);
          const Tensor want = run.out(reference::backend());
          for (index_t r = 0; r < 40; ++r) {
            EXPECT_EQ(is_finite_row(out, r), is_finite_row(want, r)) << backend->isa << " " << r;
            if (r >= 16) continue;
            EXPECT_EQ(before.get(0, 0, r, 5), out.get(0, 0, r, 5)) << backend->isa << " row " << r;
          }
        }
      }
    }
  }
}

/// Keys and values that alternate, so that covariances are as large as they can be.
void alternate(RestOnly& run, float magnitude) {
  for (index_t l = 0; l < 64; ++l) {
    for (index_t c = 0; c < 16; ++c) {
      run.in.k.set(0, 0, l, c, l % 2 == 0 ? magnitude : -magnitude);
      run.in.v.set(0, 0, l, c, l % 3 == 0 ? magnitude : -magnitude);
    }
  }
}

TEST_F(CudaFirstOrderNan, NeverComesFromFiniteNumbers) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    for (const float magnitude : {1e-30F, 6e-8F, 1.0F, 6e4F, 1e19F, 1e25F}) {
      if (dtype == DType::kF16 && magnitude > 65504.0F) continue;
      RestOnly run(dtype);
      alternate(run, magnitude);
      for (const core::Backend* backend : cuda_backends(run.geometry())) {
        const Tensor out = run.out(*backend);
        for (index_t r = 0; r < 40; ++r) {
          EXPECT_TRUE(is_finite_row(out, r)) << backend->isa << " row " << r << " " << magnitude;
        }
      }
    }
  }
}

/// Scales hold covariances of every size, far above the largest f16 too.
TEST_F(CudaFirstOrderNan, CovariancesOfEverySizeCount) {
  for (const double magnitude : {1e-3, 1.0, 1e3}) {
    RestOnly run(DType::kF16);
    alternate(run, static_cast<float>(magnitude));
    run.problem.config.softmax_scale = static_cast<float>(0.1 / magnitude);
    const Tensor want = run.out(reference::backend());
    for (const core::Backend* backend : cuda_backends(run.geometry())) {
      EXPECT_TRUE(is_close(values_of(run.out(*backend)), values_of(want), 0x1p-10 * magnitude))
          << backend->isa << " " << magnitude;
    }
  }
}

// Block 0 has logit -inf at every query; its moments are not finite.
TEST_F(CudaFirstOrderNan, S23BlocksWithoutWeightAddNothing) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    RestOnly run(dtype);
    for (index_t l = 0; l < 64; ++l) {
      if (l < 16) run.in.k.set(0, 0, l, 0, -kInf);
    }
    for (index_t r = 0; r < 40; ++r) run.in.q.set(0, 0, r, 0, 2.0F);
    const Tensor want = run.out(reference::backend());
    for (const core::Backend* backend : cuda_backends(run.geometry())) {
      EXPECT_TRUE(is_close(values_of(run.out(*backend)), values_of(want), 0.02)) << backend->isa;
    }
  }
}

}  // namespace
}  // namespace psa::testing
