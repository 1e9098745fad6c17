// SPDX-License-Identifier: Apache-2.0

// Levels stage: from the importance of a row's blocks to their levels (S-13 to S-18, S-22(b) to
// (f)).
//
//   in   importance of a chunk (null: all equal), weights [B, Hkv, Nk] and caps [B, Hkv, Nk] (null:
//        none), key lengths
//   out  levels [B, Hq, Nq, Nk], the rows of the chunk
//
// One work item is one row. It gathers the candidates, ranks them, turns the budgets into cuts of
// the ranking in one walk, and writes the codes back in the order of the blocks. Everything is
// exact, so that the map is bit-equal to the reference's. Budgets that query blocks share are the
// work of head_levels.cpp.
//
// Cost: a radix sort of Nk entries of 8 bytes, four passes or fewer. A comparison sort with
// semantics::ranks_before took 27 us instead of 6 us at Nk = 512, which made it the dearest part of
// the selection with small blocks.

#include "semantics/levels.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <span>
#include <utility>

#include "cpu/stages.hpp"
#include "semantics/official.hpp"

namespace psa::cpu {
namespace {

using semantics::Range;

/// A block of one row. Fewer bits rank earlier.
struct Candidate {
  std::uint32_t bits;
  std::int32_t kv_block;
};

struct LevelScratch {
  Candidate* candidates;  // [Nk]
  Candidate* sorted;      // [Nk]
  float* importance;      // [Nk] of the ranked candidates, as they are ranked
  LevelCode* codes;       // [Nk] of the ranked candidates
  std::uint8_t* forced;   // [Nk] by KV block
  double* shares;         // [Nk], cumulative; compat = official only
};

LevelScratch carve(Ledger& ledger, index_t num_kv_blocks) {
  const auto count = static_cast<std::size_t>(num_kv_blocks);
  return {ledger.take<Candidate>(count),    ledger.take<Candidate>(count),
          ledger.take<float>(count),        ledger.take<LevelCode>(count),
          ledger.take<std::uint8_t>(count), ledger.take<double>(count)};
}

/// One row of the level map.
struct Row {
  const core::Geometry& geometry;
  index_t q_block;
  index_t kv_length;
  const float* importance;   // [Nk] or null
  const float* weights;      // [Nk] or null
  const std::uint8_t* caps;  // [Nk] or null
  const float* budget;       // [kMaxLevels]

  [[nodiscard]] float importance_of(index_t kv_block) const {
    return importance == nullptr ? 0.0F : semantics::ranked_importance(importance[kv_block]);
  }
  [[nodiscard]] float weighed_importance_of(index_t kv_block) const {
    if (importance == nullptr) return 0.0F;
    const float weight = weights == nullptr ? 1.0F : weights[kv_block];
    return semantics::ranked_importance(
        semantics::weighed_importance(importance[kv_block], weight));
  }
};

LevelCode rest_code(const Config& config) { return reads_means(config.rest) ? kBlockMean : kSkip; }

float share_of(const Config& config, int level) {
  return config.budget[static_cast<std::size_t>(level - 1)];
}

/// The order of semantics::ranks_before but for ties, which a stable sort leaves in the order of
/// the blocks.
std::uint32_t rank_bits(const semantics::RankKey& key) {
  constexpr std::uint32_t kSign = 0x80000000U;
  if (key.forced) return 0;
  const auto bits = std::bit_cast<std::uint32_t>(key.importance + 0.0F);  // -0 becomes 0
  const std::uint32_t rising = (bits & kSign) != 0 ? ~bits : bits | kSign;
  return ~rising;  // at least 0x007FFFFF, that of +inf
}

/// Blocks that are not hidden, by rising KV block; notes which are forced.
std::span<Candidate> gather_candidates(const Row& row, const LevelScratch& scratch) {
  const core::Geometry& g = row.geometry;
  const bool forced_rank = g.config.compat != Compat::kOfficial;  // S-22(f)
  const Range queries = semantics::block_range(row.q_block, g.config.block_q, g.shape.len_q);
  std::size_t count = 0;
  for (index_t j = 0; j < g.num_kv_blocks; ++j) {
    const Range keys = semantics::block_range(j, g.config.block_kv, row.kv_length);
    const auto visibility =
        semantics::block_visibility(g.config.causal, queries, keys, g.shape.len_q, row.kv_length);
    if (visibility == semantics::Visibility::kHidden) continue;
    const bool forced = semantics::is_forced(g.forced, queries, keys, j, visibility);
    scratch.forced[j] = forced ? 1 : 0;
    const std::uint32_t bits = rank_bits({forced && forced_rank, row.weighed_importance_of(j), j});
    scratch.candidates[count++] = {bits, static_cast<std::int32_t>(j)};
  }
  return {scratch.candidates, count};
}

/// Stable sort by bits. The result lies in either of the two buffers.
std::span<const Candidate> sort_by_rank(std::span<Candidate> from, Candidate* to) {
  constexpr int kDigits = 4;
  std::array<std::array<std::int32_t, 256>, kDigits> counts{};
  const auto digit_of = [](const Candidate& c, int digit) {
    return static_cast<std::size_t>(c.bits >> (8 * digit) & 0xFFU);
  };
  for (const Candidate& c : from) {
    for (int d = 0; d < kDigits; ++d) ++counts[static_cast<std::size_t>(d)][digit_of(c, d)];
  }
  for (int d = 0; d < kDigits && !from.empty(); ++d) {
    auto& next = counts[static_cast<std::size_t>(d)];
    const auto all = static_cast<std::int32_t>(from.size());
    if (next[digit_of(from.front(), d)] == all) continue;  // the same digit everywhere
    std::int32_t first = 0;
    for (std::int32_t& n : next) first += std::exchange(n, first);
    for (const Candidate& c : from) to[next[digit_of(c, d)]++] = c;
    Candidate* done = from.data();
    from = {to, from.size()};
    to = done;
  }
  return from;
}

/// Gives the ranks from `last` up to `end` a code; returns the new last rank.
index_t fill_run(LevelCode* codes, index_t last, index_t end, int level) {
  if (end <= last) return last;
  std::fill(codes + last, codes + end, static_cast<LevelCode>(level));
  return end;
}

/// S-15, one budget after the other: budgets do not decrease, so one walk over the ranks serves
/// all.
class ThresholdWalk {
 public:
  explicit ThresholdWalk(std::span<const float> ranked) : ranked_(ranked) {
    for (const float importance : ranked) largest_ = std::max(largest_, importance);
    for (const float importance : ranked) total_ += semantics::threshold_mass(importance, largest_);
  }

  index_t cut(float share) {
    while (!semantics::threshold_reached(mass_, total_, share)) {
      mass_ += semantics::threshold_mass(ranked_[cut_++], largest_);
    }
    return static_cast<index_t>(cut_);
  }

 private:
  std::span<const float> ranked_;
  float largest_ = -semantics::kLargestFloat;
  std::uint64_t total_ = 0;
  std::uint64_t mass_ = 0;
  std::size_t cut_ = 0;
};

/// S-26. The least importance of a block mean that is read. Of the candidates the first `forced`
/// are forced, and the rule gives the first `last_cut` a level.
float least_of_means(const Row& row, std::span<const Candidate> candidates, index_t forced,
                     index_t last_cut) {
  const bool has_level = last_cut > forced;
  const auto first = candidates.begin() + forced;
  const auto end = has_level ? candidates.begin() + last_cut : candidates.end();
  float least =
      has_level ? std::numeric_limits<float>::infinity() : -std::numeric_limits<float>::infinity();
  for (auto c = first; c != end; ++c) {
    const float own = row.importance_of(c->kv_block);
    least = has_level ? std::min(least, own) : std::max(least, own);
  }
  const Config& config = row.geometry.config;
  return semantics::least_of_means(least, config.rest_cutoff, config.block_kv);
}

/// S-14, S-15, S-17, S-18, S-26. `candidates` are ranked, by the importance `ranked`.
void assign(const Row& row, std::span<const Candidate> candidates, std::span<const float> ranked,
            index_t forced, LevelCode* codes) {
  const Config& config = row.geometry.config;
  const auto count = static_cast<index_t>(ranked.size());
  const auto rows = semantics::candidate_span(config.causal, config.block_q, config.block_kv,
                                              row.geometry.shape.len_q, row.kv_length);
  const bool by_quota = config.rule == LevelRule::kQuota;
  ThresholdWalk walk(by_quota ? std::span<const float>() : ranked);
  std::array<index_t, kMaxLevels> cuts{};
  index_t last_cut = 0;
  for (int level = semantics::kFinestLevel; level <= config.num_levels; ++level) {
    const float share = row.budget[level - 1];
    index_t cut =
        by_quota ? semantics::quota_cut(count, rows, row.q_block, share) : walk.cut(share);
    if (level == semantics::kFinestLevel) {
      cut = semantics::full_cut(cut, forced, config.min_full_blocks, count);
    }
    cuts.at(static_cast<std::size_t>(level - 1)) = cut;
    last_cut = std::max(last_cut, cut);
  }
  std::fill_n(codes, count, rest_code(config));
  index_t freed = 0;
  if (config.rest_cutoff > 0.0F && reads_means(config.rest)) {
    const float least = least_of_means(row, candidates, forced, last_cut);
    index_t kept = last_cut;
    for (index_t p = last_cut; p < count; ++p) {
      if (row.importance_of(candidates[static_cast<std::size_t>(p)].kv_block) >= least) {
        ++kept;
      } else {
        codes[p] = kSkip;
      }
    }
    if (by_quota) {
      freed =
          semantics::freed_blocks(count, kept, last_cut, rows, row.budget[config.num_levels - 1],
                                  config.block_kv, row.q_block);
    }
  }
  index_t last = 0;
  for (int level = semantics::kFinestLevel; level <= config.num_levels; ++level) {
    const index_t cut = cuts.at(static_cast<std::size_t>(level - 1)) + freed;
    last = fill_run(codes, last, std::min(count, cut), level);
  }
}

/// S-22. Cumulative shares of the ranked blocks; no information counts as 0.
void cumulate_shares(std::span<const float> ranked, double* shares) {
  double sum = 0.0;
  for (std::size_t p = 0; p < ranked.size(); ++p) {
    sum += static_cast<double>(std::max(ranked[p], 0.0F));
    shares[p] = sum;
  }
  for (std::size_t p = 0; p < ranked.size(); ++p) shares[p] = sum > 0.0 ? shares[p] / sum : 0.0;
}

/// S-22(d). Threshold bands of causal calls.
void assign_bands(const Config& config, std::span<const double> shares, LevelCode* codes) {
  for (std::size_t p = 0; p < shares.size(); ++p) {
    double lower = 0.0;
    for (int level = semantics::kFinestLevel; level <= config.num_levels; ++level) {
      const auto upper = static_cast<double>(share_of(config, level));
      if (semantics::official_is_in_band(shares[p], lower, upper)) {
        codes[p] = static_cast<LevelCode>(level);
      }
      lower = upper;
    }
  }
}

/// S-22(b) to (d). End of the run of `level` that starts at rank `last`.
index_t official_end(const Config& config, std::span<const double> shares, int level,
                     index_t last) {
  const auto count = static_cast<index_t>(shares.size());
  const float share = share_of(config, level);
  if (config.causal) return semantics::official_causal_quota_cut(count, share);
  const auto upto = static_cast<double>(share);
  const index_t factor = semantics::pool_factor(level, config.block_kv);
  if (config.rule == LevelRule::kQuota) {
    const index_t cut = semantics::official_quota_cut(count, upto);
    return semantics::official_aligned_end(last, cut, factor, count);
  }
  const auto within =
      static_cast<index_t>(std::count_if(shares.begin(), shares.end(), [&](double s) {
        return semantics::official_is_within(s, upto);
      }));
  const index_t cut = semantics::official_threshold_cut(within, last, count);
  const index_t end = semantics::official_aligned_end(last, cut, factor, count);
  const bool finest = level == semantics::kFinestLevel;
  return finest ? std::max(end, semantics::official_min_full(count)) : end;
}

/// S-22(b) to (d), before forced blocks are overwritten.
void assign_official(const Config& config, std::span<const float> ranked,
                     const LevelScratch& scratch) {
  cumulate_shares(ranked, scratch.shares);
  const std::span<const double> shares(scratch.shares, ranked.size());
  std::fill_n(scratch.codes, ranked.size(), rest_code(config));
  if (config.causal && config.rule == LevelRule::kThreshold) {
    assign_bands(config, shares, scratch.codes);
    return;
  }
  index_t last = 0;
  for (int level = semantics::kFinestLevel; level <= config.num_levels; ++level) {
    last = fill_run(scratch.codes, last, official_end(config, shares, level, last), level);
  }
}

void assign_row(const Row& row, const LevelScratch& scratch, LevelCode* codes) {
  const Config& config = row.geometry.config;
  const std::span<const Candidate> ranked =
      sort_by_rank(gather_candidates(row, scratch), scratch.sorted);
  index_t forced = 0;
  for (std::size_t p = 0; p < ranked.size(); ++p) {
    scratch.importance[p] = row.weighed_importance_of(ranked[p].kv_block);
    forced += scratch.forced[ranked[p].kv_block];
  }
  const std::span<const float> importance(scratch.importance, ranked.size());
  const bool official = config.compat == Compat::kOfficial;
  if (official) {
    assign_official(config, importance, scratch);
  } else {
    assign(row, ranked, importance, forced, scratch.codes);
  }
  std::fill_n(codes, row.geometry.num_kv_blocks, kSkip);
  for (std::size_t p = 0; p < ranked.size(); ++p) {
    const std::int32_t j = ranked[p].kv_block;
    const bool overwritten = official && scratch.forced[j] != 0;  // S-22(f)
    const int code = overwritten ? semantics::kFinestLevel : scratch.codes[p];
    const int cap = row.caps == nullptr ? semantics::kCoarsestLevel : row.caps[j];
    codes[j] = static_cast<LevelCode>(semantics::capped_level(code, cap));
  }
}

}  // namespace

void levels(const StageContext& context, const core::LevelsParams& params) {
  const core::Geometry& g = context.geometry;
  if (core::shares_budget(g.config)) return head_levels(context, params);
  const core::RowChunk& chunk = params.chunk;
  const index_t num_rows = chunk.batches() * g.shape.heads_q * chunk.q_blocks();
  context.executor.for_each(num_rows, [&](index_t item, int worker) {
    Ledger ledger(context.worker_scratch(worker));
    const LevelScratch scratch = carve(ledger, g.num_kv_blocks);
    const index_t head = item / chunk.q_blocks();  // of the chunk
    const index_t batch = chunk.batch_begin + head / g.shape.heads_q;
    const index_t h = head % g.shape.heads_q;
    const index_t q_block = chunk.q_block_begin + item % chunk.q_blocks();
    const index_t kv_head = batch * g.shape.heads_kv + h / g.heads_per_kv();
    const Row row{
        .geometry = g,
        .q_block = q_block,
        .kv_length = params.inputs.kv_length(batch),
        .importance =
            params.importance == nullptr ? nullptr : params.importance + item * g.num_kv_blocks,
        .weights = params.weights == nullptr ? nullptr : params.weights + kv_head * g.num_kv_blocks,
        .caps = params.caps == nullptr ? nullptr : params.caps + kv_head * g.num_kv_blocks,
        .budget = params.budget(g.config, h)};
    assign_row(row, scratch, params.levels.row(batch, h, q_block));
  });
}

std::size_t levels_scratch(const core::Geometry& geometry) {
  if (core::shares_budget(geometry.config)) return head_levels_scratch();
  Ledger ledger(nullptr);
  carve(ledger, geometry.num_kv_blocks);
  return ledger.bytes();
}

}  // namespace psa::cpu
