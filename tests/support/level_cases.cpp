// SPDX-License-Identifier: Apache-2.0
#include "support/level_cases.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "support/problem_cases.hpp"

namespace psa::testing {

std::vector<float> random_importance(const core::Geometry& g, ImportanceKind kind,
                                     std::uint64_t seed) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kSpecial[] = {kNan, kInf, -kInf, -1.0F, 0.0F, -0.0F, 3.0e38F, 1.0e-40F, 1.0F};
  std::mt19937_64 generator(seed);
  std::lognormal_distribution<float> spread(0.0F, 3.0F);
  std::vector<float> importance(uniform_levels(g, 1).size());
  for (float& x : importance) {
    x = spread(generator);
    // Neighbouring floats, and some far away: the widest search.
    if (kind == ImportanceKind::kClose && generator() % 16 != 0) {
      x = std::ldexp(static_cast<float>(0x800000 + generator() % 300), -24);
    }
    if (kind == ImportanceKind::kTies) x = std::floor(std::min(x, 4.0F));
    if (kind == ImportanceKind::kZeros) x = 0.0F;
    if (kind == ImportanceKind::kSpecial && generator() % 2 == 0) x = kSpecial[generator() % 9];
  }
  return importance;
}

std::vector<std::uint8_t> random_caps(const core::Geometry& g, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<std::uint8_t> caps(
      static_cast<std::size_t>(g.shape.batch * g.shape.heads_kv * g.num_kv_blocks));
  for (auto& cap : caps) cap = static_cast<std::uint8_t>(1 + generator() % 5);
  return caps;
}

std::vector<Config> level_configs(const Config& base) {
  std::vector<Config> configs;
  for (const LevelRule rule : {LevelRule::kQuota, LevelRule::kThreshold}) {
    Config config = base;
    config.rule = rule;
    configs.push_back(config);
    config.rest = Rest::kSkip;
    config.min_full_blocks = 3;
    config.sink_blocks = 1;
    config.budget = {0.0F, 0.2F, 0.2F, 0.9F, 1.0F};
    config.num_levels = 5;
    configs.push_back(config);
    config.num_levels = 1;
    config.min_full_blocks = 0;
    config.budget[0] = 0.37F;
    configs.push_back(config);
  }
  return configs;
}

std::vector<Config> head_density_configs(const Config& base, index_t heads_q) {
  std::vector<Config> configs;
  for (Config config : level_configs(base)) {
    if (config.rule != LevelRule::kQuota) continue;
    for (index_t h = 0; h < heads_q; ++h) {
      config.head_density.push_back(h % 5 == 3 ? 1.0F : 0.1F + 0.17F * static_cast<float>(h % 5));
    }
    configs.push_back(config);
  }
  return configs;
}

}  // namespace psa::testing
