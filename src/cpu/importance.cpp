// SPDX-License-Identifier: Apache-2.0

// Importance stage: how much each query block needs each KV block (S-9 to S-13).
//
//   in   q [B, Hq, Lq, D], k [B, Hkv, Lkv, D]; pooled_lse: the pooled keys of its sub-blocks
//   out  importance of a chunk
//
// One work item is as many query blocks of one head as fill a query pack of 128 samples, groups or
// means; it meets all keys of the estimator tile by tile:
//
//   scores ──► per KV block: max[j] = largest logit, sum[j] = sum of exp2(logit - max[j])
//          ──► over all blocks: the query's shares of mass, or ratios to its largest logit
//          ──► over the queries of a block: mean, or maximum
//
// The maxima are kept per KV block, so that one pass over the keys is enough: a second pass would
// double the cost, and rescaling sums whenever a maximum rises would make blocks depend on order.
// A query that sees no key is left out; so is one whose every logit is NaN.
//
// Cost: D multiply-adds per logit (see importance_probes.hpp for their number), one exponential per
// logit and one per query and block. Scratch 2 * Nk * 128 floats.

#include <algorithm>
#include <cmath>
#include <new>
#include <numbers>

#include "cpu/importance_probes.hpp"
#include "cpu/stages.hpp"

namespace psa::cpu {
namespace {

using core::ImportanceParams;
using core::RowChunk;
using semantics::Range;

struct ImportanceScratch {
  ProbeScratch probe;
  ProbeQueries* queries;
  ProbeKeys* keys;
  std::int32_t* first_query;  // [kMaxTileKeys]
  float* max;                 // [Nk, queries]
  float* sum;                 // [Nk, queries]
  float* total;               // [queries]
  float* weight;              // [Nk]
};

ImportanceScratch carve(Ledger& ledger, const core::Geometry& g, Compute compute, int parts) {
  const int dim = static_cast<int>(g.shape.head_dim);
  const auto blocks = static_cast<std::size_t>(g.num_kv_blocks);
  ImportanceScratch s{};
  s.probe.pack_bytes = query_pack_bytes(compute, kMaxQueries, dim);
  s.probe.queries = ledger.take<std::byte>(s.probe.pack_bytes * static_cast<std::size_t>(parts));
  s.probe.keys = ledger.take<std::byte>(tile_bytes(compute, dim));
  s.probe.scores = ledger.take<float>(score_floats(kMaxQueries));
  s.probe.rows = ledger.take<float>(output_floats(kMaxQueries, dim));
  s.probe.zero_row = ledger.take<float>(static_cast<std::size_t>(dim));
  s.probe.index = ledger.take<std::int32_t>(kMaxQueries);
  s.probe.q_samples = ledger.take<SampledOffsets>(1);
  s.probe.kv_samples = ledger.take<SampledOffsets>(1);
  s.queries = ledger.take<ProbeQueries>(1);
  s.keys = ledger.take<ProbeKeys>(1);
  s.first_query = ledger.take<std::int32_t>(kMaxTileKeys);
  s.max = ledger.take<float>(blocks * kMaxQueries);
  s.sum = ledger.take<float>(blocks * kMaxQueries);
  s.total = ledger.take<float>(kMaxQueries);
  s.weight = ledger.take<float>(blocks);
  return s;
}

/// KV blocks that some query of the item may see: [0, result).
index_t visible_blocks(const ProbeItem& item) {
  const core::Geometry& g = item.geometry;
  const Range queries{item.q_blocks.begin * g.config.block_q,
                      std::min(item.q_blocks.end * g.config.block_q, g.shape.len_q)};
  index_t j = 0;
  for (; j < g.num_kv_blocks; ++j) {
    const Range keys = semantics::block_range(j, g.config.block_kv, item.kv_length());
    if (semantics::block_visibility(g.config.causal, queries, keys, g.shape.len_q,
                                    item.kv_length()) == semantics::Visibility::kHidden) {
      break;
    }
  }
  return j;
}

/// First query of the pack that sees each key.
void hide_keys(const ProbeQueries& queries, const ProbeKeys& keys, std::int32_t* first_query) {
  const auto end = queries.position.begin() + queries.count;
  for (int k = 0; k < keys.count; ++k) {
    const index_t key = keys.position[static_cast<std::size_t>(k)];
    const auto first = std::partition_point(queries.position.begin(), end, [&](index_t query) {
      return !semantics::is_group_visible(true, key, query);
    });
    first_query[k] = static_cast<std::int32_t>(first - queries.position.begin());
  }
}

/// max and sum of every visible block for every query: [blocks, padded queries].
void reduce_blocks(const Probe& probe, const ProbeItem& item, index_t blocks,
                   const ImportanceScratch& s) {
  const core::Geometry& g = item.geometry;
  const bool wants_sums = g.config.importance != Importance::kSampledMax;
  const int queries = padded_queries(s.queries->count);
  const index_t blocks_per_tile = kMaxTileKeys / probe.keys_per_block();
  for (index_t j = 0; j < blocks; j += blocks_per_tile) {
    TileStep step;
    step.shape = {s.queries->count, static_cast<int>(g.shape.head_dim)};
    step.queries = item.scratch.queries;
    step.key_tile = item.scratch.keys;
    step.scores = item.scratch.scores;
    step.rule.scale_log2 = g.scale * probe.scale() * std::numbers::log2e_v<float>;
    probe.score_keys(item, {j, std::min(j + blocks_per_tile, blocks)}, step, *s.keys);
    if (g.config.causal) {
      hide_keys(*s.queries, *s.keys, s.first_query);
      step.rule.first_query = s.first_query;
    }
    KeyBlocks reduction{.block_keys = probe.keys_per_block(), .result = s.max + j * queries};
    probe.tiles().block_max(step, reduction);
    if (!wants_sums) continue;
    reduction.reference = reduction.result;
    reduction.reference_stride = queries;
    reduction.result = s.sum + j * queries;
    probe.tiles().block_sum_exp(step, reduction);
  }
}

/// Importance of one block: the mean of its queries' shares (S-10 to S-12).
float mean_share(const float* share, const float* total, Range queries) {
  float sum = 0.0F;
  int seeing = 0;
  for (index_t r = queries.begin; r < queries.end; ++r) {
    if (total[r] == 0.0F) continue;
    sum += share[r];
    ++seeing;
  }
  return seeing == 0 ? 0.0F : sum / static_cast<float>(seeing);
}

/// Importance of one block: the largest of its queries' ratios, which come as exponents (S-9).
float largest_ratio(const float* ratio_log2, const float* total, Range queries) {
  float largest = -std::numeric_limits<float>::infinity();
  for (index_t r = queries.begin; r < queries.end; ++r) {
    if (total[r] != 0.0F) largest = std::max(largest, ratio_log2[r]);
  }
  return std::exp2(largest);
}

/// The rows of `importance` [q_blocks, Nk] of one item.
void estimate_item(const Probe& probe, const RowKernels& rows, const ProbeItem& item,
                   const ImportanceScratch& s, float* importance) {
  const core::Geometry& g = item.geometry;
  probe.load_queries(item, *s.queries);
  const index_t blocks = visible_blocks(item);
  const int queries = padded_queries(s.queries->count);
  reduce_blocks(probe, item, blocks, s);
  for (index_t j = 0; j < blocks; ++j) {
    const Range tokens = semantics::block_range(j, g.config.block_kv, item.kv_length());
    s.weight[j] = probe.key_weight(tokens.size());
  }
  const bool is_max = g.config.importance == Importance::kSampledMax;
  const MassTask task{.blocks = static_cast<int>(blocks),
                      .lanes = queries,
                      .max = s.max,
                      .weight = s.weight,
                      .sum = s.sum,
                      .total = s.total};
  is_max ? rows.peak_ratios(task) : rows.masses(task);
  for (index_t i = 0; i < item.q_blocks.size(); ++i) {
    const auto block = static_cast<std::size_t>(i);
    const Range lanes{s.queries->block_begin[block], s.queries->block_begin[block + 1]};
    float* row = importance + i * g.num_kv_blocks;
    for (index_t j = 0; j < blocks; ++j) {
      const float* of_block = s.sum + j * queries;
      row[j] =
          is_max ? largest_ratio(of_block, s.total, lanes) : mean_share(of_block, s.total, lanes);
    }
    std::fill(row + blocks, row + g.num_kv_blocks, 0.0F);
  }
}

void estimate(const Isa& isa, const Probe& probe, const StageContext& context,
              const ImportanceParams& params) {
  const core::Geometry& g = context.geometry;
  const RowChunk& chunk = params.chunk;
  const index_t blocks_per_item = kMaxQueries / probe.queries_per_block();
  const index_t items_per_head = semantics::ceil_div(chunk.q_blocks(), blocks_per_item);
  const auto carve_for = [&](int worker) {
    Ledger ledger(context.worker_scratch(worker));
    return carve(ledger, g, probe.tiles().compute, probe.parts());
  };
  for (int worker = 0; worker < context.executor.workers(); ++worker) {
    const ImportanceScratch s = carve_for(worker);
    std::fill_n(s.probe.zero_row, g.shape.head_dim, 0.0F);
    new (s.probe.q_samples) SampledOffsets;
    new (s.probe.kv_samples) SampledOffsets;
    new (s.queries) ProbeQueries;
    new (s.keys) ProbeKeys;
  }
  const index_t heads = chunk.batches() * g.shape.heads_q;
  context.executor.for_each(heads * items_per_head, [&](index_t i, int worker) {
    const ImportanceScratch s = carve_for(worker);
    const index_t head = i / items_per_head;
    const index_t first = chunk.q_block_begin + i % items_per_head * blocks_per_item;
    const ProbeItem item{.geometry = g,
                         .params = params,
                         .batch = chunk.batch_begin + head / g.shape.heads_q,
                         .head_q = head % g.shape.heads_q,
                         .q_blocks = {first, std::min(first + blocks_per_item, chunk.q_block_end)},
                         .scratch = s.probe};
    const index_t row = head * chunk.q_blocks() + first - chunk.q_block_begin;
    estimate_item(probe, *isa.rows, item, s, params.importance + row * g.num_kv_blocks);
  });
}

/// S-13. The heads of a KV group, `group` of the chunk, get the mean of their normalised rows.
void share_row(const core::Geometry& g, const ImportanceParams& params, index_t group,
               index_t row) {
  const index_t heads = g.heads_per_kv();
  const index_t head_floats = params.chunk.q_blocks() * g.num_kv_blocks;
  float* first = params.importance + group * heads * head_floats + row * g.num_kv_blocks;
  float* shared = first;  // of the first head, once it is normalised
  for (index_t h = 0; h < heads; ++h) {
    const float* from = first + h * head_floats;
    float sum = 0.0F;
    for (index_t j = 0; j < g.num_kv_blocks; ++j) sum += from[j];
    const bool counts = sum > 0.0F && std::isfinite(sum);
    for (index_t j = 0; j < g.num_kv_blocks; ++j) {
      const float share = counts ? from[j] / sum : 0.0F;
      shared[j] = h == 0 ? share : shared[j] + share;
    }
  }
  for (index_t j = 0; j < g.num_kv_blocks; ++j) shared[j] /= static_cast<float>(heads);
  for (index_t h = 1; h < heads; ++h) {
    std::copy_n(shared, g.num_kv_blocks, first + h * head_floats);
  }
}

/// S-8: the caller's scores of hidden blocks do not count.
void hide_blocks(const core::Geometry& g, const ImportanceParams& params, index_t row) {
  const core::RowChunk& chunk = params.chunk;
  const index_t q_block = chunk.q_block_begin + row % chunk.q_blocks();
  const index_t batch = chunk.batch_begin + row / (g.shape.heads_q * chunk.q_blocks());
  const index_t kv_length = params.inputs.kv_length(batch);
  const Range queries = semantics::block_range(q_block, g.config.block_q, g.shape.len_q);
  for (index_t j = 0; j < g.num_kv_blocks; ++j) {
    const Range keys = semantics::block_range(j, g.config.block_kv, kv_length);
    if (semantics::block_visibility(g.config.causal, queries, keys, g.shape.len_q, kv_length) ==
        semantics::Visibility::kHidden) {
      params.importance[row * g.num_kv_blocks + j] = 0.0F;
    }
  }
}

}  // namespace

void importance(const Isa& isa, const StageContext& context, const ImportanceParams& params) {
  const core::Geometry& g = context.geometry;
  const index_t q_blocks = params.chunk.q_blocks();
  switch (g.config.importance) {
    case Importance::kSampledMax:
    case Importance::kSampledMass:
      estimate(isa, SampleProbe(isa, g), context, params);
      break;
    case Importance::kAntidiagonal:
      estimate(isa, AntidiagonalProbe(isa, g), context, params);
      break;
    case Importance::kPooledLse:
      estimate(isa, PooledProbe(isa, g), context, params);
      break;
    case Importance::kUserScores:
      context.executor.for_each(params.chunk.batches() * g.shape.heads_q * q_blocks,
                                [&](index_t row, int) { hide_blocks(g, params, row); });
      break;
  }
  if (!g.config.share_group_map) return;
  context.executor.for_each(
      params.chunk.batches() * g.shape.heads_kv * q_blocks,
      [&](index_t item, int) { share_row(g, params, item / q_blocks, item % q_blocks); });
}

std::size_t importance_scratch(const Isa& isa, const core::Geometry& geometry) {
  const ProblemShape& shape = geometry.shape;
  const bool by_groups = geometry.config.importance == Importance::kAntidiagonal;
  const int parts = by_groups ? geometry.config.antidiagonal_stride : 1;
  const bool pooled = geometry.config.importance == Importance::kPooledLse;
  const Compute compute = pooled ? Compute::kF32 : isa.tiles(shape.dtype_q, shape.dtype_kv).compute;
  Ledger ledger(nullptr);
  carve(ledger, geometry, compute, parts);
  return ledger.bytes();
}

}  // namespace psa::cpu
