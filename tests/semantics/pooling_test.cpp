// SPDX-License-Identifier: Apache-2.0
#include "semantics/pooling.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "psa/level_map.hpp"

namespace psa::semantics {
namespace {

TEST(Pooling, S3CodesAreThoseOfTheLevelMap) {
  EXPECT_EQ(kSkipCode, kSkip);
  EXPECT_EQ(kBlockMeanCode, kBlockMean);
  EXPECT_EQ(kBlockMeanCode + 1, kNumLevelCodes);
}

TEST(Pooling, S3EachLevelHasItsFactor) {
  const index_t factors[] = {0, 1, 2, 4, 8, 16};
  for (int code = 0; code <= 5; ++code) EXPECT_EQ(pool_factor(code, 128), factors[code]);
  for (const index_t block : {16, 32, 64, 128}) EXPECT_EQ(pool_factor(6, block), block);
}

TEST(Pooling, S3CodesOutsideTheTableDoNotExist) {
  EXPECT_FALSE(is_level_code(-1, 128));
  EXPECT_FALSE(is_level_code(7, 128));
  for (const index_t block : {16, 32, 64, 128}) {
    for (int code = 0; code <= 6; ++code) EXPECT_TRUE(is_level_code(code, block));
  }
  EXPECT_FALSE(is_level_code(5, 8)) << "16 positions do not fit a block of 8";
  EXPECT_TRUE(is_level_code(4, 8));
}

TEST(Pooling, S4RowsOfABlockStandForItsRealPositionsOnce) {
  for (const index_t block_kv : {16, 32, 64, 128}) {
    for (const index_t len : {index_t{1}, index_t{15}, block_kv - 1, block_kv, block_kv + 1,
                              block_kv + 9, 3 * block_kv - 7}) {
      for (int code = 1; code <= 6; ++code) {
        const index_t factor = pool_factor(code, block_kv);
        for (index_t j = 0; j < ceil_div(len, block_kv); ++j) {
          const Range block = block_range(j, block_kv, len);
          const Range rows = pooled_range(j, block_kv, code, len);
          index_t next = block.begin;
          for (index_t g = rows.begin; g < rows.end; ++g) {
            const Range tokens = pooled_tokens(g, factor, len);
            EXPECT_EQ(tokens.begin, g * factor);
            EXPECT_EQ(tokens.begin, next);
            EXPECT_GT(tokens.size(), 0) << "a row without a real position does not exist";
            EXPECT_EQ(pooled_weight(g, factor, len), tokens.size());
            next = tokens.end;
          }
          EXPECT_EQ(next, block.end) << "block " << j << " level " << code << " of " << len;
          EXPECT_LE(rows.end, pooled_rows(len, factor));
        }
      }
    }
  }
}

TEST(Pooling, S4SkippedAndMissingBlocksHaveNoRows) {
  EXPECT_EQ(pooled_range(0, 16, kSkipCode, 100).size(), 0);
  EXPECT_EQ(pooled_range(2, 16, 1, 32).size(), 0);
  EXPECT_EQ(pooled_range(2, 16, kBlockMeanCode, 20).size(), 0);
}

TEST(Pooling, S4RaggedTailByHand) {
  // 21 positions in blocks of 16 at factor 4: rows 4 (16..19) and 5 (20 alone).
  EXPECT_EQ(pooled_rows(21, 4), 6);
  EXPECT_EQ(pooled_range(1, 16, 3, 21).begin, 4);
  EXPECT_EQ(pooled_range(1, 16, 3, 21).end, 6);
  EXPECT_EQ(pooled_weight(4, 4, 21), 4);
  EXPECT_EQ(pooled_weight(5, 4, 21), 1);
  EXPECT_EQ(pooled_weight(1, 16, 21), 5) << "block mean";
}

TEST(Pooling, S5BiasMultipliesTheExponentialByTheWeight) {
  EXPECT_EQ(pooled_bias(1), 0.0);
  for (index_t weight = 1; weight <= 128; ++weight) {
    const double s = -0.75;
    EXPECT_NEAR(std::exp(s + pooled_bias(weight)), static_cast<double>(weight) * std::exp(s),
                1e-13 * static_cast<double>(weight));
  }
}

TEST(Pooling, S22PaddedBlocksHaveAllTheirRows) {
  EXPECT_EQ(official_pooled_weight(8), 8);
  // 130 positions in blocks of 128: the second block has 2 real positions.
  EXPECT_EQ(official_pooled_range(1, 128, 1, 130).begin, 128);
  EXPECT_EQ(official_pooled_range(1, 128, 1, 130).end, 130) << "level 1 is not padded";
  EXPECT_EQ(official_pooled_range(1, 128, 2, 130).begin, 64);
  EXPECT_EQ(official_pooled_range(1, 128, 2, 130).end, 128);
  EXPECT_EQ(official_pooled_range(1, 128, 4, 130).begin, 16);
  EXPECT_EQ(official_pooled_range(1, 128, 4, 130).end, 32);
  EXPECT_EQ(official_pooled_range(0, 128, 4, 130).end, 16);
  EXPECT_EQ(official_pooled_range(2, 128, 4, 130).size(), 0);
}

}  // namespace
}  // namespace psa::semantics
