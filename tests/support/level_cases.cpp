// SPDX-License-Identifier: Apache-2.0
#include "support/level_cases.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <random>
#include <utility>

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

std::vector<float> random_weights(const core::Geometry& g, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::lognormal_distribution<float> spread(0.0F, 1.0F);
  std::vector<float> weights(
      static_cast<std::size_t>(g.shape.batch * g.shape.heads_kv * g.num_kv_blocks));
  for (float& weight : weights) {
    weight = spread(generator);
    const std::uint64_t draw = generator() % 32;
    if (draw == 0) weight = 0.0F;
    if (draw == 1) weight = semantics::kLargestFloat;
  }
  return weights;
}

std::vector<ProblemCase> long_causal_cases() {
  const auto make = [](const char* name, index_t len_q, index_t len_kv, std::int32_t block_q,
                       std::vector<std::int32_t> kv_lengths) {
    Problem problem;
    problem.shape = {.batch = std::max<index_t>(1, std::ssize(kv_lengths)),
                     .heads_q = 2,
                     .heads_kv = 1,
                     .len_q = len_q,
                     .len_kv = len_kv,
                     .head_dim = 8,
                     .dtype_q = DType::kBF16,
                     .dtype_kv = DType::kBF16,
                     .dtype_out = DType::kBF16};
    problem.config.block_q = block_q;
    problem.config.block_kv = 16;
    problem.config.causal = true;
    return ProblemCase{name, problem, std::move(kv_lengths)};
  };
  return {make("Square", 2000, 2000, 16, {}), make("Ragged", 2003, 2003, 32, {}),
          make("EndOfAPrompt", 700, 3333, 64, {}), make("MoreQueriesThanKeys", 2100, 1500, 16, {}),
          make("KeyLengths", 1200, 1600, 32, {1600, 1199, 555, 17, 0})};
}

std::vector<Config> level_configs(const Config& base) {
  std::vector<Config> configs;
  for (const LevelRule rule : {LevelRule::kQuota, LevelRule::kThreshold}) {
    Config config = base;
    config.rule = rule;
    configs.push_back(config);
    config.rest_cutoff = 2.0F;
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
    config.rest = Rest::kLinear;
    config.rest_cutoff = 0.7F;
    config.budget[0] = 0.05F;
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

std::vector<Config> shared_budget_configs(const Config& base, index_t heads_q) {
  Config config = base;
  config.causal = false;
  std::vector<Config> configs = level_configs(config);
  std::ranges::copy(head_density_configs(config, heads_q), std::back_inserter(configs));
  std::erase_if(configs, [](const Config& c) { return c.rule != LevelRule::kQuota; });
  for (Config& c : configs) {
    c.budget_scope = BudgetScope::kHead;
    c.min_full_blocks = std::min(c.min_full_blocks, 1);
  }
  return configs;
}

}  // namespace psa::testing
