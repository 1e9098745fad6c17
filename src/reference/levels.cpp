// SPDX-License-Identifier: Apache-2.0

// Levels stage: from the importance of a row's blocks to their levels (S-13 to S-18; S-22(b) to (f)
// for compat = official).
//
//   in   importance of a chunk (null: all equal), weights [B, Hkv, Nk] and caps [B, Hkv, Nk] (null:
//        none), key lengths
//   out  levels [B, Hq, Nq, Nk], the rows of the chunk
//
// Per row, unless a head's query blocks share its budget (S-28): the candidates (blocks that are
// not hidden) are ranked; the rule turns the budgets into cuts of the ranked list; the similarity
// cap refines; what lies behind the last cut becomes the rest. Exact: the same importance gives the
// same levels on every backend.
//
// Cost: one sort of Nk entries per row, none where a budget is shared.

#include "semantics/levels.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "reference/rows.hpp"
#include "reference/stages.hpp"
#include "semantics/head_budget.hpp"
#include "semantics/official.hpp"

namespace psa::reference {
namespace {

using semantics::Range;
using semantics::RankKey;

/// One row of the level map.
struct LevelRow {
  const core::Geometry& geometry;
  index_t batch;
  index_t head_q;
  index_t q_block;
  index_t kv_length;
  const float* importance;   // [Nk] or null
  const float* weights;      // [Nk] or null
  const std::uint8_t* caps;  // [Nk] or null
  const float* budget;       // [kMaxLevels]

  [[nodiscard]] const Config& config() const { return geometry.config; }
  [[nodiscard]] float share_of(int level) const { return budget[level - 1]; }
  [[nodiscard]] float importance_of(index_t kv_block) const {
    return importance == nullptr ? 0.0F : semantics::ranked_importance(importance[kv_block]);
  }
  [[nodiscard]] float weighed_importance_of(index_t kv_block) const {
    if (importance == nullptr) return 0.0F;
    const float weight = weights == nullptr ? 1.0F : weights[kv_block];
    return semantics::ranked_importance(
        semantics::weighed_importance(importance[kv_block], weight));
  }
  [[nodiscard]] bool is_official() const { return config().compat == Compat::kOfficial; }
  [[nodiscard]] int rest_code() const {
    return reads_means(config().rest) ? semantics::kBlockMeanCode : semantics::kSkipCode;
  }
};

/// The candidates of a row with their forced flags, in rising order of the KV block.
std::vector<RankKey> candidates(const LevelRow& row) {
  const Config& config = row.config();
  const index_t len_q = row.geometry.shape.len_q;
  const Range queries = semantics::block_range(row.q_block, config.block_q, len_q);
  std::vector<RankKey> found;
  for (index_t j = 0; j < row.geometry.num_kv_blocks; ++j) {
    const Range keys = semantics::block_range(j, config.block_kv, row.kv_length);
    const auto visibility =
        semantics::block_visibility(config.causal, queries, keys, len_q, row.kv_length);
    if (visibility == semantics::Visibility::kHidden) continue;
    const bool forced = semantics::is_forced(row.geometry.forced, queries, keys, j, visibility);
    found.push_back({forced, row.weighed_importance_of(j), j});
  }
  return found;
}

/// Of the row's batch element.
semantics::CandidateSpan candidate_span(const LevelRow& row) {
  const Config& config = row.config();
  return semantics::candidate_span(config.causal, config.block_q, config.block_kv,
                                   row.geometry.shape.len_q, row.kv_length);
}

/// S-14.
index_t quota_cut(const LevelRow& row, const std::vector<RankKey>& ranked, float share) {
  return semantics::quota_cut(static_cast<index_t>(ranked.size()), candidate_span(row), row.q_block,
                              share);
}

/// S-15.
index_t threshold_cut(const std::vector<RankKey>& ranked, float share) {
  float largest = -semantics::kLargestFloat;
  for (const RankKey& key : ranked) largest = std::max(largest, key.importance);
  std::uint64_t total = 0;
  for (const RankKey& key : ranked) total += semantics::threshold_mass(key.importance, largest);
  std::uint64_t mass = 0;
  index_t cut = 0;
  while (!semantics::threshold_reached(mass, total, share)) {
    mass += semantics::threshold_mass(ranked[to_size(cut)].importance, largest);
    ++cut;
  }
  return cut;
}

/// S-26. The least importance of a block mean that is read. `last_cut`: ranked blocks that the rule
/// gives a level; the first `forced` of the ranked blocks are forced.
float least_of_means(const LevelRow& row, const std::vector<RankKey>& ranked, index_t forced,
                     index_t last_cut) {
  std::vector<float> unforced;
  for (std::size_t p = to_size(forced); p < ranked.size(); ++p) {
    unforced.push_back(row.importance_of(ranked[p].kv_block));
  }
  if (unforced.empty()) return -std::numeric_limits<float>::infinity();
  const float least =
      last_cut > forced ? *std::min_element(unforced.begin(), unforced.begin() + last_cut - forced)
                        : *std::max_element(unforced.begin(), unforced.end());
  return semantics::least_of_means(least, row.config().rest_cutoff, row.config().block_kv);
}

/// Codes that the ranked blocks get from the rule, S-14 or S-15 with S-17, S-18 and S-26.
std::vector<int> assign(const LevelRow& row, const std::vector<RankKey>& ranked) {
  const Config& config = row.config();
  const auto count = static_cast<index_t>(ranked.size());
  const auto forced = static_cast<index_t>(
      std::count_if(ranked.begin(), ranked.end(), [](const RankKey& key) { return key.forced; }));
  std::vector<index_t> cuts;
  for (int level = semantics::kFinestLevel; level <= config.num_levels; ++level) {
    const float share = row.share_of(level);
    index_t cut = config.rule == LevelRule::kQuota ? quota_cut(row, ranked, share)
                                                   : threshold_cut(ranked, share);
    if (level == semantics::kFinestLevel) {
      cut = semantics::full_cut(cut, forced, config.min_full_blocks, count);
    }
    cuts.push_back(std::max(cut, cuts.empty() ? 0 : cuts.back()));
  }
  std::vector<int> codes(ranked.size(), semantics::kSkipCode);
  index_t freed = 0;
  if (reads_means(config.rest)) {
    const float least = least_of_means(row, ranked, forced, cuts.back());
    index_t kept = cuts.back();
    for (std::size_t p = to_size(cuts.back()); p < ranked.size(); ++p) {
      if (!(row.importance_of(ranked[p].kv_block) >= least)) continue;
      codes[p] = semantics::kBlockMeanCode;
      ++kept;
    }
    if (config.rule == LevelRule::kQuota) {
      freed =
          semantics::freed_blocks(count, kept, cuts.back(), candidate_span(row),
                                  row.share_of(config.num_levels), config.block_kv, row.q_block);
    }
  }
  index_t last = 0;
  for (int level = semantics::kFinestLevel; level <= config.num_levels; ++level) {
    const index_t cut = std::min(count, cuts[to_size(level - 1)] + freed);
    for (; last < cut; ++last) codes[to_size(last)] = level;
  }
  return codes;
}

// ---- S-22 ---------------------------------------------------------------------------------------

/// Cumulative shares of the ranked blocks, in double; NaN and negative importance count as 0.
std::vector<double> cumulative_shares(const std::vector<RankKey>& ranked) {
  std::vector<double> shares;
  double sum = 0.0;
  for (const RankKey& key : ranked) {
    sum += static_cast<double>(std::max(key.importance, 0.0F));
    shares.push_back(sum);
  }
  for (double& share : shares) share = sum > 0.0 ? share / sum : 0.0;
  return shares;
}

/// S-22(b) and (c). End of the run of `level`, which starts at rank `last`.
index_t official_end(const LevelRow& row, const std::vector<RankKey>& ranked, int level,
                     index_t last) {
  const Config& config = row.config();
  const auto count = static_cast<index_t>(ranked.size());
  const auto upto = static_cast<double>(row.share_of(level));
  const index_t factor = semantics::pool_factor(level, config.block_kv);
  if (config.rule == LevelRule::kQuota) {
    const index_t cut = semantics::official_quota_cut(count, upto);
    return semantics::official_aligned_end(last, cut, factor, count);
  }
  index_t within = 0;
  for (const double share : cumulative_shares(ranked)) {
    if (semantics::official_is_within(share, upto)) ++within;
  }
  const index_t cut = semantics::official_threshold_cut(within, last, count);
  const index_t end = semantics::official_aligned_end(last, cut, factor, count);
  return level == semantics::kFinestLevel ? std::max(end, semantics::official_min_full(count))
                                          : end;
}

/// S-22(d). Codes of the threshold bands.
std::vector<int> official_bands(const LevelRow& row, const std::vector<RankKey>& ranked) {
  const Config& config = row.config();
  const std::vector<double> shares = cumulative_shares(ranked);
  std::vector<int> codes(ranked.size(), row.rest_code());
  for (std::size_t p = 0; p < ranked.size(); ++p) {
    double lower = 0.0;
    for (int level = semantics::kFinestLevel; level <= config.num_levels; ++level) {
      const auto upper = static_cast<double>(row.share_of(level));
      if (semantics::official_is_in_band(shares[p], lower, upper)) codes[p] = level;
      lower = upper;
    }
  }
  return codes;
}

/// Codes that the ranked blocks get in the published code, before forced blocks are overwritten.
std::vector<int> assign_official(const LevelRow& row, const std::vector<RankKey>& ranked) {
  const Config& config = row.config();
  if (config.causal && config.rule == LevelRule::kThreshold) return official_bands(row, ranked);
  std::vector<int> codes(ranked.size(), row.rest_code());
  index_t last = 0;
  for (int level = semantics::kFinestLevel; level <= config.num_levels; ++level) {
    const index_t end = config.causal
                            ? semantics::official_causal_quota_cut(
                                  static_cast<index_t>(ranked.size()), row.share_of(level))
                            : official_end(row, ranked, level, last);
    for (; last < end; ++last) codes[to_size(last)] = level;
  }
  return codes;
}

/// S-22(f): the rule sees no forced blocks; they are overwritten after it.
std::vector<int> assign_then_force(const LevelRow& row, std::vector<RankKey>& ranked) {
  const std::vector<RankKey> with_flags = ranked;  // by KV block
  for (RankKey& key : ranked) key.forced = false;
  std::sort(ranked.begin(), ranked.end(), semantics::ranks_before);
  std::vector<int> codes = assign_official(row, ranked);
  for (const RankKey& key : with_flags) {
    if (!key.forced) continue;
    for (std::size_t p = 0; p < ranked.size(); ++p) {
      if (ranked[p].kv_block == key.kv_block) codes[p] = semantics::kFinestLevel;
    }
  }
  return codes;
}

// ---- S-28 ---------------------------------------------------------------------------------------

/// A candidate of a row.
struct Pair {
  index_t q_block;
  index_t kv_block;
  int rank_class;
};

/// The pairs of a row. Without a forced block its first-ranked one counts as forced, if a row must
/// have one.
std::vector<Pair> pairs_of(const LevelRow& row) {
  const std::vector<RankKey> found = candidates(row);
  const auto first = std::min_element(found.begin(), found.end(), semantics::ranks_before);
  const bool needs_first = row.config().min_full_blocks > 0;
  std::vector<Pair> pairs;
  for (auto key = found.begin(); key != found.end(); ++key) {
    const bool is_forced = key->forced || (needs_first && key == first);
    const int rank_class =
        is_forced ? semantics::kForcedClass : semantics::rank_class(key->importance);
    pairs.push_back({row.q_block, key->kv_block, rank_class});
  }
  return pairs;
}

/// `rows`: all of one head. `codes`: [Nq, Nk].
void assign_head(const std::vector<LevelRow>& rows, LevelCode* codes) {
  const core::Geometry& geometry = rows.front().geometry;
  std::vector<Pair> pairs;
  for (const LevelRow& row : rows) {
    const std::vector<Pair> own = pairs_of(row);
    pairs.insert(pairs.end(), own.begin(), own.end());
  }
  std::vector<std::uint32_t> from(semantics::kRankClasses + 1, 0);
  for (const Pair& pair : pairs) ++from[to_size(pair.rank_class)];
  for (std::size_t c = semantics::kRankClasses; c-- > 0;) from[c] += from[c + 1];
  const semantics::HeadCuts cuts =
      semantics::head_cuts({from.data()}, rows.front().budget, core::head_rule(geometry.config));

  std::fill_n(codes, geometry.num_q_blocks * geometry.num_kv_blocks, kSkip);
  const std::uint8_t* const caps = rows.front().caps;
  for (const Pair& pair : pairs) {
    const int code = semantics::code_of_pair(
        cuts, pair.rank_class,
        semantics::pair_fraction(pair.q_block, pair.kv_block, geometry.num_kv_blocks));
    const int cap = caps == nullptr ? semantics::kCoarsestLevel : caps[pair.kv_block];
    codes[pair.q_block * geometry.num_kv_blocks + pair.kv_block] =
        static_cast<LevelCode>(semantics::capped_level(code, cap));
  }
}

void assign_row(const LevelRow& row, LevelCode* codes) {
  std::fill_n(codes, row.geometry.num_kv_blocks, kSkip);
  std::vector<RankKey> ranked = candidates(row);
  std::vector<int> ranked_codes;
  if (row.is_official()) {
    ranked_codes = assign_then_force(row, ranked);
  } else {
    std::sort(ranked.begin(), ranked.end(), semantics::ranks_before);
    ranked_codes = assign(row, ranked);
  }
  for (std::size_t p = 0; p < ranked.size(); ++p) {
    const index_t j = ranked[p].kv_block;
    const int cap = row.caps == nullptr ? semantics::kCoarsestLevel : row.caps[j];
    codes[j] = static_cast<LevelCode>(semantics::capped_level(ranked_codes[p], cap));
  }
}

}  // namespace

void levels(const core::StageContext& context, const core::LevelsParams& params) {
  const core::Geometry& geometry = context.geometry;
  const core::RowChunk& chunk = params.chunk;
  const index_t num_kv_blocks = geometry.num_kv_blocks;
  const float* importance = params.importance;
  const auto of_head = [&](const auto* values, index_t kv_head) {
    return values == nullptr ? nullptr : values + kv_head * num_kv_blocks;
  };
  for (index_t b = chunk.batch_begin; b < chunk.batch_end; ++b) {
    const index_t kv_length = key_length(geometry, params.inputs, b);
    for (index_t h = 0; h < geometry.shape.heads_q; ++h) {
      const index_t kv_head = b * geometry.shape.heads_kv + h / geometry.heads_per_kv();
      const float* weights = of_head(params.weights, kv_head);
      const std::uint8_t* caps = of_head(params.caps, kv_head);
      std::vector<LevelRow> rows;
      for (index_t i = chunk.q_block_begin; i < chunk.q_block_end; ++i) {
        rows.push_back({geometry, b, h, i, kv_length, importance, weights, caps,
                        params.budget(geometry.config, h)});
        if (importance != nullptr) importance += num_kv_blocks;
      }
      if (core::shares_budget(geometry.config)) {
        assign_head(rows, params.levels.row(b, h, 0));
        continue;
      }
      for (const LevelRow& row : rows) assign_row(row, params.levels.row(b, h, row.q_block));
    }
  }
}

}  // namespace psa::reference
