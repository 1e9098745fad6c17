// SPDX-License-Identifier: Apache-2.0

// Each tile kernel of every ISA that this machine has, against plain loops in double.

#include "cpu/tile.hpp"
#include "stages/cpu_tile_problem.hpp"

namespace psa::cpu {
namespace {

class CpuTile : public TileTest {};

TEST_P(CpuTile, ScoresOfOneHotQueriesAreTheKeysThemselves) {
  // Exact, so it also checks conversions and that padding rows are zero queries.
  const std::vector<float> special = {0.0F,    -0.0F,   1.0F, -2.5F,       65504.0F,
                                      6.0e-8F, 6.1e-5F, 0.1F, 1.00390625F, -3.14159F};
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const int head_dim : {1, 7, 16, 33, 64, 65, 80, 128, 256}) {
      const int rows = std::min(head_dim, 100);
      const int keys = 37;
      // Key rows without a gap are loaded as one long row, if a row fills whole words.
      const int gap = head_dim == 7 || head_dim == 65 || head_dim % 16 == 0 ? 0 : 3;
      Matrix q(rows, head_dim, dtype);
      Matrix k(keys, head_dim, dtype, gap);
      for (int c = 0; c < head_dim; ++c) {
        for (int i = 0; i < rows; ++i) q.set(i, c, i == c ? 1.0F : 0.0F);
        for (int j = 0; j < keys; ++j) {
          k.set(j, c, special[static_cast<std::size_t>(j * 3 + c * 7) % special.size()]);
        }
      }
      const Pack pack(kernels(), {rows, head_dim});
      kernels().pack_queries(pack.shape, q.input(), pack.queries.data());
      pack.load_keys(k.input(), 0, keys);
      kernels().scores(pack.step(keys), false);
      for (int j = 0; j < keys; ++j) {
        for (int i = 0; i < rows; ++i) {
          const float want = operand(kernels().compute, k.at(j, i));
          ASSERT_EQ(pack.score(j, i), want)
              << "head_dim " << head_dim << " key " << j << " query " << i;
        }
        for (int i = rows; i < padded_queries(rows); ++i) ASSERT_EQ(pack.score(j, i), 0.0F);
      }
    }
  }
}

TEST_P(CpuTile, ScoresAreDotProductsForEveryPackWidth) {
  for (const int rows : {1, 16, 17, 32, 48, 63, 64, 80, 100, 128}) {
    for (const int keys : {1, 2, 3, 5, 12, 31, 128}) {
      const int head_dim = 40 + keys % 3;
      const Matrix q = random_matrix(rows, head_dim, DType::kF32, 1);
      const Matrix k = random_matrix(keys, head_dim, DType::kF32, 2);
      const Pack pack(kernels(), {rows, head_dim});
      kernels().pack_queries(pack.shape, q.input(), pack.queries.data());
      pack.load_keys(k.input(), 0, keys);
      kernels().scores(pack.step(keys), false);
      for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < keys; ++j) {
          double dot = 0, magnitude = 0;
          for (int c = 0; c < head_dim; ++c) {
            const double term = static_cast<double>(operand(kernels().compute, q.at(i, c))) *
                                static_cast<double>(operand(kernels().compute, k.at(j, c)));
            dot += term;
            magnitude += std::abs(term);
          }
          ASSERT_NEAR(pack.score(j, i), dot, 4 * kEpsilon * magnitude)
              << "rows " << rows << " keys " << keys << " query " << i << " key " << j;
        }
      }
    }
  }
}

TEST_P(CpuTile, ScoresAddUpOverPiecesOfTheInnerDimension) {
  const int rows = 20, keys = 9, piece = 30;
  const Matrix q = random_matrix(rows, 2 * piece, DType::kBF16, 3);
  const Matrix k = random_matrix(keys, 2 * piece, DType::kBF16, 4);
  const Pack pack(kernels(), {rows, piece});
  for (const int at : {0, piece}) {
    InputRows q_rows = q.input(), k_rows = k.input();
    q_rows.data = static_cast<const std::uint16_t*>(q_rows.data) + at;
    k_rows.data = static_cast<const std::uint16_t*>(k_rows.data) + at;
    kernels().pack_queries(pack.shape, q_rows, pack.queries.data());
    pack.load_keys(k_rows, 0, keys);
    kernels().scores(pack.step(keys), at != 0);
  }
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < keys; ++j) {
      double dot = 0, magnitude = 0;
      for (int c = 0; c < 2 * piece; ++c) {
        dot += static_cast<double>(q.at(i, c)) * static_cast<double>(k.at(j, c));
        magnitude += std::abs(static_cast<double>(q.at(i, c)) * static_cast<double>(k.at(j, c)));
      }
      ASSERT_NEAR(pack.score(j, i), dot, 4 * kEpsilon * magnitude);
    }
  }
}

TEST_P(CpuTile, LoadValuesReportsWhetherAllAreFinite) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const int head_dim : {1, 17, 64}) {
      Matrix v = random_matrix(5, head_dim, dtype, 14);
      const Pack pack(kernels(), {16, head_dim});
      EXPECT_TRUE(pack.load_values(v.input(), 0, 5));
      for (const float bad : {kNan, kInf, -kInf}) {
        v.set(3, head_dim - 1, bad);
        EXPECT_FALSE(pack.load_values(v.input(), 0, 5));
        EXPECT_TRUE(pack.load_values(v.input(), 0, 3));
        EXPECT_FALSE(pack.load_values(v.input(3), 3, 1));
      }
    }
  }
}

/// One channel, one query of 1: the logit of a key is the key's value.
std::vector<float> exp2_of(const TileKernels& kernels, const std::vector<float>& x) {
  Matrix q(1, 1, DType::kF32);
  q.set(0, 0, 1.0F);
  const int keys = static_cast<int>(x.size());
  Matrix k(keys, 1, DType::kF32);
  for (int j = 0; j < keys; ++j) k.set(j, 0, x[static_cast<std::size_t>(j)]);
  const Pack pack(kernels, {1, 1});
  kernels.pack_queries(pack.shape, q.input(), pack.queries.data());
  const std::vector<float> zero(kLaneQueries, 0.0F);
  std::vector<float> result;
  for (int begin = 0; begin < keys; begin += kMaxTileKeys) {
    const int count = std::min(kMaxTileKeys, keys - begin);
    std::vector<float> sums(static_cast<std::size_t>(count) * kLaneQueries);
    pack.load_keys(k.input(begin), 0, count);
    kernels.scores(pack.step(count), false);
    kernels.block_sum_exp(pack.step(count), {.reference = zero.data(), .result = sums.data()});
    for (int j = 0; j < count; ++j) {
      result.push_back(sums[static_cast<std::size_t>(j) * kLaneQueries]);
    }
  }
  return result;
}

TEST_P(CpuTile, Exp2IsExactToAFewUnitsInTheLastPlace) {
  std::vector<float> x;
  for (float value = -125.9F; value < 127.4F; value += 0.0137F) {
    x.push_back(operand(kernels().compute, value));
  }
  const std::vector<float> got = exp2_of(kernels(), x);
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double want = std::exp2(static_cast<double>(x[i]));
    worst = std::max(worst, std::abs(static_cast<double>(got[i]) - want) / want);
  }
  EXPECT_LE(worst, 2 * kEpsilon);
  EXPECT_EQ(exp2_of(kernels(), {0.0F, -1.0F, 5.0F, -kInf, -200.0F, -1.0e30F, 128.0F, 1.0e30F}),
            (std::vector<float>{1.0F, 0.5F, 32.0F, 0.0F, 0.0F, 0.0F, kInf, kInf}));
  EXPECT_TRUE(std::isnan(exp2_of(kernels(), {kNan})[0]));
}

TEST_P(CpuTile, BlockMaximaAndSumsFollowTheLogitRule) {
  const int rows = 90, keys = 50, head_dim = 12, block = 16;
  const Matrix q = random_matrix(rows, head_dim, DType::kBF16, 15);
  const Matrix k = random_matrix(keys, head_dim, DType::kBF16, 16);
  std::vector<float> bias(keys);
  for (int j = 0; j < keys; ++j) bias[static_cast<std::size_t>(j)] = static_cast<float>(j % 4);
  std::vector<std::int32_t> first = staircase(keys, rows);
  std::fill(first.begin() + 16, first.begin() + 32, 70);  // block 1: hidden to queries below 70
  const Pack pack(kernels(), {rows, head_dim});
  kernels().pack_queries(pack.shape, q.input(), pack.queries.data());
  pack.load_keys(k.input(), 0, keys);
  const TileStep step =
      pack.step(keys, {.scale_log2 = 0.5F, .bias_log2 = bias.data(), .first_query = first.data()});
  kernels().scores(step, false);
  const int padded = padded_queries(rows);
  std::vector<float> max(static_cast<std::size_t>(4 * padded)), sum(max.size());
  kernels().block_max(step, {.block_keys = block, .result = max.data()});
  kernels().block_sum_exp(step, {.block_keys = block,
                                 .reference = max.data(),
                                 .reference_stride = padded,
                                 .result = sum.data()});
  for (int b = 0; b < 4; ++b) {
    for (int i = 0; i < rows; ++i) {
      double want_max = -std::numeric_limits<double>::infinity(), total = 0;
      for (int j = b * block; j < std::min(keys, (b + 1) * block); ++j) {
        if (i < first[static_cast<std::size_t>(j)]) continue;
        const double logit = 0.5 * static_cast<double>(pack.score(j, i)) +
                             static_cast<double>(bias[static_cast<std::size_t>(j)]);
        want_max = std::max(want_max, logit);
        total += std::exp2(logit);
      }
      const auto at = static_cast<std::size_t>(b * padded + i);
      if (total == 0) {
        EXPECT_EQ(max[at], -kInf);
        EXPECT_EQ(sum[at], 0.0F);
        continue;
      }
      EXPECT_NEAR(max[at], want_max, 4 * kEpsilon * (1 + std::abs(want_max)));
      const double want_sum = total * std::exp2(-want_max);
      EXPECT_NEAR(sum[at], want_sum, 16 * kEpsilon * want_sum);
    }
  }
}

TEST_P(CpuTile, OutputsAreRoundedOnceAndScatteredToTheirRows) {
  const int rows = 35, head_dim = 21;
  const Pack pack(kernels(), {rows, head_dim});
  reset_output(pack.shape, pack.output.floats(), pack.state());
  std::mt19937 generator(17);
  std::normal_distribution<float> normal;
  std::generate_n(pack.output.floats(), output_floats(rows, head_dim),
                  [&] { return normal(generator); });
  std::fill_n(pack.sum.floats(), padded_queries(rows), 4.0F);
  std::fill_n(pack.max.floats(), padded_queries(rows), 3.0F);
  pack.sum.floats()[34] = kNan;
  std::vector<std::int32_t> index(rows + 2);
  for (int i = 0; i < rows + 2; ++i) index[static_cast<std::size_t>(i)] = (i * 11) % 37;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    Matrix out(37, head_dim, dtype);
    const std::vector<std::byte> untouched = out.bytes;
    std::vector<float> lse(37, -1.0F);
    OutputRows rows_out = out.output(lse.data());
    rows_out.first = 2;
    rows_out.index = index.data();
    kernels().store_output(pack.shape, pack.output.floats(), pack.state(), rows_out);
    for (int i = 0; i < rows - 1; ++i) {
      const int row = index[static_cast<std::size_t>(i + 2)];
      EXPECT_FLOAT_EQ(lse[static_cast<std::size_t>(row)], 5.0F * std::numbers::ln2_v<float>);
      const int begin = i / kGroupQueries * kGroupQueries;
      const int width = std::min(kGroupQueries, padded_queries(rows) - begin);
      for (int c = 0; c < head_dim; ++c) {
        Matrix want(1, 1, dtype);
        want.set(0, 0, pack.output.floats()[begin * head_dim + c * width + i - begin] / 4.0F);
        ASSERT_EQ(out.at(row, c), want.at(0, 0));
      }
    }
    EXPECT_TRUE(std::isnan(out.at(index[36], 0)));
    const std::size_t gap = 3 * size_of(dtype);
    for (int r = 0; r < 37; ++r) {
      const auto* end =
          static_cast<std::byte*>(out.row(r)) + head_dim * static_cast<int>(size_of(dtype));
      EXPECT_EQ(std::memcmp(end, untouched.data(), gap), 0) << "row " << r;
    }
    for (const int row : {0, 11}) EXPECT_EQ(std::memcmp(out.row(row), untouched.data(), gap), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, CpuTile, every_isa(), isa_name);

TEST(CpuTileDispatch, AnF32TableStandsBeforeEveryBf16Table) {
  bool after_f32 = false;
  for (const TileKernels* kernels : all_supported()) {
    EXPECT_EQ(kernels->native_bf16, kernels->compute == Compute::kBF16);
    EXPECT_TRUE(after_f32 || !kernels->native_bf16) << kernels->isa;
    after_f32 = !kernels->native_bf16;
  }
}

}  // namespace
}  // namespace psa::cpu
