// SPDX-License-Identifier: Apache-2.0

// Importance of the CUDA backend by every multiplier: each estimator with each of its settings,
// against the formulas and the reference (S-9 to S-13).

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cuda/cuda_test.hpp"
#include "reference/backend.hpp"
#include "support/compare.hpp"
#include "support/formulas.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

constexpr double kFloor = 2e-6;

Values importance_values(const core::Geometry& g, const std::vector<float>& importance) {
  return values_of({g.shape.batch, g.shape.heads_q, g.num_q_blocks, g.num_kv_blocks}, importance);
}

Config with_estimator(const Config& base, Importance importance) {
  Config config = base;
  config.importance = importance;
  config.seed = 99;
  return config;
}

/// Each estimator with each of its settings.
std::vector<Config> estimator_configs(const Config& base) {
  std::vector<Config> configs;
  for (const Importance importance : {Importance::kSampledMax, Importance::kSampledMass}) {
    Config config = with_estimator(base, importance);
    configs.push_back(config);
    config.samples_q = 5;
    config.samples_kv = 3;
    configs.push_back(config);
    config.samples_q = config.block_q;
    config.samples_kv = config.block_kv;
    configs.push_back(config);
    config.samples_q = config.samples_kv = 1;
    configs.push_back(config);
  }
  for (const std::int32_t stride : {4, 8, 16}) {
    configs.push_back(with_estimator(base, Importance::kAntidiagonal));
    configs.back().antidiagonal_stride = stride;
  }
  for (const std::int32_t tokens : {8, 16}) {
    configs.push_back(with_estimator(base, Importance::kPooledLse));
    configs.back().pooled_tokens = tokens;
  }
  return configs;
}

std::string name_of(const Config& config) {
  return "estimator " + std::to_string(static_cast<int>(config.importance)) + ", samples " +
         std::to_string(config.samples_q) + "x" + std::to_string(config.samples_kv) + ", stride " +
         std::to_string(config.antidiagonal_stride) + ", sub-block " +
         std::to_string(config.pooled_tokens);
}

bool are_same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Importance within budget, the same bits when it is estimated in chunks and when it is estimated
/// again.
void expect_importance(const core::Geometry& g, QkvTensors& tensors, index_t chunk_q_blocks) {
  SCOPED_TRACE(name_of(g.config));
  const core::Inputs inputs = tensors.inputs();
  Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(inputs);
  const Values exact = exact_importance(g, inputs, pyramid.levels());
  const Values plain = plain_importance(g, inputs, pyramid.levels());
  const auto backends = cuda_backends(g);
  ASSERT_FALSE(backends.empty());
  for (const core::Backend* backend : backends) {
    SCOPED_TRACE(backend->isa);
    const StageRunner whole(*backend, g);
    const StageRunner chunked(*backend, g, {.chunk_q_blocks = chunk_q_blocks});
    const auto importance = whole.importance(inputs, pyramid);
    EXPECT_TRUE(is_within_budget(importance_values(g, importance), plain, exact, kFloor));
    EXPECT_TRUE(are_same_bits(importance, whole.importance(inputs, pyramid))) << "second run";
    EXPECT_TRUE(are_same_bits(importance, chunked.importance(inputs, pyramid))) << "in chunks";
  }
}

// ---- every estimator, every case ----------------------------------------------------------------

class CudaImportance : public CudaCases {};

TEST_P(CudaImportance, IsWithinBudgetWholeAndInChunks) {
  Problem problem = GetParam().problem;
  QkvTensors tensors = GetParam().make_inputs(71);
  for (const Config& config : estimator_configs(problem.config)) {
    problem.config = config;
    expect_importance(problem.geometry(), tensors, 2);
  }
}

TEST_P(CudaImportance, IsSharedLikeThatOfTheReference) {  // S-13
  Problem problem = GetParam().problem;
  problem.config.share_group_map = true;
  QkvTensors tensors = GetParam().make_inputs(73);
  for (const Config& config : estimator_configs(problem.config)) {
    problem.config = config;
    const core::Geometry g = problem.geometry();
    Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(tensors.inputs());
    const auto expected =
        StageRunner(reference::backend(), g).importance(tensors.inputs(), pyramid);
    for (const core::Backend* backend : cuda_backends(g)) {
      const auto shared = StageRunner(*backend, g).importance(tensors.inputs(), pyramid);
      EXPECT_TRUE(is_close(importance_values(g, shared), importance_values(g, expected), 1e-5))
          << name_of(config) << ", " << backend->isa;
    }
  }
}

TEST_P(CudaImportance, OfUserScoresIsThatOfTheReference) {  // S-8, S-13
  Problem problem = GetParam().problem;
  problem.config.importance = Importance::kUserScores;
  for (const bool is_shared : {false, true}) {
    problem.config.share_group_map = is_shared;
    const core::Geometry g = problem.geometry();
    QkvTensors tensors = GetParam().make_inputs(74);
    Pyramid pyramid(g);
    std::vector<float> scores(uniform_levels(g, 1).size());
    for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(i * 7 % 11);
    const auto expected =
        StageRunner(reference::backend(), g).importance(tensors.inputs(), pyramid, scores);
    const auto given = StageRunner(cuda_backend(g), g, {.chunk_q_blocks = 2})
                           .importance(tensors.inputs(), pyramid, scores);
    EXPECT_TRUE(is_close(importance_values(g, given), importance_values(g, expected),
                         is_shared ? 1e-6 : 0.0));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaImportance, ::testing::ValuesIn(half_cases()), case_name);

// ---- several tiles of rows and columns ----------------------------------------------------------

struct LargeCase {
  const char* name;
  ProblemShape shape;
  std::int32_t block_q = 128;
  std::int32_t block_kv = 128;
  bool causal = false;
  std::vector<std::int32_t> kv_lengths{};
  bool reordered = false;
  MemoryLayout layout = MemoryLayout::kBhld;
  std::int32_t antidiagonal_stride = 8;
};

void PrintTo(const LargeCase& c, std::ostream* out) { *out << c.name; }

ProblemShape large_shape(index_t heads_q, index_t heads_kv, index_t len_q, index_t len_kv,
                         index_t head_dim, DType dtype) {
  return {.batch = 1,
          .heads_q = heads_q,
          .heads_kv = heads_kv,
          .len_q = len_q,
          .len_kv = len_kv,
          .head_dim = head_dim,
          .dtype_q = dtype,
          .dtype_kv = dtype,
          .dtype_out = dtype};
}

/// More items of the antidiagonal than clusters run at a time.
LargeCase many_items(const char* name, const ProblemShape& shape) {
  LargeCase c{name, shape};
  c.causal = true;
  c.antidiagonal_stride = 4;
  return c;
}

std::vector<LargeCase> large_cases() {
  constexpr DType kF16 = DType::kF16;
  constexpr DType kBf16 = DType::kBF16;
  return {
      {"D128", large_shape(2, 1, 3000, 3000, 128, kBf16)},
      {"D128F16", large_shape(1, 1, 3000, 2900, 128, kF16)},
      {"D64SmallBlocks", large_shape(1, 1, 3000, 3000, 64, kBf16), 64, 32},
      {"D64TinyBlocks", large_shape(1, 1, 700, 2100, 64, kF16), 16, 16},
      {"D256", large_shape(1, 1, 1100, 1500, 256, kBf16), 128, 64},
      {"Causal", large_shape(2, 1, 3000, 3000, 64, kBf16), 128, 128, true},
      {"CausalPrefill", large_shape(2, 2, 1000, 3000, 128, kF16), 64, 128, true, {2777}},
      {"CausalMoreQueries", large_shape(1, 1, 3000, 1000, 64, kBf16), 128, 64, true},
      {"KeyLengthReordered",
       large_shape(2, 2, 2000, 3000, 72, kBf16),
       64,
       128,
       false,
       {1234},
       true},
      {"PartialGroups",
       large_shape(2, 1, 3005, 2891, 128, kBf16),
       128,
       128,
       true,
       {},
       false,
       MemoryLayout::kBlhd},
      {"PartialGroupsD96", large_shape(3, 3, 1031, 2063, 96, kF16), 64, 64},
      {"UnalignedRows", large_shape(1, 1, 900, 1700, 75, kF16), 64, 64},
      {"PaddedRows",
       large_shape(1, 1, 1300, 1700, 120, kBf16),
       64,
       64,
       true,
       {},
       false,
       MemoryLayout::kPadded},
      // An item per head of the antidiagonal, of as many chunks as a ring has slots: every group of
      // CTAs goes through several, in rounds of either parity.
      many_items("ManyItems", large_shape(200, 100, 520, 520, 32, kBf16)),
      // ... and of several steps of columns each.
      many_items("ManyLongItems", large_shape(72, 36, 2100, 2100, 32, kBf16)),
  };
}

class CudaImportanceLarge : public ::testing::TestWithParam<LargeCase> {
 protected:
  void SetUp() override { cuda_device_or_skip(); }
};

TEST_P(CudaImportanceLarge, IsWithinBudgetWholeAndInChunks) {
  const LargeCase& c = GetParam();
  Problem problem;
  problem.shape = c.shape;
  problem.config.block_q = c.block_q;
  problem.config.block_kv = c.block_kv;
  problem.config.causal = c.causal;
  problem.config.antidiagonal_stride = c.antidiagonal_stride;
  QkvTensors tensors = random_qkv(problem, 81, c.layout);
  tensors.kv_lengths = c.kv_lengths;
  if (c.reordered) {
    tensors.q_index = random_orders(c.shape.heads_q, c.shape.len_q, 82);
    tensors.kv_index = random_orders(c.shape.heads_kv, c.shape.len_kv, 83);
  }
  for (const Importance importance : {Importance::kSampledMax, Importance::kSampledMass,
                                      Importance::kAntidiagonal, Importance::kPooledLse}) {
    problem.config = with_estimator(problem.config, importance);
    expect_importance(problem.geometry(), tensors, 5);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaImportanceLarge, ::testing::ValuesIn(large_cases()),
                         [](const auto& tested) { return std::string(tested.param.name); });

class CudaImportanceInParts : public CudaTest {};

/// Sampled keys of three heads, more than are copied at a time on sm_90 (importance.cu): 8 MiB
/// each.
TEST_F(CudaImportanceInParts, SampledKeysOfSomeHeadsAtATime) {
  Problem problem;
  problem.shape = large_shape(6, 3, 130, 32768, 128, DType::kBF16);
  problem.config.samples_q = 4;
  problem.config.samples_kv = problem.config.block_kv;
  QkvTensors tensors = random_qkv(problem, 84);
  tensors.kv_lengths = {30001};
  for (const Importance importance : {Importance::kSampledMax, Importance::kSampledMass}) {
    problem.config = with_estimator(problem.config, importance);
    expect_importance(problem.geometry(), tensors, 1);
  }
}

// ---- numbers at their ends ----------------------------------------------------------------------

class CudaImportanceNumbers : public ::testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    cuda_device_or_skip();
    problem_.shape = large_shape(2, 1, 64, 96, 16, GetParam());
  }
  Problem problem_;
};

TEST_P(CudaImportanceNumbers, NanAndInfinityCountAsInTheReference) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const Config& config : estimator_configs(problem_.config)) {
    problem_.config = config;
    const core::Geometry g = problem_.geometry();
    for (const float value : {std::numeric_limits<float>::quiet_NaN(), kInfinity, -kInfinity}) {
      for (const bool is_key : {false, true}) {
        QkvTensors tensors = random_qkv(problem_, 75);
        (is_key ? tensors.k : tensors.q).set(0, 0, 20, 5, value);
        Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(tensors.inputs());
        const auto expected =
            StageRunner(reference::backend(), g).importance(tensors.inputs(), pyramid);
        for (const core::Backend* backend : cuda_backends(g)) {
          const auto found = StageRunner(*backend, g).importance(tensors.inputs(), pyramid);
          EXPECT_TRUE(is_close(importance_values(g, found), importance_values(g, expected), 1e-5))
              << name_of(config) << ", " << backend->isa << ", " << value << " in "
              << (is_key ? "k" : "q");
        }
      }
    }
  }
}

TEST_P(CudaImportanceNumbers, RowsOfNanAloneAreLeftOut) {
  for (const Config& config : estimator_configs(problem_.config)) {
    problem_.config = config;
    const core::Geometry g = problem_.geometry();
    QkvTensors tensors = random_qkv(problem_, 76);
    for (index_t token = 16; token < 32; ++token) {  // query block 1
      tensors.q.set(0, 0, token, 3, std::numeric_limits<float>::quiet_NaN());
    }
    Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(tensors.inputs());
    for (const core::Backend* backend : cuda_backends(g)) {
      SCOPED_TRACE(name_of(config) + ", " + backend->isa);
      const auto found = StageRunner(*backend, g).importance(tensors.inputs(), pyramid);
      for (index_t j = 0; j < g.num_kv_blocks; ++j) {
        EXPECT_EQ(found[static_cast<std::size_t>(g.num_kv_blocks + j)], 0.0F);
        EXPECT_FALSE(std::isnan(found[static_cast<std::size_t>(j)]));
      }
    }
  }
}

void scale_by(Tensor& tensor, float factor) {
  const auto [batch, heads, tokens, channels] = tensor.shape();
  for (index_t b = 0; b < batch; ++b) {
    for (index_t h = 0; h < heads; ++h) {
      for (index_t l = 0; l < tokens; ++l) {
        for (index_t c = 0; c < channels; ++c)
          tensor.set(b, h, l, c, factor * tensor.get(b, h, l, c));
      }
    }
  }
}

/// Means of queries are floats; the tensor cores take elements. Large logits show what is lost,
/// from queries of the usual size and from such as lie at the end of what f16 can hold.
TEST_P(CudaImportanceNumbers, MeansOfQueriesAreAsGoodAsFloats) {
  struct Sizes {
    float q, k, scale;
  };
  problem_.shape.len_q = 400;
  problem_.shape.len_kv = 900;
  problem_.shape.head_dim = 128;
  for (const Sizes& sizes : {Sizes{32.0F, 1.0F, 0.0F}, Sizes{1e-3F, 8000.0F, 1.0F}}) {
    QkvTensors tensors = random_qkv(problem_, 77);
    scale_by(tensors.q, sizes.q);
    scale_by(tensors.k, sizes.k);
    problem_.config = with_estimator(problem_.config, Importance::kPooledLse);
    problem_.config.softmax_scale = sizes.scale;
    expect_importance(problem_.geometry(), tensors, 3);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaImportanceNumbers, ::testing::Values(DType::kF16, DType::kBF16),
                         [](const auto& tested) {
                           return std::string(tested.param == DType::kF16 ? "F16" : "Bf16");
                         });

}  // namespace
}  // namespace psa::testing
