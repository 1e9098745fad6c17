// SPDX-License-Identifier: Apache-2.0

// The similarity stage of the reference backend (S-16).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "reference/backend.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

using Caps = std::vector<std::uint8_t>;

/// Keys of two channels, one of (1, 0), (0, 1), (-1, 0) or (0, 0) per token.
enum class Key { kX, kY, kMinusX, kZero };

Caps caps_of(const std::vector<Key>& keys, const std::array<float, 4>& min_cosine,
             int num_levels = 5, const std::vector<std::int32_t>& kv_lengths = {}) {
  Problem problem;
  problem.shape.len_kv = static_cast<index_t>(keys.size());
  problem.shape.head_dim = 2;
  problem.config.num_levels = num_levels;
  problem.config.similarity_cap = min_cosine;
  QkvTensors in = random_qkv(problem, 1);
  in.kv_lengths = kv_lengths;
  for (std::size_t l = 0; l < keys.size(); ++l) {
    const auto token = static_cast<index_t>(l);
    const float x = keys[l] == Key::kX ? 1.0F : keys[l] == Key::kMinusX ? -1.0F : 0.0F;
    in.k.set(0, 0, token, 0, x);
    in.k.set(0, 0, token, 1, keys[l] == Key::kY ? 1.0F : 0.0F);
  }
  return StageRunner(reference::backend(), problem.geometry()).similarity(in.inputs());
}

std::vector<Key> repeated(const std::vector<Key>& pattern, std::size_t count) {
  std::vector<Key> keys;
  for (std::size_t l = 0; l < count; ++l) keys.push_back(pattern[l % pattern.size()]);
  return keys;
}

constexpr std::array<float, 4> kHalf{0.5F, 0.5F, 0.5F, 0.5F};

TEST(ReferenceSimilarity, S16EqualKeysMayBePooledAtTheCoarsestLevel) {
  EXPECT_EQ(caps_of(repeated({Key::kX}, 32), kHalf), (Caps{5, 5}));
  EXPECT_EQ(caps_of(repeated({Key::kX}, 32), kHalf, 3), (Caps{3, 3}));
  EXPECT_EQ(caps_of(repeated({Key::kX}, 32), kHalf, 1), (Caps{1, 1}));
}

TEST(ReferenceSimilarity, S16OnlyTheEndsOfAGroupAreCompared) {
  // Pairs differ, the ends of fours are equal, the ends of eights and sixteens are too.
  EXPECT_EQ(caps_of(repeated({Key::kX, Key::kY, Key::kY, Key::kX}, 16), kHalf, 3), Caps{3});
  // Pairs are equal, the ends of fours differ.
  EXPECT_EQ(caps_of(repeated({Key::kX, Key::kX, Key::kY, Key::kY}, 16), kHalf, 3), Caps{2});
}

TEST(ReferenceSimilarity, S16IsTheMeanOfTheGroups) {
  // 8 pairs: 6 equal, 2 opposite: mean cosine (6 - 2) / 8 = 0.5 (less 1e-6 of a norm of 1).
  std::vector<Key> keys(16, Key::kX);
  keys[1] = keys[3] = Key::kMinusX;
  EXPECT_EQ(caps_of(keys, {0.4999F, 1, 1, 1}, 2), Caps{2});
  EXPECT_EQ(caps_of(keys, {0.5F, 1, 1, 1}, 2), Caps{1});
}

TEST(ReferenceSimilarity, S16AGroupEndsAtItsLastRealKey) {
  // The second block has 3 keys: the group of four is (x, y, x), its ends are equal.
  std::vector<Key> keys = repeated({Key::kX}, 19);
  keys[17] = Key::kY;
  EXPECT_EQ(caps_of(keys, {0.6F, 0.9F, 1, 1}, 3), (Caps{3, 3}));
  // Pairs (x, y) and (x alone): mean cosine 0.5.
  EXPECT_EQ(caps_of(keys, {0.6F, 1, 1, 1}, 2), (Caps{2, 1}));
  EXPECT_EQ(caps_of(keys, {0.4F, 1, 1, 1}, 2), (Caps{2, 2}));
}

TEST(ReferenceSimilarity, S16KeysThatDoNotExistAreNotCompared) {
  std::vector<Key> keys(48, Key::kX);
  for (std::size_t l = 17; l < 48; ++l) keys[l] = l % 2 == 0 ? Key::kX : Key::kMinusX;
  EXPECT_EQ(caps_of(keys, kHalf, 5, {17}), (Caps{5, 5, 1})) << "one key, then none";
}

TEST(ReferenceSimilarity, S16ZeroKeysHaveCosineZero) {
  EXPECT_EQ(caps_of(repeated({Key::kZero}, 16), {0, 0, 0, 0}), Caps{1});
  EXPECT_EQ(caps_of(repeated({Key::kZero}, 16), {-0.1F, -0.1F, -0.1F, -0.1F}), Caps{5});
}

class ReferenceSimilarityCases : public ::testing::TestWithParam<ProblemCase> {};

double cosine(const Tensor& k, index_t b, index_t h, index_t first, index_t second) {
  double ab = 0.0;
  double aa = 0.0;
  double bb = 0.0;
  for (index_t c = 0; c < k.shape()[3]; ++c) {
    const auto x = static_cast<double>(k.get(b, h, first, c));
    const auto y = static_cast<double>(k.get(b, h, second, c));
    ab += x * y;
    aa += x * x;
    bb += y * y;
  }
  return ab / (std::sqrt(aa) * std::sqrt(bb) + 1e-6);
}

TEST_P(ReferenceSimilarityCases, S16CapIsTheCoarsestSimilarLevel) {
  Problem problem = GetParam().problem;
  problem.config.num_levels = 5;
  problem.config.similarity_cap = {{0.05F, 0.02F, 0.0F, -0.1F}};
  const core::Geometry g = problem.geometry();
  QkvTensors in = GetParam().make_inputs(5);
  const Caps caps = StageRunner(reference::backend(), g).similarity(in.inputs());
  std::size_t i = 0;
  for (index_t b = 0; b < g.shape.batch; ++b) {
    const index_t n = in.inputs().kv_length(b);
    for (index_t h = 0; h < g.shape.heads_kv; ++h) {
      const std::int32_t* order = in.inputs().kv_order.of(b, h);
      for (index_t j = 0; j < g.num_kv_blocks; ++j, ++i) {
        const index_t begin = j * g.config.block_kv;
        const index_t end = std::min<index_t>(begin + g.config.block_kv, n);
        int expected = 1;
        for (int level = 2; begin < end && level <= 5; ++level) {
          const index_t f = index_t{1} << (level - 1);
          double sum = 0.0;
          double groups = 0.0;
          for (index_t p = begin; p < end; p += f, groups += 1.0) {
            const index_t last = std::min(p + f, end) - 1;
            sum += order == nullptr ? cosine(in.k, b, h, p, last)
                                    : cosine(in.k, b, h, order[p], order[last]);
          }
          const float threshold =
              (*problem.config.similarity_cap)[static_cast<std::size_t>(level - 2)];
          if (sum / groups > static_cast<double>(threshold)) expected = level;
        }
        EXPECT_EQ(caps[i], expected) << "b " << b << " h " << h << " j " << j;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, ReferenceSimilarityCases, ::testing::ValuesIn(problem_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace psa::testing
