// SPDX-License-Identifier: Apache-2.0
#include "core/presets.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include "psa/error.hpp"
#include "semantics/pooling.hpp"

namespace psa::core {
namespace {

/// Only what the budget depends on; the rest of the configuration is checked with the plan.
void check_levels_fit(const Config& config) {
  if (!semantics::is_block_size(config.block_kv)) {
    throw Error(Status::kInvalidArgument,
                "block_kv is " + std::to_string(config.block_kv) + "; allowed: 16, 32, 64, 128");
  }
  if (config.num_levels < 1 || config.num_levels > kMaxLevels ||
      !semantics::is_level_code(config.num_levels, config.block_kv)) {
    throw Error(Status::kInvalidArgument, "num_levels is " + std::to_string(config.num_levels) +
                                              "; allowed: 1..5 with 2^(num_levels-1) <= block_kv");
  }
}

Config published(int block_kv, LevelRule rule, const std::array<float, 4>& shares) {
  Config config;
  config.block_kv = block_kv;
  config.rule = rule;
  config.num_levels = 4;
  config.budget = {shares[0], shares[1], shares[2], shares[3], shares[3]};
  config.rest = Rest::kSkip;
  config.min_full_blocks = 1;
  config.importance = Importance::kSampledMax;
  config.reorder = Reorder::kGilbert;
  return config;
}

Config without_reorder(Config config) {
  config.reorder = Reorder::kNone;
  return config;
}

Config with_similarity(Config config, const std::array<float, 3>& min_cosine) {
  config.similarity_cap = {{min_cosine[0], min_cosine[1], min_cosine[2], min_cosine[2]}};
  return config;
}

/// Video LLM prefill: causal, antidiagonal estimate, sink block and text kept.
Config published_prefill() {
  Config config = published(128, LevelRule::kThreshold, {0.7F, 0.8F, 0.9F, 0.9F});
  config.reorder = Reorder::kNone;
  config.importance = Importance::kAntidiagonal;
  config.antidiagonal_stride = 8;
  config.causal = true;
  config.sink_blocks = 1;
  return with_similarity(config, {0.75F, 0.70F, 0.70F});
}

/// The best blocks in full, by what they hold and how far their values lie from the others (ADR
/// 0028); the others as means with their first-order term (docs/quality.md), but for those that
/// hold next to nothing (ADR 0025).
Config best_blocks(double density) {
  Config config;
  config.num_levels = 1;
  config.rest = Rest::kLinear;
  config.rest_cutoff = 2.0F;
  config.weigh_values = true;
  config.budget = budget_for_density(config, density);
  return config;
}

Config prefill(double density) {
  Config config = best_blocks(density);
  config.causal = true;
  config.sink_blocks = 1;
  return config;
}

/// All query blocks of a head share its density (ADR 0029).
Config along_grid(double density) {
  Config config = best_blocks(density);
  config.budget_scope = BudgetScope::kHead;
  config.reorder = Reorder::kGilbert;
  return config;
}

Config dense() {
  Config config;
  config.num_levels = 1;
  config.budget = {1.0F, 1.0F, 1.0F, 1.0F, 1.0F};
  config.rest = Rest::kSkip;
  return config;
}

std::vector<PresetEntry> make_presets() {
  constexpr LevelRule kQuota = LevelRule::kQuota;
  constexpr LevelRule kThreshold = LevelRule::kThreshold;
  const Config topk_4steps = published(128, kQuota, {0.05F, 0.15F, 0.25F, 0.50F});
  const Config cog = published(128, kQuota, {0.10F, 0.15F, 0.15F, 0.35F});
  const Config wan_1b = published(128, kThreshold, {0.50F, 0.60F, 0.70F, 0.80F});
  return {
      {"balanced", "density .15 along the Gilbert curve, one level, rest linear", along_grid(0.15),
       0, 16, 16, 4, 0},
      {"quality", "density .25 along the Gilbert curve, one level, rest linear", along_grid(0.25),
       0, 16, 16, 4, 0},
      {"speed", "density .08 along the Gilbert curve, one level, rest linear", along_grid(0.08), 0,
       16, 16, 4, 0},
      {"prefill", "video LLM prefill: causal, density .20, sink block, one level, rest linear",
       prefill(0.20), 0, 28, 28, 2, 0},
      {"dense", "every block at level 1", dense(), 0, 1, 1, 1, 0},
      {"wan2.1-14b", "published psa_balanced of Wan2.1_14b",
       published(128, kThreshold, {0.40F, 0.50F, 0.60F, 0.80F}), 15, 16, 16, 4, 0},
      {"wan2.1-1.3b", "published psa_balanced of Wan2.1_1.3b, similarity cap",
       with_similarity(wan_1b, {0.70F, 0.65F, 0.60F}), 15, 16, 16, 4, 0},
      {"wan2.1-1.3b-topk", "published psa_topk of Wan2.1_1.3b",
       published(32, kQuota, {0.05F, 0.10F, 0.15F, 0.25F}), 15, 16, 16, 4, 0},
      {"wan2.1-1.3b-4steps", "published psa_4steps of Wan2.1_1.3b_4steps",
       published(128, kQuota, {0.05F, 0.10F, 0.10F, 0.30F}), 0, 16, 16, 4, 0},
      {"wan2.2-a14b", "published psa_balanced of Wan2.2_A14B",
       published(32, kThreshold, {0.50F, 0.60F, 0.60F, 0.80F}), 12, 16, 16, 4, 0},
      {"wan2.2-5b", "published psa_balanced of Wan2.2_5B",
       published(32, kThreshold, {0.60F, 0.70F, 0.70F, 0.80F}), 15, 32, 32, 4, 0},
      {"cogvideox1.5-5b", "published psa_balanced of CogVideo1.5_5b",
       published(32, kQuota, {0.10F, 0.15F, 0.15F, 0.35F}), 15, 16, 16, 8, 226},
      {"cogvideox-5b", "published psa_balanced of CogVideo_5b", without_reorder(cog), 15, 16, 16, 4,
       226},
      {"cogvideox-5b-4steps", "published psa_4steps of CogVideo_5b", without_reorder(topk_4steps),
       0, 16, 16, 4, 226},
      {"qwen2.5-vl", "published prefill of Qwen2.5-VL", published_prefill(), 0, 28, 28, 2, 512},
  };
}

}  // namespace

semantics::Budget budget_for_density(const Config& config, double density,
                                     const std::string& name) {
  check_levels_fit(config);
  const semantics::SplitRule rule{config.num_levels, config.block_kv, reads_means(config.rest)};
  const double least = semantics::least_density(rule);
  if (!(density > least && density <= 1.0)) {
    std::ostringstream text;
    text << name << " is " << density << "; allowed: more than " << least
         << (rule.reads_means ? " (the block means alone)" : "") << ", up to 1";
    throw Error(Status::kInvalidArgument, text.str());
  }
  return semantics::budget_of_density(density, rule);
}

std::span<const PresetEntry> presets() {
  static const std::vector<PresetEntry> entries = make_presets();
  return entries;
}

}  // namespace psa::core
