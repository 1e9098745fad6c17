// SPDX-License-Identifier: Apache-2.0

// Levels stage where the query blocks of a head share its budget (S-28).
//
//   in   importance of a chunk of whole heads (null: all equal), weights [B, Hkv, Nk] and caps
//        [B, Hkv, Nk] (null: none), key lengths
//   out  levels [B, Hq, Nq, Nk], the heads of the chunk
//
// One work item is one head. A pass over its pairs counts their classes, of which the cuts follow;
// another gives each pair its code. Classes are computed twice: they would take as much memory as
// half the importance. All is exact, so that the map is bit-equal to the reference's.
//
// Cost: two reads of the importance, nothing is sorted.

#include <algorithm>
#include <span>

#include "cpu/stages.hpp"
#include "semantics/head_budget.hpp"

namespace psa::cpu {
namespace {

using semantics::Range;

/// The counts of a head's classes, in the worker's scratch.
std::span<std::uint32_t> carve(Ledger& ledger) {
  constexpr std::size_t kCounts = semantics::kRankClasses + 1;
  return {ledger.take<std::uint32_t>(kCounts), kCounts};
}

/// The pairs of one head.
struct HeadPairs {
  const core::Geometry& geometry;
  index_t kv_length;
  const float* importance;  // [Nq, Nk] or null
  const float* weights;     // [Nk] or null

  [[nodiscard]] float importance_of(index_t q_block, index_t kv_block) const {
    if (importance == nullptr) return 0.0F;
    const float own = importance[q_block * geometry.num_kv_blocks + kv_block];
    return semantics::weighed_importance(own, weights == nullptr ? 1.0F : weights[kv_block]);
  }

  [[nodiscard]] bool is_forced(Range queries, index_t kv_block) const {
    const Range keys = semantics::block_range(kv_block, geometry.config.block_kv, kv_length);
    return semantics::is_forced(geometry.forced, queries, keys, kv_block,
                                semantics::Visibility::kFull);
  }

  /// The block that a row without forced blocks must have; -1: none.
  [[nodiscard]] index_t first_block(index_t q_block, Range queries, index_t blocks) const {
    if (geometry.config.min_full_blocks == 0) return -1;
    index_t first = -1;
    float most = 0.0F;
    for (index_t j = 0; j < blocks; ++j) {
      if (is_forced(queries, j)) return -1;
      const float own = semantics::ranked_importance(importance_of(q_block, j));
      if (first >= 0 && !(own > most)) continue;
      first = j;
      most = own;
    }
    return first;
  }

  /// Calls body(q_block, kv_block, rank_class) for all pairs.
  template <typename Body>
  void for_each(const Body& body) const {
    const Config& config = geometry.config;
    const index_t blocks = semantics::ceil_div(kv_length, config.block_kv);
    for (index_t i = 0; i < geometry.num_q_blocks; ++i) {
      const Range queries = semantics::block_range(i, config.block_q, geometry.shape.len_q);
      const index_t first = first_block(i, queries, blocks);
      for (index_t j = 0; j < blocks; ++j) {
        const bool must_have = j == first || is_forced(queries, j);
        body(i, j,
             must_have ? semantics::kForcedClass : semantics::rank_class(importance_of(i, j)));
      }
    }
  }
};

/// `counts` is overwritten.
semantics::HeadCuts cuts_of(const HeadPairs& pairs, const float* budget,
                            std::span<std::uint32_t> counts) {
  std::fill(counts.begin(), counts.end(), 0);
  pairs.for_each([&](index_t /*q_block*/, index_t /*kv_block*/, int rank_class) {
    ++counts[static_cast<std::size_t>(rank_class)];
  });
  for (std::size_t c = semantics::kRankClasses; c-- > 0;) counts[c] += counts[c + 1];
  return semantics::head_cuts({counts.data()}, budget, core::head_rule(pairs.geometry.config));
}

/// `levels`: [Nq, Nk].
void assign(const HeadPairs& pairs, const semantics::HeadCuts& cuts, const std::uint8_t* caps,
            LevelCode* levels) {
  const index_t num_kv_blocks = pairs.geometry.num_kv_blocks;
  std::fill_n(levels, pairs.geometry.num_q_blocks * num_kv_blocks, kSkip);
  pairs.for_each([&](index_t i, index_t j, int rank_class) {
    const int code =
        semantics::code_of_pair(cuts, rank_class, semantics::pair_fraction(i, j, num_kv_blocks));
    const int cap = caps == nullptr ? semantics::kCoarsestLevel : caps[j];
    levels[i * num_kv_blocks + j] = static_cast<LevelCode>(semantics::capped_level(code, cap));
  });
}

}  // namespace

void head_levels(const StageContext& context, const core::LevelsParams& params) {
  const core::Geometry& g = context.geometry;
  context.executor.for_each(
      params.chunk.batches() * g.shape.heads_q, [&](index_t item, int worker) {
        Ledger ledger(context.worker_scratch(worker));
        const index_t batch = params.chunk.batch_begin + item / g.shape.heads_q;
        const index_t h = item % g.shape.heads_q;
        const index_t kv_head = batch * g.shape.heads_kv + h / g.heads_per_kv();
        const auto of_head = [&](const auto* values) {
          return values == nullptr ? nullptr : values + kv_head * g.num_kv_blocks;
        };
        const HeadPairs pairs{
            .geometry = g,
            .kv_length = params.inputs.kv_length(batch),
            .importance = params.importance == nullptr
                              ? nullptr
                              : params.importance + item * g.num_q_blocks * g.num_kv_blocks,
            .weights = of_head(params.weights)};
        const semantics::HeadCuts cuts = cuts_of(pairs, params.budget(g.config, h), carve(ledger));
        assign(pairs, cuts, of_head(params.caps), params.levels.row(batch, h, 0));
      });
}

std::size_t head_levels_scratch() {
  Ledger ledger(nullptr);
  carve(ledger);
  return ledger.bytes();
}

}  // namespace psa::cpu
