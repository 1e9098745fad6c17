// SPDX-License-Identifier: Apache-2.0
#include "semantics/importance.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

namespace psa::semantics {
namespace {

TEST(Sampling, S9MixerIsSplitmix64) {
  EXPECT_EQ(mix_bits(0), 0xE220A8397B1DCDAFULL) << "first output of the published generator";
}

// Values of a separate evaluation in another language; they must never change, or the same seed
// would give another level map.
TEST(Sampling, S9HashIsAPinnedFunctionOfItsArguments) {
  EXPECT_EQ(sample_hash(0, Side::kQuery, 0, 0, 0), 0x232B8888D300B3A4ULL);
  EXPECT_EQ(sample_hash(0, Side::kKey, 0, 0, 0), 0x5E5F4446F596FB5CULL);
  EXPECT_EQ(sample_hash(42, Side::kQuery, 1, 3, 17), 0x7DCBE63A476909F9ULL);
  EXPECT_EQ(sample_hash(42, Side::kKey, 1, 3, 17), 0x8944D137F1D249A4ULL);
  EXPECT_EQ(sample_hash(~0ULL, Side::kKey, 7, 39, 127), 0xBC16A0D3D6CE3F3FULL);
}

TEST(Sampling, S9EveryArgumentMatters) {
  std::set<std::uint64_t> hashes;
  for (const std::uint64_t seed : {0ULL, 1ULL}) {
    for (const Side side : {Side::kQuery, Side::kKey}) {
      for (index_t batch = 0; batch < 2; ++batch) {
        for (index_t head = 0; head < 2; ++head) {
          for (index_t item = 0; item < 2; ++item) {
            hashes.insert(sample_hash(seed, side, batch, head, item));
          }
        }
      }
    }
  }
  EXPECT_EQ(hashes.size(), 32U);
}

std::vector<index_t> offsets_of(std::uint64_t seed, Side side, index_t head, index_t block_size,
                                index_t samples) {
  std::vector<index_t> offsets;
  for (index_t o = 0; o < block_size; ++o) {
    if (is_sampled(seed, side, 0, head, o, block_size, samples)) offsets.push_back(o);
  }
  return offsets;
}

TEST(Sampling, S9SamplesByHand) {
  EXPECT_EQ(offsets_of(7, Side::kQuery, 2, 16, 4), (std::vector<index_t>{3, 5, 10, 14}));
  EXPECT_EQ(offsets_of(7, Side::kKey, 2, 16, 4), (std::vector<index_t>{0, 3, 12, 13}));
}

TEST(Sampling, S9SamplesAreThoseOfSmallestHash) {
  for (const index_t block_size : {16, 32, 128}) {
    for (index_t samples = 0; samples <= block_size; samples += 5) {
      std::vector<std::pair<std::uint64_t, index_t>> hashed;
      for (index_t o = 0; o < block_size; ++o) {
        hashed.emplace_back(sample_hash(3, Side::kKey, 0, 1, o), o);
      }
      std::sort(hashed.begin(), hashed.end());
      std::vector<index_t> expected;
      for (index_t s = 0; s < samples; ++s) {
        expected.push_back(hashed[static_cast<std::size_t>(s)].second);
      }
      std::sort(expected.begin(), expected.end());
      EXPECT_EQ(offsets_of(3, Side::kKey, 1, block_size, samples), expected);
    }
  }
}

TEST(Sampling, S9OffsetsWrapInAShortBlock) {
  EXPECT_EQ(sample_position({32, 48}, 15), 47);
  EXPECT_EQ(sample_position({32, 37}, 4), 36);
  EXPECT_EQ(sample_position({32, 37}, 5), 32);
  EXPECT_EQ(sample_position({32, 37}, 15), 32);
  EXPECT_EQ(sample_position({32, 33}, 15), 32);
}

TEST(Antidiagonal, S11PairsTheTokensOfTwoGroupsCrosswise) {
  for (const index_t stride : {4, 8, 16}) {
    for (index_t u = 0; u < stride; ++u) {
      EXPECT_EQ(antidiagonal_query_offset(u, stride) + u, stride - 1);
    }
  }
}

TEST(Antidiagonal, S11AGroupIsVisibleUpToTheLastQuery) {
  EXPECT_TRUE(is_group_visible(true, 8, 8));
  EXPECT_FALSE(is_group_visible(true, 9, 8));
  EXPECT_TRUE(is_group_visible(false, 9, 8));
}

TEST(Antidiagonal, S11VisibleGroupsAreThoseThatAreVisibleOneByOne) {
  for (const bool causal : {false, true}) {
    for (const index_t stride : {4, 8, 16}) {
      for (const index_t groups : {0, 1, 5}) {
        for (index_t position = -20; position < 100; ++position) {
          index_t visible = 0;
          for (index_t group = 0; group < groups; ++group) {
            visible += is_group_visible(causal, group * stride, position) ? 1 : 0;
          }
          EXPECT_EQ(visible_groups(causal, groups, stride, position), visible);
        }
      }
    }
  }
}

TEST(PooledLse, S12VisibleSubBlocksAreThoseThatAreVisibleOneByOne) {
  for (const bool causal : {false, true}) {
    for (const index_t tokens : {8, 16}) {
      for (const index_t keys : {0, 1, 16, 39}) {
        for (index_t position = -20; position < 60; ++position) {
          index_t visible = 0;
          for (index_t first = 0; first < keys; first += tokens) {
            const index_t last = std::min(first + tokens, keys) - 1;
            visible += is_group_visible(causal, last, position) ? 1 : 0;
          }
          EXPECT_EQ(visible_sub_blocks(causal, keys, tokens, position), visible);
        }
      }
    }
  }
}

}  // namespace
}  // namespace psa::semantics
