// SPDX-License-Identifier: Apache-2.0
#include "semantics/reorder.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

namespace psa::semantics {
namespace {

using Order = std::vector<index_t>;

Order gilbert(const Grid& grid) {
  Order order;
  walk_gilbert(grid, [&](index_t token) { order.push_back(token); });
  return order;
}

Order tiles(const Grid& grid, const std::array<std::int32_t, 3>& tile) {
  Order order;
  walk_tiles(grid, tile, [&](index_t token) { order.push_back(token); });
  return order;
}

std::string name_of(const Grid& g) {
  return std::to_string(g.width) + "x" + std::to_string(g.height) + "x" + std::to_string(g.frames);
}

/// Fails if a token is missing, repeated or outside the grid.
void expect_bijection(const Grid& grid, const Order& order) {
  const index_t tokens = grid.frames * grid.height * grid.width;
  ASSERT_EQ(static_cast<index_t>(order.size()), tokens) << name_of(grid);
  std::vector<bool> seen(order.size(), false);
  for (const index_t token : order) {
    ASSERT_TRUE(token >= 0 && token < tokens) << name_of(grid) << " token " << token;
    ASSERT_FALSE(seen[static_cast<std::size_t>(token)]) << name_of(grid) << " token " << token;
    seen[static_cast<std::size_t>(token)] = true;
  }
}

/// Steps of the curve that do not go to a face neighbour.
index_t jumps(const Grid& grid, const Order& order) {
  index_t count = 0;
  for (std::size_t i = 1; i < order.size(); ++i) {
    const auto delta = [&](index_t unit, index_t extent) {
      return std::abs(order[i] / unit % extent - order[i - 1] / unit % extent);
    };
    const index_t distance = delta(1, grid.width) + delta(grid.width, grid.height) +
                             delta(grid.width * grid.height, grid.frames);
    count += distance != 1 ? 1 : 0;
  }
  return count;
}

// Width x height x frames of the published runs, as {frames, height, width}.
constexpr Grid kPublishedGrids[] = {{18, 45, 80}, {13, 30, 45}, {31, 22, 40},
                                    {11, 48, 85}, {21, 30, 52}, {18, 48, 80}};

TEST(Gilbert, S19VisitsEveryTokenOfThePublishedGridsOnce) {
  for (const Grid& grid : kPublishedGrids) expect_bijection(grid, gilbert(grid));
}

TEST(Gilbert, S19VisitsEveryTokenOfEverySmallGridOnce) {
  for (index_t frames = 1; frames <= 9; ++frames) {
    for (index_t height = 1; height <= 9; ++height) {
      for (index_t width = 1; width <= 9; ++width) {
        const Grid grid{frames, height, width};
        expect_bijection(grid, gilbert(grid));
      }
    }
  }
}

TEST(Gilbert, S19VisitsEveryTokenOfLongThinGridsOnce) {
  for (const Grid& grid :
       {Grid{1, 1, 97}, Grid{1, 97, 1}, Grid{97, 1, 1}, Grid{1, 2, 101}, Grid{2, 61, 3},
        Grid{83, 2, 2}, Grid{1, 37, 41}, Grid{5, 1, 64}, Grid{33, 17, 1}}) {
    expect_bijection(grid, gilbert(grid));
  }
}

TEST(Gilbert, S19LinesAreWalkedFromTheirStart) {
  Order line(7);
  std::iota(line.begin(), line.end(), 0);
  EXPECT_EQ(gilbert({1, 1, 7}), line);
  EXPECT_EQ(gilbert({1, 7, 1}), line);
  EXPECT_EQ(gilbert({7, 1, 1}), line);
  EXPECT_EQ(gilbert({1, 1, 1}), Order{0});
}

// Expanded by hand from the rules of the construction.
TEST(Gilbert, S19SmallGridsByHand) {
  EXPECT_EQ(gilbert({1, 2, 2}), (Order{0, 2, 3, 1}));
  EXPECT_EQ(gilbert({1, 2, 3}), (Order{0, 1, 3, 4, 5, 2}));
  EXPECT_EQ(gilbert({2, 2, 2}), (Order{0, 2, 6, 4, 5, 7, 3, 1}));
}

TEST(Gilbert, S19MainDirectionIsTheLongestAxisTiesToWidthThenHeight) {
  // The curve of a flat or tall box ends at the far end of its main direction.
  const auto last_of = [](const Grid& grid) { return gilbert(grid).back(); };
  EXPECT_EQ(last_of({2, 2, 8}), 7) << "width";
  EXPECT_EQ(last_of({2, 8, 2}), 7 * 2) << "height";
  EXPECT_EQ(last_of({8, 2, 2}), 7 * 4) << "frames";
  EXPECT_EQ(last_of({2, 4, 4}), 3) << "width before height";
  EXPECT_EQ(last_of({4, 2, 4}), 3) << "width before frames";
  EXPECT_EQ(last_of({4, 4, 2}), 3 * 2) << "height before frames";
}

TEST(Gilbert, S19PowersOfTwoHaveNoJumps) {
  EXPECT_EQ(jumps({8, 8, 8}, gilbert({8, 8, 8})), 0);
  EXPECT_EQ(jumps({1, 16, 16}, gilbert({1, 16, 16})), 0);
}

TEST(Gilbert, S19JumpsOfAPublishedGridAreThoseOfThePublishedCurve) {
  EXPECT_EQ(jumps({18, 45, 80}, gilbert({18, 45, 80})), 96);
}

TEST(Tiles, S19VisitEveryTokenOnceWhetherOrNotTheyDivideTheGrid) {
  for (const Grid& grid : kPublishedGrids) {
    expect_bijection(grid, tiles(grid, {2, 8, 8}));
    expect_bijection(grid, tiles(grid, {6, 8, 8}));
  }
  for (index_t size = 1; size <= 7; ++size) {
    const auto t = static_cast<std::int32_t>(size);
    expect_bijection({5, 6, 7}, tiles({5, 6, 7}, {t, 3, t}));
    expect_bijection({5, 6, 7}, tiles({5, 6, 7}, {1, t, 100}));
  }
}

TEST(Tiles, S19AreCutOffAtTheFarFaces) {
  EXPECT_EQ(tiles({1, 3, 3}, {1, 2, 2}), (Order{0, 1, 3, 4, 2, 5, 6, 7, 8}));
}

TEST(Tiles, S19AreRowMajorOverFramesHeightWidth) {
  EXPECT_EQ(tiles({2, 2, 4}, {2, 1, 2}),
            (Order{0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15}));
}

TEST(Tiles, S19OfOneTokenOrOfTheWholeGridChangeNothing) {
  Order identity(24);
  std::iota(identity.begin(), identity.end(), 0);
  EXPECT_EQ(tiles({2, 3, 4}, {1, 1, 1}), identity);
  EXPECT_EQ(tiles({2, 3, 4}, {2, 3, 4}), identity);
}

TEST(Clusters, S20StartFromOneTokenOfEachEqualStretch) {
  for (const index_t tokens : {1, 5, 17, 1000}) {
    for (const index_t clusters : {1, 2, 5, 16, 256}) {
      if (clusters > tokens) continue;
      for (index_t c = 0; c < clusters; ++c) {
        for (const std::uint64_t hash : {0ULL, 1ULL, 12345678901234567ULL, ~0ULL}) {
          const index_t token = initial_centroid(c, clusters, tokens, hash);
          EXPECT_GE(token, c * tokens / clusters);
          EXPECT_LT(token, (c + 1) * tokens / clusters);
        }
      }
    }
  }
}

TEST(Clusters, S20StartByHand) {
  // 10 tokens in 3 stretches: 0..2, 3..5, 6..9.
  EXPECT_EQ(initial_centroid(0, 3, 10, 4), 1);
  EXPECT_EQ(initial_centroid(1, 3, 10, 5), 5);
  EXPECT_EQ(initial_centroid(2, 3, 10, 7), 9);
}

}  // namespace
}  // namespace psa::semantics
