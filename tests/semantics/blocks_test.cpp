// SPDX-License-Identifier: Apache-2.0
#include "semantics/blocks.hpp"

#include <gtest/gtest.h>

namespace psa::semantics {
namespace {

TEST(Blocks, S2OnlyFourSizesAreBlockSizes) {
  for (index_t size = -128; size <= 300; ++size) {
    const bool allowed = size == 16 || size == 32 || size == 64 || size == 128;
    EXPECT_EQ(is_block_size(size), allowed) << size;
  }
}

TEST(Blocks, S2EveryPositionLiesInExactlyItsBlock) {
  for (const index_t size : {16, 32, 64, 128}) {
    for (index_t len = 0; len <= 3 * size + 1; ++len) {
      index_t covered = 0;
      for (index_t block = 0; block < 5; ++block) {
        const Range range = block_range(block, size, len);
        EXPECT_EQ(range.begin, covered) << "blocks follow each other, block " << block;
        EXPECT_LE(range.size(), size);
        for (index_t p = range.begin; p < range.end; ++p) EXPECT_EQ(p / size, block);
        covered = range.end;
      }
      EXPECT_EQ(covered, len) << "no length is rounded";
    }
  }
}

TEST(Blocks, S2CountOfBlocksIsRoundedUp) {
  EXPECT_EQ(ceil_div(0, 16), 0);
  EXPECT_EQ(ceil_div(1, 16), 1);
  EXPECT_EQ(ceil_div(16, 16), 1);
  EXPECT_EQ(ceil_div(17, 16), 2);
}

TEST(Blocks, S8LastQueryStandsAtTheLastKey) {
  EXPECT_EQ(causal_position(9, 10, 10), 9);
  EXPECT_EQ(causal_position(9, 10, 25), 24);
  EXPECT_EQ(causal_position(9, 10, 4), 3);
  EXPECT_EQ(causal_position(0, 10, 4), -6) << "rows before the first key are empty";
}

TEST(Blocks, S8ARowIsVisibleUpToItsOwnPosition) {
  EXPECT_TRUE(is_visible(true, 5, 5));
  EXPECT_TRUE(is_visible(true, 4, 5));
  EXPECT_FALSE(is_visible(true, 6, 5));
  EXPECT_FALSE(is_visible(true, 0, -1));
  EXPECT_TRUE(is_visible(false, 6, 5));
}

/// By looking at every pair of a query and a key.
Visibility brute_visibility(Range queries, Range keys, index_t len_q, index_t len_kv) {
  bool any = false;
  bool all = true;
  for (index_t r = queries.begin; r < queries.end; ++r) {
    for (index_t key = keys.begin; key < keys.end; ++key) {
      const bool visible = key <= r + len_kv - len_q;
      any = any || visible;
      all = all && visible;
    }
  }
  if (!any) return Visibility::kHidden;
  return all ? Visibility::kFull : Visibility::kStraddling;
}

TEST(Blocks, S8VisibilityIsThatOfAllPairs) {
  for (index_t len_q = 1; len_q <= 36; ++len_q) {
    for (index_t len_kv = 1; len_kv <= 66; ++len_kv) {
      for (index_t i = 0; i < ceil_div(len_q, 16); ++i) {
        for (index_t j = 0; j < ceil_div(len_kv, 32); ++j) {
          const Range queries = block_range(i, 16, len_q);
          const Range keys = block_range(j, 32, len_kv);
          ASSERT_EQ(block_visibility(true, queries, keys, len_q, len_kv),
                    brute_visibility(queries, keys, len_q, len_kv))
              << "queries " << i << " keys " << j << " of " << len_q << " x " << len_kv;
          ASSERT_EQ(block_visibility(false, queries, keys, len_q, len_kv), Visibility::kFull);
        }
      }
    }
  }
}

TEST(Blocks, S8ABlockWithoutRealKeysIsHidden) {
  EXPECT_EQ(block_visibility(false, {0, 16}, {20, 20}, 16, 20), Visibility::kHidden);
  EXPECT_EQ(block_visibility(true, {0, 16}, {20, 20}, 16, 20), Visibility::kHidden);
  EXPECT_EQ(block_visibility(false, {16, 16}, {0, 16}, 16, 16), Visibility::kHidden);
}

TEST(Blocks, S8VisibleBlocksAreTheOnesThatAreNotHidden) {
  for (const bool causal : {false, true}) {
    for (index_t len_q = 1; len_q <= 36; ++len_q) {
      for (index_t len_kv = 0; len_kv <= 66; ++len_kv) {
        for (index_t i = 0; i <= ceil_div(len_q, 16); ++i) {
          const Range queries = block_range(i, 16, len_q);
          index_t expected = 0;
          for (index_t j = 0; j < 5; ++j) {
            const Range keys = block_range(j, 16, len_kv);
            const auto seen = block_visibility(causal, queries, keys, len_q, len_kv);
            expected += seen == Visibility::kHidden ? 0 : 1;
          }
          ASSERT_EQ(visible_blocks(causal, queries, 16, len_q, len_kv), expected)
              << "queries " << i << " of " << len_q << " x " << len_kv << " causal " << causal;
        }
      }
    }
  }
}

TEST(Blocks, S18TextLiesAtItsEnd) {
  EXPECT_EQ(text_positions(10, true, 100).begin, 0);
  EXPECT_EQ(text_positions(10, true, 100).end, 10);
  EXPECT_EQ(text_positions(10, false, 100).begin, 90);
  EXPECT_EQ(text_positions(10, false, 100).end, 100);
  EXPECT_EQ(text_positions(0, false, 100).size(), 0);
}

TEST(Blocks, S18RangesOverlapInACommonPosition) {
  EXPECT_TRUE(overlaps({0, 16}, {15, 16}));
  EXPECT_FALSE(overlaps({0, 16}, {16, 20}));
  EXPECT_TRUE(overlaps({16, 32}, {0, 17}));
  EXPECT_FALSE(overlaps({16, 32}, {0, 16}));
  EXPECT_FALSE(overlaps({0, 16}, {0, 0})) << "no text";
  EXPECT_FALSE(overlaps({0, 16}, {16, 16}));
  EXPECT_FALSE(overlaps({0, 16}, {8, 8})) << "an empty range inside";
}

}  // namespace
}  // namespace psa::semantics
