// SPDX-License-Identifier: Apache-2.0
#include "core/presets.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>

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
    EXPECT_EQ(preset.config.rest == Rest::kMean, own.contains(preset.name)) << preset.name;
  }
}

/// Density of the level map that a quota budget gives when no block is forced.
double realised_density(const Config& config, index_t blocks) {
  double columns = 0;
  index_t last = 0;
  for (int l = 1; l <= config.num_levels; ++l) {
    const index_t cut =
        semantics::quota_cut(blocks, config.budget[static_cast<std::size_t>(l - 1)]);
    columns += static_cast<double>(cut - last) /
               static_cast<double>(semantics::pool_factor(l, config.block_kv));
    last = cut;
  }
  if (config.rest == Rest::kMean) columns += static_cast<double>(blocks - last) / config.block_kv;
  return columns / static_cast<double>(blocks);
}

TEST(Presets, BudgetForDensityReadsThatDensity) {
  for (const Rest rest : {Rest::kSkip, Rest::kMean}) {
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
  EXPECT_TRUE(is_dense(config));
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
