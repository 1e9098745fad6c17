// SPDX-License-Identifier: Apache-2.0
#include "semantics/levels.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace psa::semantics {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr std::uint64_t kFullMass = 1U << 24;

// ---- S-13 ---------------------------------------------------------------------------------------

std::vector<index_t> ranked(std::vector<RankKey> keys) {
  std::sort(keys.begin(), keys.end(), ranks_before);
  std::vector<index_t> blocks;
  for (const RankKey& key : keys) blocks.push_back(key.kv_block);
  return blocks;
}

TEST(Levels, S13FallingImportanceThenRisingBlock) {
  EXPECT_EQ(ranked({{false, 1.0F, 0}, {false, 3.0F, 1}, {false, 2.0F, 2}, {false, 3.0F, 3}}),
            (std::vector<index_t>{1, 3, 2, 0}));
}

TEST(Levels, S13ForcedBlocksComeFirstByIndex) {
  EXPECT_EQ(ranked({{false, 9.0F, 0}, {true, 0.0F, 1}, {false, 5.0F, 2}, {true, 7.0F, 3}}),
            (std::vector<index_t>{1, 3, 0, 2}));
}

TEST(Levels, S13NanRanksBehindEveryNumber) {
  EXPECT_EQ(ranked({{false, ranked_importance(kNan), 0},
                    {false, ranked_importance(0.0F), 1},
                    {false, ranked_importance(-5.0F), 2},
                    {false, ranked_importance(kNan), 3}}),
            (std::vector<index_t>{1, 2, 0, 3}));
  EXPECT_EQ(ranked({{false, ranked_importance(kNan), 1}, {false, -kInf, 0}}),
            (std::vector<index_t>{0, 1}))
      << "NaN counts as minus infinity";
  EXPECT_EQ(ranked_importance(kInf), kInf);
  EXPECT_EQ(ranked_importance(0.25F), 0.25F);
}

TEST(Levels, S13RankIsATotalOrder) {
  std::vector<RankKey> keys;
  for (index_t j = 0; j < 24; ++j) {
    const float importance = j % 3 == 0 ? ranked_importance(kNan) : static_cast<float>(j % 4);
    keys.push_back({j % 5 == 0, importance, j});
  }
  for (const RankKey& a : keys) {
    for (const RankKey& b : keys) {
      EXPECT_EQ(ranks_before(a, b) + ranks_before(b, a), a.kv_block == b.kv_block ? 0 : 1);
    }
  }
}

// ---- S-14 ---------------------------------------------------------------------------------------

/// Of `count` blocks, in calls whose query blocks all see as many.
index_t equal_rows_cut(index_t count, float share) {
  return quota_cut(count, {count, count}, /*q_block=*/3, share);
}

TEST(Levels, S14QuotaRoundsHalvesUp) {
  EXPECT_EQ(equal_rows_cut(10, 0.25F), 3) << "2.5";
  EXPECT_EQ(equal_rows_cut(10, 0.0F), 0);
  EXPECT_EQ(equal_rows_cut(10, 1.0F), 10);
  EXPECT_EQ(equal_rows_cut(6, 0.0625F), 0) << "0.375";
  EXPECT_EQ(equal_rows_cut(8, 0.0625F), 1) << "0.5";
  EXPECT_EQ(equal_rows_cut(1, 0.4999F), 0);
  EXPECT_EQ(equal_rows_cut(1, 0.5F), 1);
  EXPECT_EQ(equal_rows_cut(0, 1.0F), 0);
}

TEST(Levels, S14QuotaIsNotRoundedInFloat) {
  // 33554431 * 0.75 + 0.5 = 25165823.75; in float the product alone rounds to 25165824.
  EXPECT_EQ(equal_rows_cut(33554431, 0.75F), 25165823);
}

TEST(Levels, S14EqualRowsHaveTheRoundedShareOfTheirBlocks) {
  for (const index_t count : {1, 2, 3, 129, 591, 4097, 134217727}) {
    for (int step = 0; step <= 4096; ++step) {
      const float share = static_cast<float>(step) / 4096.0F;
      const double product = static_cast<double>(count) * static_cast<double>(share);
      ASSERT_EQ(equal_rows_cut(count, share), static_cast<index_t>(std::floor(product + 0.5)))
          << count << " * " << share;
    }
  }
}

TEST(Levels, S14GrowingRowsHaveOneCount) {
  // Query block 0 rounds halves up.
  // 1..9 blocks: 9 - sqrt(80 * .75) = 1.25, 9 - sqrt(80 * .5) = 2.68, 9 - sqrt(80 * .25) = 4.53.
  for (index_t count = 1; count <= 9; ++count) {
    EXPECT_EQ(quota_cut(count, {1, 9}, 0, 0.25F), 1);
    EXPECT_EQ(quota_cut(count, {1, 9}, 0, 0.5F), std::min<index_t>(count, 3));
    EXPECT_EQ(quota_cut(count, {1, 9}, 0, 0.75F), std::min<index_t>(count, 5));
    EXPECT_EQ(quota_cut(count, {1, 9}, 0, 1.0F), count);
    EXPECT_EQ(quota_cut(count, {1, 9}, 0, 0.0F), 0);
  }
}

TEST(Levels, S14RowsThatGrowLittleShareTheMean) {
  // 100..120 blocks: .5 is 55 of each, 10/11 is all that the first one has.
  EXPECT_EQ(quota_cut(100, {100, 120}, 0, 0.5F), 55);
  EXPECT_EQ(quota_cut(120, {100, 120}, 0, 0.5F), 55);
  EXPECT_EQ(quota_cut(100, {100, 120}, 0, 0.909F), 100);
  EXPECT_EQ(quota_cut(120, {100, 120}, 0, 0.909F), 100);
  EXPECT_EQ(quota_cut(120, {100, 120}, 0, 0.99F), 113) << "120 - sqrt(.01 * 4400)";
}

TEST(Levels, S14CountsGrowWithTheShare) {
  for (const CandidateSpan rows : {CandidateSpan{1, 9}, {1, 513}, {60, 64}, {0, 0}}) {
    index_t previous = 0;
    for (int step = 0; step <= 65536; ++step) {
      const index_t cut = quota_cut(rows.last, rows, 7, static_cast<float>(step) / 65536.0F);
      ASSERT_GE(cut, previous) << rows.first << ".." << rows.last << " at " << step;
      previous = cut;
    }
    EXPECT_EQ(previous, rows.last);
  }
}

TEST(Levels, S14RoundingMeetsTheCountOverAnyRunOfQueryBlocks) {
  const double count = 120.0 - std::sqrt(0.875 * (120.0 * 120.0 - 1.0));  // 7.75...
  for (const index_t first : {0, 5, 100}) {
    for (const index_t blocks : {8, 21, 100}) {
      index_t sum = 0;
      for (index_t i = first; i < first + blocks; ++i) {
        const index_t cut = quota_cut(120, {1, 120}, i, 0.125F);
        EXPECT_TRUE(cut == 7 || cut == 8) << cut;
        sum += cut;
      }
      EXPECT_NEAR(static_cast<double>(sum), count * static_cast<double>(blocks), 1.5);
    }
  }
}

TEST(Levels, S14CandidatesOfTheFirstAndTheLastQueryBlock) {
  const auto expect_span = [](CandidateSpan span, index_t first, index_t last) {
    EXPECT_EQ(span.first, first);
    EXPECT_EQ(span.last, last);
  };
  expect_span(candidate_span(false, 32, 16, 100, 150), 10, 10);
  expect_span(candidate_span(true, 16, 16, 100, 100), 1, 7);
  expect_span(candidate_span(true, 32, 16, 33, 150), 10, 10);
  expect_span(candidate_span(true, 32, 16, 100, 400), 21, 25);
  expect_span(candidate_span(true, 16, 16, 90, 41), 1, 3);
  expect_span(candidate_span(true, 16, 16, 90, 50), 1, 4);
  expect_span(candidate_span(true, 128, 16, 90, 41), 3, 3);
  expect_span(candidate_span(true, 16, 16, 40, 0), 0, 0);
}

// ---- S-15 ---------------------------------------------------------------------------------------

TEST(Levels, S15MassIsTheTruncatedShareOfTheLargest) {
  EXPECT_EQ(threshold_mass(4.0F, 4.0F), kFullMass);
  EXPECT_EQ(threshold_mass(1.0F, 4.0F), kFullMass / 4);
  EXPECT_EQ(threshold_mass(1.0F, 3.0F), 5592405U) << "2^24 / 3 = 5592405.33 and 1/3 in float";
  EXPECT_EQ(threshold_mass(0x1p-25F, 1.0F), 0U) << "half a unit";
  EXPECT_EQ(threshold_mass(0x1.8p-24F, 1.0F), 1U) << "one and a half units";
}

TEST(Levels, S15MassDoesNotDependOnTheUnit) {
  for (const float s : {0.0F, 0.1F, 0.37F, 0.9999F}) {
    EXPECT_EQ(threshold_mass(s * 0x1p-40F, 0x1p-40F), threshold_mass(s, 1.0F));
  }
}

TEST(Levels, S15MassOfWhatIsNoNumberIsClamped) {
  EXPECT_EQ(threshold_mass(kNan, 1.0F), 0U);
  EXPECT_EQ(threshold_mass(-1.0F, 1.0F), 0U);
  EXPECT_EQ(threshold_mass(kInf, kInf), kFullMass);
  EXPECT_EQ(threshold_mass(1.0F, kInf), 0U);
  EXPECT_EQ(threshold_mass(std::numeric_limits<float>::max(), kInf), kFullMass);
}

TEST(Levels, S15WithoutInformationEveryBlockWeighsOne) {
  EXPECT_EQ(threshold_mass(0.0F, 0.0F), 1U);
  EXPECT_EQ(threshold_mass(-3.0F, -1.0F), 1U);
  EXPECT_EQ(threshold_mass(ranked_importance(kNan), ranked_importance(kNan)), 1U);
}

/// Smallest count of blocks whose mass reaches the share.
index_t cut_of(const std::vector<std::uint64_t>& masses, float share) {
  std::uint64_t total = 0;
  for (const std::uint64_t mass : masses) total += mass;
  std::uint64_t mass = 0;
  index_t cut = 0;
  while (!threshold_reached(mass, total, share)) mass += masses[static_cast<std::size_t>(cut++)];
  return cut;
}

TEST(Levels, S15CrossingBlockBelongsToFinerLevel) {
  EXPECT_EQ(cut_of({4, 3, 2, 1}, 0.0F), 0) << "no budget, no block";
  EXPECT_EQ(cut_of({4, 3, 2, 1}, 0.01F), 1) << "the first block crosses and is in";
  EXPECT_EQ(cut_of({4, 3, 2, 1}, 0.4F), 2) << "0.4 in float is more than 4 of 10";
  EXPECT_EQ(cut_of({5, 3, 1, 1}, 0.5F), 1) << "exactly reached";
  EXPECT_EQ(cut_of({5, 3, 1, 1}, 0.51F), 2);
  EXPECT_EQ(cut_of({5, 3, 1, 1}, 1.0F), 4);
  EXPECT_EQ(cut_of({5, 3, 0, 0}, 1.0F), 2) << "blocks without mass are not needed";
}

TEST(Levels, S15ComparisonIsInDouble) {
  // 2^25 + 1 of 2^26 blocks: a float sum could not tell it from 2^25.
  EXPECT_FALSE(threshold_reached((1U << 25) - 1, 1U << 26, 0.5F));
  EXPECT_TRUE(threshold_reached(1U << 25, 1U << 26, 0.5F));
}

// ---- S-16, S-17 ---------------------------------------------------------------------------------

TEST(Levels, S16CoarsestPassingLevelWinsEvenIfFinerOnesFail) {
  const float thresholds[] = {0.7F, 0.6F, 0.5F, 0.4F};
  const float all_pass[] = {0.8F, 0.8F, 0.8F, 0.8F};
  const float none_pass[] = {0.7F, 0.6F, 0.5F, 0.4F};
  const float only_third[] = {0.1F, 0.7F, 0.1F, 0.1F};
  const float with_nan[] = {0.8F, kNan, kNan, kNan};
  EXPECT_EQ(similarity_cap(all_pass, thresholds, 5), 5);
  EXPECT_EQ(similarity_cap(all_pass, thresholds, 4), 4);
  EXPECT_EQ(similarity_cap(all_pass, thresholds, 1), 1);
  EXPECT_EQ(similarity_cap(none_pass, thresholds, 5), 1) << "equal is not above";
  EXPECT_EQ(similarity_cap(only_third, thresholds, 5), 3);
  EXPECT_EQ(similarity_cap(with_nan, thresholds, 5), 2);
}

TEST(Levels, S16CapOnlyRefinesLevels) {
  for (int cap = 1; cap <= 5; ++cap) {
    for (int code = 1; code <= 5; ++code) EXPECT_EQ(capped_level(code, cap), std::min(code, cap));
  }
}

TEST(Levels, S16SkipAndBlockMeanStay) {
  EXPECT_EQ(capped_level(kSkipCode, 1), kSkipCode);
  EXPECT_EQ(capped_level(kBlockMeanCode, 1), kBlockMeanCode);
}

// ---- S-18 ---------------------------------------------------------------------------------------

constexpr Range kQueries{32, 48};
constexpr Range kKeys{64, 80};
constexpr ForcedRule kNothing{{0, 0}, {0, 0}, 0};

bool forces(const ForcedRule& rule, index_t kv_block = 4,
            Visibility visibility = Visibility::kFull) {
  return is_forced(rule, kQueries, kKeys, kv_block, visibility);
}

TEST(Levels, S18NothingIsForcedWithoutAReason) { EXPECT_FALSE(forces(kNothing)); }

TEST(Levels, S18BlocksThatStraddleTheDiagonalAreForced) {
  EXPECT_TRUE(forces(kNothing, 4, Visibility::kStraddling));
}

TEST(Levels, S18SinkBlocksAreForced) {
  EXPECT_TRUE(forces({{0, 0}, {0, 0}, 5}));
  EXPECT_FALSE(forces({{0, 0}, {0, 0}, 4}));
  EXPECT_TRUE(forces({{0, 0}, {0, 0}, 1}, 0));
}

TEST(Levels, S18BlocksWithATextPositionAreForced) {
  EXPECT_TRUE(forces({{0, 0}, {79, 100}, 0}));
  EXPECT_FALSE(forces({{0, 0}, {80, 100}, 0}));
  EXPECT_TRUE(forces({{0, 0}, {0, 65}, 0}));
  EXPECT_FALSE(forces({{0, 0}, {0, 64}, 0}));
}

TEST(Levels, S18TextQueriesReadEverything) {
  EXPECT_TRUE(forces({{47, 100}, {0, 0}, 0}));
  EXPECT_FALSE(forces({{48, 100}, {0, 0}, 0}));
}

TEST(Levels, S22BlocksWithAPositionOfTheQueriesAreForced) {
  constexpr ForcedRule kOwn{{0, 0}, {0, 0}, 0, true};
  EXPECT_TRUE(is_forced(kOwn, {64, 65}, {64, 65}, 4, Visibility::kFull)) << "a single token";
  EXPECT_FALSE(is_forced(kOwn, {64, 65}, {32, 64}, 3, Visibility::kFull));
  EXPECT_FALSE(is_forced(kNothing, {64, 65}, {64, 65}, 4, Visibility::kFull));
}

TEST(Levels, S18FullCutCoversForcedBlocksAndTheMinimum) {
  EXPECT_EQ(full_cut(3, 1, 1, 10), 3);
  EXPECT_EQ(full_cut(3, 5, 1, 10), 5);
  EXPECT_EQ(full_cut(3, 1, 4, 10), 4);
  EXPECT_EQ(full_cut(0, 0, 1, 10), 1);
  EXPECT_EQ(full_cut(0, 0, 99, 10), 10) << "no more than there are";
  EXPECT_EQ(full_cut(0, 0, 1, 0), 0);
}

}  // namespace
}  // namespace psa::semantics
