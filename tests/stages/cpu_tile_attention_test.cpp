// SPDX-License-Identifier: Apache-2.0

// Attention by the tile kernels of every ISA that this machine has. Where rounding matters the
// oracle is a plain evaluation of the same precision: the kernels may err at most twice as much,
// plus a floor of a few units in the last place of the largest magnitude involved.

#include <bit>

#include "stages/cpu_tile_problem.hpp"

namespace psa::cpu {
namespace {

class CpuTileAttention : public TileTest {};

double max_error(const Result& a, const Result& b) {
  double worst = 0;
  for (int i = 0; i < a.out.count; ++i) {
    for (int c = 0; c < a.out.dim; ++c) {
      worst = std::max(worst, std::abs(static_cast<double>(a.out.at(i, c)) -
                                       static_cast<double>(b.out.at(i, c))));
    }
  }
  return worst;
}

double max_lse_error(const Result& a, const Result& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.lse.size(); ++i) {
    if (a.lse[i] == b.lse[i]) continue;  // also -inf
    worst =
        std::max(worst, std::abs(static_cast<double>(a.lse[i]) - static_cast<double>(b.lse[i])));
  }
  return worst;
}

void expect_as_exact_as_plain(const TileKernels& kernels, const Problem& p) {
  const Result exact = run_plain<double>(kernels.compute, p, false);
  const Result plain = run_plain<float>(kernels.compute, p, true);
  const Result got = run_kernels(kernels, p);
  double magnitude = 0;
  for (int i = 0; i < p.v.count; ++i) {
    for (int c = 0; c < p.v.dim; ++c) {
      magnitude = std::max(magnitude, static_cast<double>(std::abs(p.v.at(i, c))));
    }
  }
  EXPECT_LE(max_error(got, exact), 2 * max_error(plain, exact) + 4 * kEpsilon * magnitude);
  EXPECT_LE(max_lse_error(got, exact), 2 * max_lse_error(plain, exact) + 16 * kEpsilon);
}

TEST_P(CpuTileAttention, ErrsNoMoreThanPlainCode) {
  struct Case {
    DType dtype;
    int head_dim;
    int rows;
  };
  // Every dtype, odd and even head_dim, full and ragged packs of every group width.
  const std::vector<Case> cases = {
      {DType::kF32, 1, 17},   {DType::kBF16, 7, 100}, {DType::kF16, 64, 128},
      {DType::kF32, 64, 64},  {DType::kBF16, 64, 31}, {DType::kF32, 65, 128},
      {DType::kBF16, 80, 48}, {DType::kF16, 80, 1},   {DType::kBF16, 128, 9},
      {DType::kF32, 128, 80}, {DType::kF32, 256, 16}, {DType::kBF16, 255, 33}};
  for (const Case& c : cases) {
    SCOPED_TRACE(::testing::Message() << "dtype " << static_cast<int>(c.dtype) << " head_dim "
                                      << c.head_dim << " rows " << c.rows);
    expect_as_exact_as_plain(kernels(),
                             random_problem(c.rows, c.head_dim, c.dtype, {128, 1, 37, 64, 2}, 5));
  }
}

TEST_P(CpuTileAttention, BiasHiddenKeysAndPermutedRowsAreRespected) {
  for (const int rows : {16, 50, 128}) {
    Problem p = random_problem(rows, 72, DType::kF32, {96, 33, 128}, 6);
    const int keys = p.k.count;
    for (int j = 0; j < keys; ++j) p.bias_log2.push_back(static_cast<float>(j % 5));
    expect_as_exact_as_plain(kernels(), p);
    p.first_query = staircase(keys, rows);
    expect_as_exact_as_plain(kernels(), p);
    for (int j = 0; j < keys; ++j) p.key_index.push_back((j * 100) % keys);
    ASSERT_NE(std::gcd(100, keys), keys);
    expect_as_exact_as_plain(kernels(), p);
    p.bias_log2.clear();
    expect_as_exact_as_plain(kernels(), p);
  }
}

TEST_P(CpuTileAttention, VisibilityBeginsExactlyAtTheFirstQuery) {
  // The edges of the pack and of its groups of 64 queries, in the last key and alone in the tile.
  for (const std::int32_t first : {1, 63, 64, 65, 127}) {
    Problem p = random_problem(128, 16, DType::kF32, {3, 1, 5}, 18);
    p.first_query = {0, 0, first, first, 0, first, first, 0, 0};
    expect_as_exact_as_plain(kernels(), p);
  }
}

TEST_P(CpuTileAttention, LogitsFarBelowZeroCountInFull) {
  Problem p = random_problem(20, 16, DType::kF32, {30, 7}, 19);
  p.bias_log2.assign(37, -8192.0F);
  expect_as_exact_as_plain(kernels(), p);
}

TEST_P(CpuTileAttention, RisingLogitsRescaleTheOutput) {
  // The maximum rises by much, by little, falls, and rises again.
  Problem p = random_problem(48, 8, DType::kF32, {16, 16, 16, 16, 16}, 7);
  const std::vector<float> level = {0.0F, 300.0F, 304.0F, 100.0F, 340.0F};
  for (int j = 0; j < p.k.count; ++j)
    p.bias_log2.push_back(level[static_cast<std::size_t>(j / 16)]);
  expect_as_exact_as_plain(kernels(), p);
}

TEST_P(CpuTileAttention, AttendEqualsItsThreePartsBitForBitAndRepeats) {
  Problem p = random_problem(112, 80, DType::kF32, {128, 61}, 8);
  p.first_query = staircase(p.k.count, 112);
  const Result once = run_kernels(kernels(), p);
  const Result twice = run_kernels(kernels(), p);
  p.in_one_call = false;
  const Result parts = run_kernels(kernels(), p);
  for (int i = 0; i < 112; ++i) {
    for (int c = 0; c < 80; ++c) {
      ASSERT_EQ(once.out.at(i, c), twice.out.at(i, c));
      ASSERT_EQ(once.out.at(i, c), parts.out.at(i, c));
    }
  }
  EXPECT_EQ(once.lse, twice.lse);
  EXPECT_EQ(once.lse, parts.lse);
}

TEST_P(CpuTileAttention, QueriesThatSeeNothingGiveZeroAndMinusInfinity) {
  Problem p = random_problem(40, 24, DType::kF32, {20, 20}, 9);
  p.first_query.assign(40, 25);
  std::fill(p.first_query.begin(), p.first_query.begin() + 20,
            40);  // the first tile: hidden to all
  const Result got = run_kernels(kernels(), p);
  for (int i = 0; i < 25; ++i) {
    EXPECT_EQ(got.lse[static_cast<std::size_t>(i)], -kInf);
    for (int c = 0; c < 24; ++c) ASSERT_EQ(got.out.at(i, c), 0.0F);
  }
  for (int i = 25; i < 40; ++i) EXPECT_TRUE(std::isfinite(got.lse[static_cast<std::size_t>(i)]));
  expect_as_exact_as_plain(kernels(), p);
}

/// Rows in `touched` must become NaN or Inf; the others stay what they were, but for rounding: a
/// tile with hidden NaN values may be summed in another order.
void expect_contained(const TileKernels& kernels, const Problem& clean, const Problem& dirty,
                      const std::vector<bool>& touched) {
  const Result want = run_kernels(kernels, clean);
  const Result got = run_kernels(kernels, dirty);
  for (int i = 0; i < clean.q.count; ++i) {
    bool finite = true;
    for (int c = 0; c < clean.q.dim; ++c) finite = finite && std::isfinite(got.out.at(i, c));
    EXPECT_EQ(finite, !touched[static_cast<std::size_t>(i)]) << "query " << i;
    if (touched[static_cast<std::size_t>(i)]) continue;
    for (int c = 0; c < clean.q.dim; ++c) {
      ASSERT_NEAR(got.out.at(i, c), want.out.at(i, c), 16 * kEpsilon) << "query " << i;
    }
    EXPECT_EQ(got.lse[static_cast<std::size_t>(i)], want.lse[static_cast<std::size_t>(i)]);
  }
}

TEST_P(CpuTileAttention, NanInAQueryRowStaysInThatRow) {
  const Problem clean = random_problem(70, 33, DType::kF32, {50, 50}, 10);
  // A NaN with payload bits, too: exponent arithmetic on its bits could make a number of it.
  const float payload = std::bit_cast<float>(0x7FC12345U);
  for (const float bad : {kNan, -kNan, payload, kInf, -kInf}) {
    Problem dirty = clean;
    dirty.q.set(5, 7, bad);
    dirty.q.set(69, 0, bad);
    std::vector<bool> touched(70, false);
    touched[5] = touched[69] = true;
    expect_contained(kernels(), clean, dirty, touched);
  }
}

TEST_P(CpuTileAttention, NanInAHiddenKeyOrValueStaysHidden) {
  Problem clean = random_problem(70, 33, DType::kF32, {50, 51}, 11);
  clean.first_query = staircase(101, 70);
  clean.first_query[60] = 30;
  clean.first_query[20] = 70;
  for (const float bad : {kNan, kInf, -kInf}) {
    for (Matrix Problem::*const which : {&Problem::k, &Problem::v}) {
      Problem dirty = clean;
      (dirty.*which).set(60, 32, bad);
      (dirty.*which).set(20, 3, bad);
      std::vector<bool> touched(70, false);
      // A key of -Inf (times a positive query) has weight 0: only its NaN and +Inf logits show.
      if (which == &Problem::k && !std::isnan(bad)) {
        for (int i = 30; i < 70; ++i) {
          touched[static_cast<std::size_t>(i)] = clean.q.at(i, 32) * bad > 0;
        }
        const Result got = run_kernels(kernels(), dirty);
        for (int i = 0; i < 30; ++i) EXPECT_TRUE(std::isfinite(got.out.at(i, 0)));
        for (int i = 30; i < 70; ++i) {
          EXPECT_EQ(std::isfinite(got.out.at(i, 0)), !touched[static_cast<std::size_t>(i)]);
        }
        continue;
      }
      std::fill(touched.begin() + 30, touched.end(), true);
      expect_contained(kernels(), clean, dirty, touched);
    }
  }
}

TEST_P(CpuTileAttention, HugeFiniteLogitsGiveNoNan) {
  Problem p = random_problem(40, 16, DType::kF32, {30, 30, 30}, 12);
  for (const float size : {1.0e4F, 1.0e10F, 3.0e14F}) {
    Problem huge = p;
    for (int i = 0; i < 40; ++i) {
      for (int c = 0; c < 16; ++c) huge.q.set(i, c, p.q.at(i, c) * size);
    }
    for (int j = 0; j < 90; ++j) {
      for (int c = 0; c < 16; ++c) huge.k.set(j, c, p.k.at(j, c) * size);
    }
    const Result got = run_kernels(kernels(), huge);
    for (int i = 0; i < 40; ++i) {
      EXPECT_TRUE(std::isfinite(got.lse[static_cast<std::size_t>(i)]));
      for (int c = 0; c < 16; ++c) {
        ASSERT_LE(std::abs(got.out.at(i, c)), 6.0F) << "not a mean of values";
      }
    }
  }
}

TEST_P(CpuTileAttention, ValuesOfOneGiveOne) {
  Problem p = random_problem(33, 20, DType::kF32, {128, 128, 7}, 13);
  for (int j = 0; j < p.v.count; ++j) {
    for (int c = 0; c < 20; ++c) p.v.set(j, c, 1.0F);
  }
  const Result got = run_kernels(kernels(), p);
  const double tolerance = kernels().native_bf16 ? 1.0 / 512 : 16 * kEpsilon;
  for (int i = 0; i < 33; ++i) EXPECT_NEAR(got.out.at(i, 3), 1.0, tolerance);
}

INSTANTIATE_TEST_SUITE_P(EveryIsa, CpuTileAttention, every_isa(), isa_name);

}  // namespace
}  // namespace psa::cpu
