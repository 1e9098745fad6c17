// SPDX-License-Identifier: Apache-2.0

// Attention stage: one soft-max over the rows of all levels that a query block reads (S-5 to S-8,
// S-22(a)), and the first-order term of rest = linear (S-23, first_order.hpp) with the factors of
// its heads (S-25, rest_probes.hpp).
//
//   in   q [B, Hq, Lq, D], k, v [B, Hkv, Lkv, D], pyramid, levels [B, Hq, Nq, Nk]
//   out  out [B, Hq, Lq, D] and lse [B, Hq, Lq], in the caller's order
//
// One work item is one query block of one head; items of a head follow each other, so that its keys
// and values stay in the shared cache. An item packs its queries once and streams the rows that its
// level-map row names, level by level and in rising order, through one tile of 128 keys:
//
//   level-map row ──► list of pooled rows ──► key and value tile ──► scores, soft-max, O += P V
//                     (with their biases)     (converted once)       (when 128 rows have come)
//
// A tile mixes pieces of any length and level, so that pieces of 8 rows or single means cost what
// their rows cost. Level-1 rows come straight from the caller's tensor through the order's index.
//
// With rest = linear the block means come first and fill tiles of their own, which gives their
// share of each query's sum; an item is then a run of query blocks, whose maps are made together.
//
// Cost: 4 * D multiply-adds per query row and row read; scratch 128 * (5 * D + 128) floats or less.

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "cpu/first_order.hpp"
#include "cpu/rest_probes.hpp"
#include "cpu/stages.hpp"
#include "semantics/pooling.hpp"

namespace psa::cpu {
namespace {

using semantics::Range;

struct AttentionScratch {
  std::byte* queries;         // query pack
  std::byte* keys;            // key tile
  std::byte* values;          // value tile
  float* scores;              // S^T
  float* output;              // O^T
  SoftmaxState state;         // [queries] each
  std::int32_t* row;          // [kMaxTileKeys], row of its level's tensor
  float* bias_log2;           // [kMaxTileKeys]
  std::int32_t* first_query;  // [kMaxTileKeys]
};

AttentionScratch carve(Ledger& ledger, const core::Geometry& g, Compute compute) {
  const int rows = g.config.block_q;
  const int dim = static_cast<int>(g.shape.head_dim);
  const auto queries = static_cast<std::size_t>(padded_queries(rows));
  AttentionScratch s{};
  s.queries = ledger.take<std::byte>(query_pack_bytes(compute, rows, dim));
  s.keys = ledger.take<std::byte>(tile_bytes(compute, dim));
  s.values = ledger.take<std::byte>(tile_bytes(compute, dim));
  s.scores = ledger.take<float>(score_floats(rows));
  s.output = ledger.take<float>(output_floats(rows, dim));
  s.state = {ledger.take<float>(queries), ledger.take<float>(queries), ledger.take<float>(queries)};
  s.row = ledger.take<std::int32_t>(kMaxTileKeys);
  s.bias_log2 = ledger.take<float>(kMaxTileKeys);
  s.first_query = ledger.take<std::int32_t>(kMaxTileKeys);
  return s;
}

float bias_log2_of(index_t weight) {
  return static_cast<float>(semantics::pooled_bias(weight) * std::numbers::log2e);
}

/// Keys and values of one level of one KV head.
struct LevelRows {
  InputRows keys;  // of row 0
  InputRows values;
  const std::int32_t* order = nullptr;  // row of each position; null: the same
  bool is_padded = false;               // S-22(a): rows past the end count in full
  int code = kSkip;
  index_t factor = 1;
  index_t rows = 0;        // that exist
  float bias_log2 = 0.0F;  // of a row of full weight

  /// Last position that a row stands for.
  [[nodiscard]] index_t last_position(index_t row, index_t kv_length) const {
    return is_padded ? (row + 1) * factor - 1
                     : semantics::pooled_tokens(row, factor, kv_length).end - 1;
  }
};

/// Everything that the query blocks of one head share.
struct HeadTask {
  const core::Geometry& geometry;
  const TileKernels& kernels;
  index_t kv_length;
  std::array<LevelRows, kNumLevelCodes> levels;
};

HeadTask make_head(const TileKernels& kernels, const core::Geometry& g,
                   const core::AttentionParams& params, index_t b, index_t head_q) {
  const index_t h = head_q / g.heads_per_kv();
  const core::Inputs& in = params.inputs;
  HeadTask task{g, kernels, in.kv_length(b), {}};
  const index_t num_blocks = semantics::ceil_div(task.kv_length, g.config.block_kv);
  for (int code = semantics::kFinestLevel; code < kNumLevelCodes; ++code) {
    LevelRows& level = task.levels[static_cast<std::size_t>(code)];
    level.code = code;
    level.factor = semantics::pool_factor(code, g.config.block_kv);
    level.rows = semantics::pooled_rows(task.kv_length, level.factor);
    level.bias_log2 = bias_log2_of(level.factor);
    if (code == semantics::kFinestLevel) {
      level.keys = head_rows(in.k, {}, b, h, 0);
      level.values = head_rows(in.v, {}, b, h, 0);
      level.order = in.kv_order.of(b, h);
      continue;
    }
    const core::PyramidLevel& pooled = params.pyramid[static_cast<std::size_t>(code)];
    level.keys = pooled_head_rows(g, pooled.rows, pooled.k, b, h);
    level.values = pooled_head_rows(g, pooled.rows, pooled.v, b, h);
    if (g.config.compat == Compat::kOfficial) {
      level.is_padded = true;
      level.rows = num_blocks * (g.config.block_kv / level.factor);
    }
  }
  return task;
}

/// The rows that one query block reads, on their way through the tile. Rows are listed first and
/// loaded level by level, so that a single row costs no more than its share of a long run.
class RowStream {
 public:
  /// `queries` are positions of the working order.
  /// `mean_bias_log2`, [Nk] or null: what block means have on top of their weight.
  RowStream(const HeadTask& task, Range queries, const AttentionScratch& scratch,
            const float* mean_bias_log2)
      : task_(task),
        scratch_(scratch),
        mean_bias_log2_(mean_bias_log2),
        causal_(task.geometry.config.causal) {
    const core::Geometry& g = task.geometry;
    first_position_ = semantics::causal_position(queries.begin, g.shape.len_q, task.kv_length);
    last_position_ = semantics::causal_position(queries.end - 1, g.shape.len_q, task.kv_length);
    step_.shape = {static_cast<int>(queries.size()), static_cast<int>(g.shape.head_dim)};
    step_.rule.scale_log2 = g.scale * std::numbers::log2e_v<float>;
    step_.queries = scratch.queries;
    step_.key_tile = scratch.keys;
    step_.value_tile = scratch.values;
    step_.scores = scratch.scores;
    step_.output = scratch.output;
    step_.state = scratch.state;
  }

  /// Reads the KV blocks that a level-map row gives the level `code`.
  void read_level(int code, const LevelCode* codes) {
    const core::Geometry& g = task_.geometry;
    level_ = &task_.levels[static_cast<std::size_t>(code)];
    const index_t rows_per_block = g.config.block_kv / level_->factor;
    for (index_t j = 0; j < g.num_kv_blocks; ++j) {
      if (codes[j] != code) continue;
      read({j * rows_per_block, std::min((j + 1) * rows_per_block, level_->rows)});
    }
    load_listed();
  }

  void finish() { attend(); }

 private:
  void read(Range rows) {
    if (causal_) {  // the rows at the end that no query sees
      while (rows.size() > 0 && !is_seen_by(last_position_, rows.end - 1)) --rows.end;
    }
    while (rows.size() > 0) {
      const index_t count = std::min<index_t>(rows.size(), kMaxTileKeys - step_.keys);
      list(rows.begin, static_cast<int>(count));
      rows.begin += count;
      if (step_.keys == kMaxTileKeys) attend();
    }
  }

  [[nodiscard]] bool is_seen_by(index_t query_position, index_t row) const {
    return semantics::is_visible(true, level_->last_position(row, task_.kv_length), query_position);
  }

  /// Appends rows of the level to the list.
  void list(index_t first, int count) {
    std::int32_t* row = scratch_.row + step_.keys;
    for (int r = 0; r < count; ++r) {
      row[r] = level_->order == nullptr ? static_cast<std::int32_t>(first + r)
                                        : level_->order[first + r];
    }
    float* bias = scratch_.bias_log2 + step_.keys;
    std::fill_n(bias, count, level_->bias_log2);
    if (first + count == level_->rows && !level_->is_padded) {
      bias[count - 1] =
          bias_log2_of(semantics::pooled_weight(level_->rows - 1, level_->factor, task_.kv_length));
    }
    if (level_->code == kBlockMean && mean_bias_log2_ != nullptr) {
      for (int r = 0; r < count; ++r) bias[r] += mean_bias_log2_[first + r];
    }
    if (level_->code != semantics::kFinestLevel) step_.rule.bias_log2 = scratch_.bias_log2;
    if (causal_) set_first_query(first, count);
    step_.keys += count;
  }

  void set_first_query(index_t first, int count) {
    std::int32_t* first_query = scratch_.first_query + step_.keys;
    for (int r = 0; r < count; ++r) {
      // Query row r of the block stands at first_position_ + r.
      const index_t hidden = level_->last_position(first + r, task_.kv_length) - first_position_;
      first_query[r] = static_cast<std::int32_t>(std::max<index_t>(hidden, 0));
      if (hidden > 0) step_.rule.first_query = scratch_.first_query;
    }
  }

  /// Brings the rows that are listed but not yet in the tile, all of one level.
  void load_listed() {
    const int count = step_.keys - loaded_;
    if (count == 0) return;
    TileSlot slot{scratch_.keys, step_.shape.head_dim, loaded_, count};
    InputRows rows = level_->keys;
    rows.index = scratch_.row + loaded_;
    task_.kernels.load_keys(rows, slot);
    slot.tile = scratch_.values;
    rows = level_->values;
    rows.index = scratch_.row + loaded_;
    step_.values_finite &= task_.kernels.load_values(rows, slot);
    loaded_ = step_.keys;
  }

  void attend() {
    load_listed();
    if (step_.keys == 0) return;
    task_.kernels.attend(step_);
    step_.keys = 0;
    loaded_ = 0;
    step_.values_finite = true;
    step_.rule.bias_log2 = nullptr;
    step_.rule.first_query = nullptr;
  }

  const HeadTask& task_;
  const AttentionScratch& scratch_;
  const float* mean_bias_log2_;
  const bool causal_;
  index_t first_position_ = 0;
  index_t last_position_ = 0;
  const LevelRows* level_ = nullptr;
  int loaded_ = 0;  // rows of the tile that are there; the list has step_.keys
  TileStep step_;
};

/// The first-order term of one query block.
struct FirstOrder {
  const Isa& isa;
  const float* map;
  const float* mean_bias_log2;  // [Nk]
  float slope;
  const MapScratch& scratch;
};

/// One query block: out and lse of its rows. `first_order` is null unless rest = linear.
void attend_block(const HeadTask& task, const core::AttentionParams& params, index_t b, index_t h,
                  index_t q_block, const AttentionScratch& scratch, const FirstOrder* first_order) {
  const core::Geometry& g = task.geometry;
  const Range queries = semantics::block_range(q_block, g.config.block_q, g.shape.len_q);
  const PackShape shape{static_cast<int>(queries.size()), static_cast<int>(g.shape.head_dim)};
  const InputRows query_rows =
      head_rows(params.inputs.q, params.inputs.q_order, b, h, queries.begin);
  task.kernels.pack_queries(shape, query_rows, scratch.queries);
  reset_output(shape, scratch.output, scratch.state);

  const LevelCode* codes = params.levels.row(b, h, q_block);
  RowStream stream(task, queries, scratch,
                   first_order == nullptr ? nullptr : first_order->mean_bias_log2);
  if (first_order != nullptr) {
    stream.read_level(kBlockMean, codes);
    stream.finish();
    keep_rest(shape, scratch.state, first_order->scratch);
  }
  const int end = first_order != nullptr ? kBlockMean : kNumLevelCodes;
  for (int code = semantics::kFinestLevel; code < end; ++code) stream.read_level(code, codes);
  stream.finish();
  if (first_order != nullptr) {
    add_first_order(first_order->isa, shape, query_rows, first_order->map, first_order->slope,
                    scratch.state, first_order->scratch, scratch.output);
  }

  const index_t lse_row = (b * g.shape.heads_q + h) * g.shape.len_q;
  task.kernels.store_output(shape, scratch.output, scratch.state,
                            {.data = core::row_address(params.out, b, h, 0),
                             .dtype = params.out.dtype,
                             .stride = params.out.stride[2],
                             .first = queries.begin,
                             .index = params.inputs.q_order.of(b, h),
                             .lse = params.lse == nullptr ? nullptr : params.lse + lse_row});
}

/// Query blocks [run] of one head, at most kMapRun, with the first-order term.
void attend_run(const Isa& isa, const HeadTask& task, const core::AttentionParams& params,
                index_t head, Range run, const BlockMoments& moments, const RestProbes& probes,
                Ledger& ledger) {
  const core::Geometry& g = task.geometry;
  const AttentionScratch scratch = carve(ledger, g, task.kernels.compute);
  const MapScratch map_scratch = carve_map_scratch(ledger, g);
  QueryBlocks blocks{head / g.shape.heads_q, head % g.shape.heads_q, {}, 0};
  for (index_t i = run.begin; i < run.end; ++i) {
    const std::int32_t probe = probes.probe_of_block[i];
    MapTask& block = blocks.tasks.at(blocks.count);
    block = {i, map_scratch.maps.at(blocks.count), probe >= 0};
    const index_t end = semantics::block_range(i, g.config.block_q, g.shape.len_q).end;
    block.factors =
        factors_of(g, probes, head, semantics::fitted_probes(g.config.causal, end, g.shape.len_q));
    if (block.is_made) block.map = probe_map(g, probes, head, probe);
    ++blocks.count;
  }
  make_maps(isa, g, params, blocks, moments, map_scratch);
  for (std::size_t i = 0; i < blocks.count; ++i) {
    const MapTask& block = blocks.tasks.at(i);
    const FirstOrder first_order{isa, block.map, map_scratch.bias_log2.at(i), block.factors.slope,
                                 map_scratch};
    attend_block(task, params, blocks.b, blocks.h, block.q_block, scratch, &first_order);
  }
}

/// The factors of all heads (S-25), those of fewer than all probes for causal calls only.
void find_factors(const Isa& isa, const StageContext& context, const core::AttentionParams& params,
                  const BlockMoments& moments, const RestProbes& probes) {
  const core::Geometry& g = context.geometry;
  find_probes(g, probes);
  const Compute compute = isa.tiles(g.shape.dtype_q, g.shape.dtype_kv).compute;
  const index_t heads = g.shape.batch * g.shape.heads_q;
  const index_t packs = rest_probe_packs(g);
  context.executor.for_each(heads * packs, [&](index_t item, int worker) {
    Ledger ledger(context.worker_scratch(worker));
    const RestProbeScratch scratch = carve_rest_probe_scratch(ledger, g, compute);
    const MapScratch map_scratch = carve_map_scratch(ledger, g);
    const index_t head = item / packs;
    const RestProbePack pack{head / g.shape.heads_q, head % g.shape.heads_q, item % packs};
    probe_rest(isa, g, params, pack, moments, scratch, map_scratch, probes);
  });
  const index_t all = semantics::probe_count(g.shape.len_q);
  const index_t fits = g.config.causal ? all + 1 : 1;
  context.executor.for_each(heads * fits, [&](index_t item, int /*worker*/) {
    const index_t head = item / fits;
    const index_t count = all - item % fits;
    factors_of(g, probes, head, count) = semantics::fit_rest(probes.sums + head * all, count);
  });
}

void attention_linear(const Isa& isa, const StageContext& context,
                      const core::AttentionParams& params) {
  const core::Geometry& g = context.geometry;
  Ledger work(params.work);
  const BlockMoments moments = carve_moments(work, g);
  const index_t kv_blocks = g.shape.batch * g.shape.heads_kv * g.num_kv_blocks;
  context.executor.for_each(kv_blocks, [&](index_t item, int worker) {
    Ledger ledger(context.worker_scratch(worker));
    const MomentScratch scratch = carve_moment_scratch(ledger, g);
    const index_t head = item / g.num_kv_blocks;
    make_moments(isa, g, params.inputs,
                 {head / g.shape.heads_kv, head % g.shape.heads_kv, item % g.num_kv_blocks},
                 moments, scratch);
  });
  const RestProbes probes = carve_rest_probes(work, g);
  find_factors(isa, context, params, moments, probes);
  const index_t runs = semantics::ceil_div(g.num_q_blocks, kMapRun);
  context.executor.for_each(g.shape.batch * g.shape.heads_q * runs, [&](index_t item, int worker) {
    Ledger ledger(context.worker_scratch(worker));
    const index_t head = item / runs;
    const index_t b = head / g.shape.heads_q;
    const index_t h = head % g.shape.heads_q;
    const index_t first = item % runs * kMapRun;
    const HeadTask task = make_head(isa.tiles(g.shape.dtype_q, g.shape.dtype_kv), g, params, b, h);
    attend_run(isa, task, params, head, {first, std::min(first + kMapRun, g.num_q_blocks)}, moments,
               probes, ledger);
  });
}

}  // namespace

void attention(const Isa& isa, const StageContext& context, const core::AttentionParams& params) {
  const core::Geometry& g = context.geometry;
  if (g.config.rest == Rest::kLinear) return attention_linear(isa, context, params);
  const TileKernels& kernels = isa.tiles(g.shape.dtype_q, g.shape.dtype_kv);
  const index_t items = g.shape.batch * g.shape.heads_q * g.num_q_blocks;
  context.executor.for_each(items, [&](index_t item, int worker) {
    Ledger ledger(context.worker_scratch(worker));
    const AttentionScratch scratch = carve(ledger, g, kernels.compute);
    const index_t head = item / g.num_q_blocks;
    const index_t b = head / g.shape.heads_q;
    const index_t h = head % g.shape.heads_q;
    const HeadTask task = make_head(kernels, g, params, b, h);
    attend_block(task, params, b, h, item % g.num_q_blocks, scratch, nullptr);
  });
}

std::size_t attention_scratch(const Isa& isa, const core::Geometry& geometry) {
  const Compute compute = isa.tiles(geometry.shape.dtype_q, geometry.shape.dtype_kv).compute;
  Ledger ledger(nullptr);
  carve(ledger, geometry, compute);
  if (geometry.config.rest != Rest::kLinear) return ledger.bytes();
  carve_map_scratch(ledger, geometry);
  Ledger moments(nullptr);
  carve_moment_scratch(moments, geometry);
  Ledger probes(nullptr);
  carve_rest_probe_scratch(probes, geometry, compute);
  carve_map_scratch(probes, geometry);
  return std::max({ledger.bytes(), moments.bytes(), probes.bytes()});
}

std::size_t attention_bytes(const core::Geometry& geometry) {
  if (geometry.config.rest != Rest::kLinear) return 0;
  Ledger ledger(nullptr);
  carve_moments(ledger, geometry);
  carve_rest_probes(ledger, geometry);
  return ledger.bytes();
}

}  // namespace psa::cpu
