// SPDX-License-Identifier: Apache-2.0
#include "semantics/official.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace psa::semantics {
namespace {

TEST(Official, S22OnlyRunsOfFactorEightAreAligned) {
  for (const index_t factor : {1, 2, 4}) EXPECT_EQ(official_alignment(factor), 1);
  EXPECT_EQ(official_alignment(8), 2);
}

TEST(Official, S22RunsOfFactorEightByHand) {
  EXPECT_EQ(official_aligned_end(3, 4, 8, 20), 5) << "one block becomes two";
  EXPECT_EQ(official_aligned_end(3, 5, 8, 20), 5) << "two stay two";
  EXPECT_EQ(official_aligned_end(3, 3, 8, 20), 3) << "none stays none";
  EXPECT_EQ(official_aligned_end(3, 1, 8, 20), 3) << "a cut behind the start is no run";
  EXPECT_EQ(official_aligned_end(17, 20, 8, 20), 19) << "rounded down at the end of the row";
  EXPECT_EQ(official_aligned_end(19, 20, 8, 20), 19) << "a single last block is left over";
  EXPECT_EQ(official_aligned_end(16, 19, 8, 20), 20);
  EXPECT_EQ(official_aligned_end(3, 4, 4, 20), 4) << "other factors are not aligned";
  EXPECT_EQ(official_aligned_end(3, 1, 2, 20), 3);
}

/// The published loop, written out with its `if`s.
index_t published_end(index_t last, index_t cut, index_t a, index_t n) {
  const index_t length = cut - last;
  if (a > 1 && length > 0) {
    index_t end =
        last +
        static_cast<index_t>(std::ceil(static_cast<double>(length) / static_cast<double>(a))) * a;
    end = std::min(end, n);
    if (end == n) end = last + (n - last) / a * a;
    return end;
  }
  return std::max(cut, last);
}

TEST(Official, S22AlignmentIsThatOfThePublishedLoop) {
  for (index_t n = 1; n <= 12; ++n) {
    for (index_t last = 0; last <= n; ++last) {
      for (index_t cut = 0; cut <= n; ++cut) {
        EXPECT_EQ(official_aligned_end(last, cut, 8, n), published_end(last, cut, 2, n));
        EXPECT_EQ(official_aligned_end(last, cut, 4, n), published_end(last, cut, 1, n));
      }
    }
  }
}

TEST(Official, S22QuotaIsTruncated) {
  EXPECT_EQ(official_quota_cut(139, 0.1), 13);
  EXPECT_EQ(official_quota_cut(139, 0.35), 48);
  EXPECT_EQ(official_quota_cut(20, 0.35), 7) << "an exact product";
  EXPECT_EQ(official_quota_cut(20, 0.35F), 7) << "0.35F is a little below .35";
  EXPECT_EQ(official_quota_cut(7, 0.99), 6);
  EXPECT_EQ(official_quota_cut(7, 1.0), 7);
}

TEST(Official, S22ThresholdTakesTheCrossingBlockUnlessItIsTheFirst) {
  EXPECT_TRUE(official_is_within(0.5, 0.5));
  EXPECT_TRUE(official_is_within(0.5 + 0.9e-6, 0.5));
  EXPECT_FALSE(official_is_within(0.5 + 1.1e-6, 0.5));
  EXPECT_EQ(official_threshold_cut(3, 0, 10), 4);
  EXPECT_EQ(official_threshold_cut(0, 0, 10), 0);
  EXPECT_EQ(official_threshold_cut(0, 2, 10), 2);
  EXPECT_EQ(official_threshold_cut(10, 0, 10), 10);
}

TEST(Official, S22ThresholdReadsSixPerCentInFull) {
  EXPECT_EQ(official_min_full(1), 1);
  EXPECT_EQ(official_min_full(16), 1);
  EXPECT_EQ(official_min_full(17), 2);
  EXPECT_EQ(official_min_full(100), 7);
  EXPECT_EQ(official_min_full(0), 0);
}

TEST(Official, S22TextIsInTheLastBlocks) {
  EXPECT_EQ(official_text_positions(1, 128, 512).begin, 384);
  EXPECT_EQ(official_text_positions(128, 128, 512).begin, 384);
  EXPECT_EQ(official_text_positions(129, 128, 512).begin, 256);
  EXPECT_EQ(official_text_positions(129, 128, 500).begin, 256) << "a short last block is a block";
  EXPECT_EQ(official_text_positions(129, 128, 500).end, 500);
  EXPECT_EQ(official_text_positions(300, 128, 200).begin, 0) << "no more blocks than there are";
  EXPECT_EQ(official_text_positions(0, 128, 500).size(), 0);
}

TEST(Official, S22CausalQuotaIsASinglePrecisionFloor) {
  EXPECT_EQ(official_causal_quota_cut(10, 0.1F), 1) << "0.1F is above 0.1 and the product is 1";
  EXPECT_EQ(official_causal_quota_cut(9, 0.1F), 0);
  EXPECT_EQ(official_causal_quota_cut(10, 0.7F), 7)
      << "0.7F is below 0.7; the product is below 7 in double and 7 in float";
}

TEST(Official, S22CausalBandsAreOpenBelowAndClosedAbove) {
  EXPECT_FALSE(official_is_in_band(0.4, 0.4, 0.6));
  EXPECT_TRUE(official_is_in_band(0.5, 0.4, 0.6));
  EXPECT_TRUE(official_is_in_band(0.6, 0.4, 0.6));
  EXPECT_FALSE(official_is_in_band(0.61, 0.4, 0.6));
  EXPECT_FALSE(official_is_in_band(0.6, 0.6, 0.6)) << "an empty band";
}

}  // namespace
}  // namespace psa::semantics
