// SPDX-License-Identifier: Apache-2.0

// The levels stage of the reference backend against a second model that knows nothing of
// src/semantics (S-13 to S-18, S-26).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "reference/backend.hpp"
#include "support/level_cases.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

using Codes = std::vector<LevelCode>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Block {
  bool candidate = false;
  bool forced = false;
  float importance = 0.0F;      // as it is ranked; NaN allowed
  float own_importance = 0.0F;  // the same, not weighed
};

/// Candidates, S-8, and forced blocks, S-18, from the positions themselves.
std::vector<Block> model_blocks(const Problem& problem, index_t n, index_t i) {
  const Config& config = problem.config;
  const ProblemShape& s = problem.shape;
  const index_t text = problem.layout.text_tokens;
  const bool front = problem.layout.text_side == TextSide::kFront;
  const auto is_text = [&](index_t p) { return front ? p < text : p >= s.len_kv - text; };
  const index_t first_row = i * config.block_q;
  const index_t end_row = std::min<index_t>(first_row + config.block_q, s.len_q);
  bool text_queries = false;
  for (index_t r = first_row; s.len_q == s.len_kv && r < end_row; ++r) {
    text_queries = text_queries || (config.text_queries_full && is_text(r));
  }
  std::vector<Block> blocks;
  for (index_t begin = 0; begin < s.len_kv; begin += config.block_kv) {
    Block block;
    bool all_visible = true;
    block.forced = text_queries || begin / config.block_kv < config.sink_blocks;
    for (index_t p = begin; p < std::min<index_t>(begin + config.block_kv, n); ++p) {
      block.forced = block.forced || (config.text_keys_full && is_text(p));
      for (index_t r = first_row; r < end_row; ++r) {
        const bool visible = !config.causal || p - n <= r - s.len_q;
        block.candidate = block.candidate || visible;
        all_visible = all_visible && visible;
      }
    }
    block.forced = block.forced || !all_visible;
    blocks.push_back(block);
  }
  return blocks;
}

/// S-14. `first`, `last`: candidates of the first query block that has any and of the last one.
double model_count(double first, double last, double share) {
  const double count = share * (first + last) / 2.0;
  if (count <= first) return count;
  return last - std::sqrt((1.0 - share) * (last * last - first * first));
}

double model_spread(index_t i) {
  return std::fmod(0.5 + static_cast<double>(i) * 2654435769.0 / 4294967296.0, 1.0);
}

double model_cut(double first, double last, index_t i, double share) {
  return std::floor(model_count(first, last, share) + (first == last ? 0.5 : model_spread(i)));
}

/// S-26. Blocks that level 1 gets in place of `worth` blocks' columns of means, of which all would
/// be `most`. `with_level`: blocks with a level before.
double model_freed(const Config& config, const std::vector<double>& row_candidates, index_t i,
                   double worth, double most, double with_level) {
  const double first = row_candidates.front();
  const double last = row_candidates.back();
  if (first == last) return std::floor(worth + model_spread(i));
  if (worth <= 0.0) return 0.0;
  const float share = config.budget[static_cast<std::size_t>(config.num_levels - 1)];
  const float whole = share + (1.0F - share) / static_cast<float>(config.block_kv);
  const double before = model_count(first, last, static_cast<double>(share));
  const double after = model_count(first, last, static_cast<double>(whole));
  const double cut = std::floor(before + (after - before) / (most / worth) + model_spread(i));
  return std::max(0.0, cut - with_level);
}

/// Level of a candidate by how many candidates come before it and how much mass they have. `freed`:
/// blocks by which cuts grow (S-26).
int model_level(const Config& config, const std::vector<double>& row_candidates, index_t i,
                const std::vector<Block>& blocks, double freed, std::size_t j) {
  const auto before = [&](std::size_t a, std::size_t b) {  // a ranks before b
    if (blocks[a].forced != blocks[b].forced) return blocks[a].forced;
    const bool nan_a = std::isnan(blocks[a].importance);
    const bool nan_b = std::isnan(blocks[b].importance);
    if (!blocks[a].forced && nan_a != nan_b) return nan_b;
    if (!blocks[a].forced && !nan_a && blocks[a].importance != blocks[b].importance) {
      return blocks[a].importance > blocks[b].importance;
    }
    return a < b;
  };
  float largest = 0.0F;
  for (const Block& block : blocks) {
    const float bounded = std::min(block.importance, std::numeric_limits<float>::max());
    if (block.candidate && bounded > largest) largest = bounded;
  }
  const auto mass_of = [&](const Block& block) {
    if (!(largest > 0.0F)) return 1.0;
    const float bounded = std::clamp(std::isnan(block.importance) ? 0.0F : block.importance, 0.0F,
                                     std::numeric_limits<float>::max());
    return std::floor(static_cast<double>(bounded / largest * 16777216.0F));
  };
  double rank = 0.0;
  double total = 0.0;
  double mass_before = 0.0;
  double forced = 0.0;
  for (std::size_t other = 0; other < blocks.size(); ++other) {
    if (!blocks[other].candidate) continue;
    total += mass_of(blocks[other]);
    forced += blocks[other].forced ? 1.0 : 0.0;
    if (!before(other, j)) continue;
    rank += 1.0;
    mass_before += mass_of(blocks[other]);
  }
  rank -= freed;
  if (rank < forced || rank < static_cast<double>(config.min_full_blocks)) return 1;
  for (int level = 1; level <= config.num_levels; ++level) {
    const auto share = static_cast<double>(config.budget[static_cast<std::size_t>(level - 1)]);
    const bool inside =
        config.rule == LevelRule::kQuota
            ? rank < model_cut(row_candidates.front(), row_candidates.back(), i, share)
            : mass_before < share * total;
    if (inside) return level;
  }
  return config.rest == Rest::kMean ? 6 : 0;
}

/// Codes of a row without caps, S-26 by counts and least importance instead of ranks.
std::vector<int> model_row(const Config& config, const std::vector<double>& row_candidates,
                           index_t i, const std::vector<Block>& blocks) {
  const auto codes_with = [&](double freed) {
    std::vector<int> codes;
    for (std::size_t j = 0; j < blocks.size(); ++j) {
      codes.push_back(blocks[j].candidate ? model_level(config, row_candidates, i, blocks, freed, j)
                                          : 0);
    }
    return codes;
  };
  const std::vector<int> codes = codes_with(0.0);
  double candidates = 0.0;
  double with_level = 0.0;
  // Importance of blocks that are not forced: the least of those with a level, the most of all.
  float last = kInf;
  float most_important = -kInf;
  for (std::size_t j = 0; j < blocks.size(); ++j) {
    if (!blocks[j].candidate) continue;
    candidates += 1.0;
    const bool has_level = codes[j] != 0 && codes[j] != 6;
    if (has_level) with_level += 1.0;
    if (blocks[j].forced) continue;
    const float own = std::isnan(blocks[j].own_importance) ? -kInf : blocks[j].own_importance;
    most_important = std::max(most_important, own);
    if (has_level) last = std::min(last, own);
  }
  last = std::min(last, most_important);
  const bool is_cut = config.rest_cutoff > 0.0F && config.rest != Rest::kSkip;
  if (!is_cut || !(last > 0.0F)) return codes;
  const auto block_kv = static_cast<float>(config.block_kv);
  const float least = last * (config.rest_cutoff / block_kv);
  const auto is_kept = [&](std::size_t j) {
    const bool has_level = codes[j] != 0 && codes[j] != 6;
    return blocks[j].candidate && (has_level || blocks[j].own_importance >= least);
  };
  double kept = 0.0;
  for (std::size_t j = 0; j < blocks.size(); ++j) kept += is_kept(j) ? 1.0 : 0.0;
  const double most = (candidates - with_level) / config.block_kv;
  const double worth = std::min((candidates - kept) / (config.block_kv - 1.0), most);
  std::vector<int> result =
      codes_with(config.rule == LevelRule::kQuota
                     ? model_freed(config, row_candidates, i, worth, most, with_level)
                     : 0.0);
  for (std::size_t j = 0; j < blocks.size(); ++j) {
    if (result[j] == 6 && !is_kept(j)) result[j] = 0;
  }
  return result;
}

/// Candidates of the query blocks that have any.
std::vector<double> model_row_candidates(const Problem& problem, index_t n) {
  std::vector<double> counts;
  for (index_t i = 0; i * problem.config.block_q < problem.shape.len_q; ++i) {
    const std::vector<Block> blocks = model_blocks(problem, n, i);
    const auto count = std::ranges::count_if(blocks, &Block::candidate);
    if (count > 0) counts.push_back(static_cast<double>(count));
  }
  return counts;
}

/// [B, Hq, Nq, Nk].
Codes model_levels(const Problem& problem, const std::vector<float>& importance,
                   const std::vector<std::uint8_t>& caps, const std::vector<float>& weights,
                   const std::vector<std::int32_t>& kv_lengths) {
  const core::Geometry g = problem.geometry();
  const ProblemShape& s = problem.shape;
  const auto num_kv_blocks = static_cast<std::size_t>(g.num_kv_blocks);
  Codes codes;
  for (index_t b = 0; b < s.batch; ++b) {
    const index_t n =
        kv_lengths.empty() ? s.len_kv : index_t{kv_lengths[static_cast<std::size_t>(b)]};
    const std::vector<double> row_candidates = model_row_candidates(problem, n);
    for (index_t h = 0; h < s.heads_q; ++h) {
      const index_t kv_head = b * s.heads_kv + h * s.heads_kv / s.heads_q;
      for (index_t i = 0; i < g.num_q_blocks; ++i) {
        std::vector<Block> blocks = model_blocks(problem, n, i);
        const std::size_t row = codes.size();
        for (std::size_t j = 0; j < num_kv_blocks; ++j) {
          if (importance.empty()) continue;
          const std::size_t block = static_cast<std::size_t>(kv_head) * num_kv_blocks + j;
          blocks[j].own_importance = importance[row + j];
          blocks[j].importance = importance[row + j] * (weights.empty() ? 1.0F : weights[block]);
        }
        const std::vector<int> row_codes = model_row(problem.config, row_candidates, i, blocks);
        for (std::size_t j = 0; j < num_kv_blocks; ++j) {
          int code = row_codes[j];
          const std::size_t cap = static_cast<std::size_t>(kv_head) * num_kv_blocks + j;
          if (!caps.empty() && code <= 5) code = std::min(code, int{caps[cap]});
          codes.push_back(static_cast<LevelCode>(code));
        }
      }
    }
  }
  return codes;
}

/// Importance of few distinct values, so that ties are common, with some NaN, zeros and infinities.
std::vector<float> coarse_importance(std::size_t size, std::mt19937_64& generator) {
  std::vector<float> importance(size);
  const std::uint64_t kind = generator() % 4;
  for (float& x : importance) {
    const std::uint64_t draw = generator();
    x = static_cast<float>(draw % 7) * 0.125F;
    if (kind == 1) x = static_cast<float>(draw % 100000) * 1e-5F;
    if (kind == 2 && draw % 11 == 0) x = kNan;
    if (kind == 3 && draw % 13 == 0) x = draw % 2 == 0 ? kInf : -1.0F;
  }
  return importance;
}

Problem random_rule(Problem problem, std::mt19937_64& generator) {
  Config& config = problem.config;
  config.rule = generator() % 2 == 0 ? LevelRule::kQuota : LevelRule::kThreshold;
  config.rest = generator() % 2 == 0 ? Rest::kSkip : Rest::kMean;
  config.rest_cutoff = static_cast<float>(generator() % 3) * 0.8F;
  config.num_levels = static_cast<std::int32_t>(1 + generator() % 5);
  for (float& share : config.budget) share = static_cast<float>(generator() % 21) * 0.05F;
  std::sort(config.budget.begin(), config.budget.end());
  config.min_full_blocks = static_cast<std::int32_t>(generator() % 3);
  config.sink_blocks = static_cast<std::int32_t>(generator() % 3);
  config.text_keys_full = generator() % 2 == 0;
  config.text_queries_full = generator() % 2 == 0;
  const auto len_kv = static_cast<std::uint64_t>(problem.shape.len_kv);
  problem.layout.text_tokens = static_cast<index_t>(generator() % (len_kv / 3 + 1));
  problem.layout.text_side = generator() % 2 == 0 ? TextSide::kFront : TextSide::kBack;
  return problem;
}

class ReferenceLevelsCases : public ::testing::TestWithParam<ProblemCase> {};

TEST_P(ReferenceLevelsCases, S13ToS18AndS26AgreeWithASecondModel) {
  std::mt19937_64 generator(31);
  for (int round = 0; round < 40; ++round) {
    const Problem problem = random_rule(GetParam().problem, generator);
    const core::Geometry g = problem.geometry();
    const auto& kv_lengths = GetParam().kv_lengths;
    std::vector<float> importance = coarse_importance(uniform_levels(g, 0).size(), generator);
    if (round % 8 == 7) importance.clear();
    std::vector<std::uint8_t> caps;
    if (round % 3 == 0) {
      caps.resize(static_cast<std::size_t>(g.shape.batch * g.shape.heads_kv * g.num_kv_blocks));
      for (std::uint8_t& cap : caps) cap = static_cast<std::uint8_t>(1 + generator() % 5);
    }
    const std::vector<float> weights =
        round % 4 == 1 ? random_weights(g, generator()) : std::vector<float>();
    ASSERT_EQ(StageRunner(reference::backend(), g).levels(kv_lengths, importance, caps, weights),
              model_levels(problem, importance, caps, weights, kv_lengths))
        << "round " << round;
  }
}

TEST_P(ReferenceLevelsCases, DoNotDependOnTheChunks) {
  std::mt19937_64 generator(32);
  const core::Geometry g = random_rule(GetParam().problem, generator).geometry();
  const auto importance = coarse_importance(uniform_levels(g, 0).size(), generator);
  const StageRunner whole(reference::backend(), g);
  const StageRunner rows(reference::backend(), g, {.chunk_q_blocks = 1});
  EXPECT_EQ(rows.levels(GetParam().kv_lengths, importance),
            whole.levels(GetParam().kv_lengths, importance));
}

TEST_P(ReferenceLevelsCases, S14QuotaCountsAreExact) {
  Problem problem = GetParam().problem;
  problem.config.causal = false;  // forced blocks would come on top
  problem.config.budget = {0.1F, 0.3F, 0.55F, 0.8F, 0.8F};
  problem.config.min_full_blocks = 0;
  const core::Geometry g = problem.geometry();
  std::mt19937_64 generator(33);
  const Codes codes = StageRunner(reference::backend(), g)
                          .levels({}, coarse_importance(uniform_levels(g, 0).size(), generator));
  const auto n = static_cast<double>(g.num_kv_blocks);
  for (auto row = codes.begin(); row != codes.end(); row += g.num_kv_blocks) {
    for (int level = 1; level <= 4; ++level) {
      const auto upto =
          static_cast<double>(problem.config.budget[static_cast<std::size_t>(level - 1)]);
      EXPECT_EQ(
          std::count_if(row, row + g.num_kv_blocks, [&](LevelCode code) { return code <= level; }),
          static_cast<index_t>(std::floor(n * upto + 0.5)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, ReferenceLevelsCases, ::testing::ValuesIn(problem_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace psa::testing
