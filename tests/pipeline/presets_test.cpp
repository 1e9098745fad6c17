// SPDX-License-Identifier: Apache-2.0
#include "core/presets.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "core/geometry.hpp"
#include "core/level_stats.hpp"
#include "psa/error.hpp"

namespace psa::core {
namespace {

ProblemShape shape_for(const TokenLayout& layout) {
  const index_t len = layout.text_tokens + layout.grid.tokens();
  return {1, 1, 1, len, len, 64};
}

TEST(Presets, AreValidAndNamedOnce) {
  std::set<std::string> names;
  for (const PresetEntry& preset : presets()) {
    EXPECT_TRUE(names.insert(preset.name).second) << preset.name;
    const TokenLayout layout{preset.text_tokens, TextSide::kFront, {4, 16, 16}};
    EXPECT_NO_THROW((void)make_geometry(shape_for(layout), layout, preset.config)) << preset.name;
  }
}

TEST(Presets, PublishedOnesSkipTheRest) {
  const std::set<std::string> own{"balanced", "quality", "speed", "prefill"};
  for (const PresetEntry& preset : presets()) {
    EXPECT_EQ(preset.config.rest == Rest::kLinear, own.contains(preset.name)) << preset.name;
  }
}

/// One line of the published tables.
struct Published {
  const char* name;
  LevelRule rule;
  int block_kv;
  std::array<float, 4> budget;
  bool has_cap;
  Reorder reorder;
  std::array<int, 4> warmup_and_divisors;  // steps; width, height, frames
  index_t text_tokens;
};

TEST(Presets, PublishedOnesHaveThePublishedValues) {
  constexpr auto kTopk = LevelRule::kQuota;
  constexpr auto kBound = LevelRule::kThreshold;
  constexpr auto kGilbert = Reorder::kGilbert;
  constexpr auto kNone = Reorder::kNone;
  const std::vector<Published> table{
      {"wan2.1-14b", kBound, 128, {.4F, .5F, .6F, .8F}, false, kGilbert, {15, 16, 16, 4}, 0},
      {"wan2.1-1.3b", kBound, 128, {.5F, .6F, .7F, .8F}, true, kGilbert, {15, 16, 16, 4}, 0},
      {"wan2.1-1.3b-topk", kTopk, 32, {.05F, .1F, .15F, .25F}, false, kGilbert, {15, 16, 16, 4}, 0},
      {"wan2.1-1.3b-4steps", kTopk, 128, {.05F, .1F, .1F, .3F}, false, kGilbert, {0, 16, 16, 4}, 0},
      {"wan2.2-a14b", kBound, 32, {.5F, .6F, .6F, .8F}, false, kGilbert, {12, 16, 16, 4}, 0},
      {"wan2.2-5b", kBound, 32, {.6F, .7F, .7F, .8F}, false, kGilbert, {15, 32, 32, 4}, 0},
      {"cogvideox1.5-5b",
       kTopk,
       32,
       {.1F, .15F, .15F, .35F},
       false,
       kGilbert,
       {15, 16, 16, 8},
       226},
      {"cogvideox-5b", kTopk, 128, {.1F, .15F, .15F, .35F}, false, kNone, {15, 16, 16, 4}, 226},
      {"cogvideox-5b-4steps",
       kTopk,
       128,
       {.05F, .15F, .25F, .5F},
       false,
       kNone,
       {0, 16, 16, 4},
       226},
      {"qwen2.5-vl", kBound, 128, {.7F, .8F, .9F, .9F}, true, kNone, {0, 28, 28, 2}, 512},
  };
  for (const Published& line : table) {
    SCOPED_TRACE(line.name);
    const auto found = std::find_if(presets().begin(), presets().end(), [&](const auto& preset) {
      return std::string(preset.name) == line.name;
    });
    ASSERT_NE(found, presets().end());
    const Config& config = found->config;
    EXPECT_EQ(config.rule, line.rule);
    EXPECT_EQ(config.block_q, 128);
    EXPECT_EQ(config.block_kv, line.block_kv);
    EXPECT_EQ(config.num_levels, 4);
    EXPECT_TRUE(std::equal(line.budget.begin(), line.budget.end(), config.budget.begin()));
    EXPECT_EQ(config.similarity_cap.has_value(), line.has_cap);
    EXPECT_EQ(config.reorder, line.reorder);
    EXPECT_EQ((std::array<int, 4>{found->warmup_steps, found->divisor_width, found->divisor_height,
                                  found->divisor_frames}),
              line.warmup_and_divisors);
    EXPECT_EQ(found->text_tokens, line.text_tokens);
    EXPECT_EQ(config.causal, config.importance == Importance::kAntidiagonal);
  }
}

/// Density of the level map that a quota budget gives when no block is forced.
double realised_density(const Config& config, index_t blocks) {
  double columns = 0;
  index_t last = 0;
  for (int l = 1; l <= config.num_levels; ++l) {
    const index_t cut = semantics::quota_cut(blocks, {blocks, blocks}, 0,
                                             config.budget[static_cast<std::size_t>(l - 1)]);
    columns += static_cast<double>(cut - last) /
               static_cast<double>(semantics::pool_factor(l, config.block_kv));
    last = cut;
  }
  if (reads_means(config.rest)) columns += static_cast<double>(blocks - last) / config.block_kv;
  return columns / static_cast<double>(blocks);
}

TEST(Presets, BudgetForDensityReadsThatDensity) {
  for (const Rest rest : {Rest::kSkip, Rest::kMean, Rest::kLinear}) {
    for (const int block_kv : {16, 64, 128}) {
      for (const int levels : {1, 2, 4, 5}) {
        for (const double density : {0.08, 0.15, 0.25, 0.6, 1.0}) {
          Config config;
          config.rest = rest;
          config.block_kv = block_kv;
          config.num_levels = levels;
          config.budget = budget_for_density(config, density);
          EXPECT_NEAR(realised_density(config, 10000), density, 2e-3)
              << "block_kv " << block_kv << ", levels " << levels;
        }
      }
    }
  }
}

TEST(Presets, FullDensityIsDense) {
  Config config;
  config.budget = budget_for_density(config, 1.0);
  EXPECT_EQ(config.budget[0], 1.0F);
}

TEST(Presets, BudgetForDensityRefusesWhatCannotBeReached) {
  Config config;  // rest = mean: the means alone cost 1/128
  for (const double density : {-0.1, 0.0, 0.005, 1.01, std::nan("")}) {
    EXPECT_THROW((void)budget_for_density(config, density), Error) << density;
  }
  config.rest = Rest::kSkip;
  EXPECT_NO_THROW((void)budget_for_density(config, 0.005));
}

}  // namespace
}  // namespace psa::core
