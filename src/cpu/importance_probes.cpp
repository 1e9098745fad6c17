// SPDX-License-Identifier: Apache-2.0
#include "cpu/importance_probes.hpp"

#include <algorithm>
#include <numbers>

#include "semantics/pooling.hpp"

namespace psa::cpu {
namespace {

using semantics::Range;
using semantics::Side;

/// Token of the caller's tensor at a position of the working order.
std::int32_t token_at(const std::int32_t* order, index_t position) {
  return order == nullptr ? static_cast<std::int32_t>(position) : order[position];
}

/// Which head the samples belong to, and how many of how many offsets they are.
struct SampleDraw {
  Side side;
  index_t head;
  index_t block_size;
  index_t samples;
};

/// Items of one head follow each other, so a worker draws a head's samples once.
const SampledOffsets& draw_samples(const ProbeItem& item, const SampleDraw& draw,
                                   SampledOffsets& kept) {
  if (kept.batch == item.batch && kept.head == draw.head) return kept;
  kept.batch = item.batch;
  kept.head = draw.head;
  kept.count = 0;
  for (index_t o = 0; o < draw.block_size; ++o) {
    if (semantics::is_sampled(item.geometry.config.seed, draw.side, item.batch, draw.head, o,
                              draw.block_size, draw.samples)) {
      kept.offset[static_cast<std::size_t>(kept.count++)] = static_cast<std::int32_t>(o);
    }
  }
  return kept;
}

index_t query_position(const ProbeItem& item, index_t row) {
  return semantics::causal_position(row, item.geometry.shape.len_q, item.kv_length());
}

Range queries_of(const ProbeItem& item, index_t q_block) {
  return semantics::block_range(q_block, item.geometry.config.block_q, item.geometry.shape.len_q);
}

/// Groups of `group_tokens` positions as queries: the last position of a group decides what it
/// sees.
void list_groups(const ProbeItem& item, index_t group_tokens, ProbeQueries& queries) {
  std::size_t block = 0;
  queries.count = 0;
  for (index_t i = item.q_blocks.begin; i < item.q_blocks.end; ++i) {
    const Range rows = queries_of(item, i);
    queries.block_begin[block++] = queries.count;
    for (index_t first = rows.begin; first < rows.end; first += group_tokens) {
      const index_t last = std::min(first + group_tokens, rows.end) - 1;
      queries.position[static_cast<std::size_t>(queries.count++)] = query_position(item, last);
    }
  }
  queries.block_begin[block] = queries.count;
}

float bias_log2_of(index_t weight) {
  return static_cast<float>(semantics::pooled_bias(weight) * std::numbers::log2e);
}

/// Rows of `item.scratch.rows` to query pack `part`.
void pack_float_rows(const TileKernels& tiles, const ProbeItem& item, int count, int part) {
  const index_t dim = item.geometry.shape.head_dim;
  tiles.pack_queries(
      {count, static_cast<int>(dim)},
      {.data = item.scratch.rows, .dtype = DType::kF32, .stride = dim},
      item.scratch.queries + static_cast<std::size_t>(part) * item.scratch.pack_bytes);
}

}  // namespace

// ---- S-9, S-10 ----------------------------------------------------------------------------------

SampleProbe::SampleProbe(const Isa& isa, const core::Geometry& geometry)
    : Probe(isa.tiles(geometry.shape.dtype_q, geometry.shape.dtype_kv), *isa.rows),
      samples_q_(geometry.config.samples_q),
      samples_kv_(geometry.config.samples_kv) {}

float SampleProbe::key_weight(index_t tokens) const {
  return static_cast<float>(tokens) / static_cast<float>(samples_kv_);
}

void SampleProbe::load_queries(const ProbeItem& item, ProbeQueries& queries) const {
  const core::Geometry& g = item.geometry;
  const SampledOffsets& samples = draw_samples(
      item, {Side::kQuery, item.head_q, g.config.block_q, samples_q_}, *item.scratch.q_samples);
  std::size_t block = 0;
  queries.count = 0;
  std::array<index_t, kMaxQueries> rows{};
  for (index_t i = item.q_blocks.begin; i < item.q_blocks.end; ++i) {
    const Range tokens = queries_of(item, i);
    queries.block_begin[block++] = queries.count;
    const auto first = rows.begin() + queries.count;
    for (int s = 0; s < samples.count; ++s) {
      rows[static_cast<std::size_t>(queries.count++)] =
          semantics::sample_position(tokens, samples.offset[static_cast<std::size_t>(s)]);
    }
    std::sort(first, rows.begin() + queries.count);  // offsets wrap in a short block
  }
  queries.block_begin[block] = queries.count;
  for (std::size_t r = 0; r < static_cast<std::size_t>(queries.count); ++r) {
    queries.position[r] = query_position(item, rows[r]);
    item.scratch.index[r] = token_at(item.q_order(), rows[r]);
  }
  InputRows from = head_rows(item.params.inputs.q, {}, item.batch, item.head_q, 0);
  from.index = item.scratch.index;
  tiles_.pack_queries({queries.count, static_cast<int>(g.shape.head_dim)}, from,
                      item.scratch.queries);
}

void SampleProbe::score_keys(const ProbeItem& item, Range kv_blocks, TileStep& step,
                             ProbeKeys& keys) const {
  const core::Geometry& g = item.geometry;
  const SampledOffsets& samples = draw_samples(
      item, {Side::kKey, item.head_kv(), g.config.block_kv, samples_kv_}, *item.scratch.kv_samples);
  keys.count = 0;
  for (index_t j = kv_blocks.begin; j < kv_blocks.end; ++j) {
    const Range tokens = semantics::block_range(j, g.config.block_kv, item.kv_length());
    for (int s = 0; s < samples.count; ++s) {
      const index_t position =
          semantics::sample_position(tokens, samples.offset[static_cast<std::size_t>(s)]);
      const auto at = static_cast<std::size_t>(keys.count++);
      keys.position[at] = position;
      item.scratch.index[at] = token_at(item.kv_order(), position);
    }
  }
  InputRows from = head_rows(item.params.inputs.k, {}, item.batch, item.head_kv(), 0);
  from.index = item.scratch.index;
  tiles_.load_keys(from, {item.scratch.keys, step.shape.head_dim, 0, keys.count});
  step.keys = keys.count;
  tiles_.scores(step, /*accumulate=*/false);
}

// ---- S-11 ---------------------------------------------------------------------------------------

AntidiagonalProbe::AntidiagonalProbe(const Isa& isa, const core::Geometry& geometry)
    : Probe(isa.tiles(geometry.shape.dtype_q, geometry.shape.dtype_kv), *isa.rows),
      stride_(geometry.config.antidiagonal_stride),
      queries_per_block_(geometry.config.block_q / geometry.config.antidiagonal_stride),
      keys_per_block_(geometry.config.block_kv / geometry.config.antidiagonal_stride) {}

void AntidiagonalProbe::load_queries(const ProbeItem& item, ProbeQueries& queries) const {
  const core::Geometry& g = item.geometry;
  const int dim = static_cast<int>(g.shape.head_dim);
  list_groups(item, stride_, queries);
  const index_t begin = item.q_blocks.begin * g.config.block_q;
  InputRows from = head_rows(item.params.inputs.q, {}, item.batch, item.head_q, 0);
  from.index = item.scratch.index;
  for (int u = 0; u < parts(); ++u) {
    int present = 0;  // all groups but perhaps the last one
    for (int a = 0; a < queries.count; ++a) {
      const index_t row = begin + a * stride_ + semantics::antidiagonal_query_offset(u, stride_);
      if (row < g.shape.len_q) item.scratch.index[present++] = token_at(item.q_order(), row);
    }
    rows_.load_floats(from, present, dim, item.scratch.rows);
    std::fill(item.scratch.rows + present * dim, item.scratch.rows + queries.count * dim, 0.0F);
    pack_float_rows(tiles_, item, queries.count, u);
  }
}

void AntidiagonalProbe::score_keys(const ProbeItem& item, Range kv_blocks, TileStep& step,
                                   ProbeKeys& keys) const {
  const Range tokens{kv_blocks.begin * item.geometry.config.block_kv,
                     std::min(kv_blocks.end * item.geometry.config.block_kv, item.kv_length())};
  keys.count = static_cast<int>(semantics::ceil_div(tokens.size(), stride_));
  for (int b = 0; b < keys.count; ++b) {
    keys.position[static_cast<std::size_t>(b)] = tokens.begin + b * stride_;
  }
  step.keys = keys.count;
  InputRows from = head_rows(item.params.inputs.k, {}, item.batch, item.head_kv(), 0);
  from.index = item.scratch.index;
  TileStep part = step;
  for (int u = 0; u < parts(); ++u) {
    int present = 0;
    for (index_t token = tokens.begin + u; token < tokens.end; token += stride_) {
      item.scratch.index[present++] = token_at(item.kv_order(), token);
    }
    TileSlot slot{item.scratch.keys, step.shape.head_dim, 0, present};
    if (present > 0) tiles_.load_keys(from, slot);
    if (present < keys.count) {
      slot.at = present;
      slot.count = 1;
      tiles_.load_keys({.data = item.scratch.zero_row}, slot);
    }
    part.queries = item.scratch.queries + static_cast<std::size_t>(u) * item.scratch.pack_bytes;
    tiles_.scores(part, /*accumulate=*/u > 0);
  }
}

// ---- S-12 ---------------------------------------------------------------------------------------

PooledProbe::PooledProbe(const Isa& isa, const core::Geometry& geometry)
    : Probe(*isa.f32, *isa.rows),  // means of queries are floats
      factor_(geometry.config.pooled_tokens),
      full_bias_log2_(bias_log2_of(factor_)),
      code_(semantics::kFinestLevel),
      queries_per_block_(geometry.config.block_q / geometry.config.pooled_tokens),
      keys_per_block_(geometry.config.block_kv / geometry.config.pooled_tokens) {
  while (semantics::pool_factor(code_, geometry.config.block_kv) != factor_) ++code_;
}

void PooledProbe::load_queries(const ProbeItem& item, ProbeQueries& queries) const {
  const core::Geometry& g = item.geometry;
  const index_t dim = g.shape.head_dim;
  list_groups(item, factor_, queries);
  const Range rows{queries_of(item, item.q_blocks.begin).begin,
                   queries_of(item, item.q_blocks.end - 1).end};
  for (index_t r = rows.begin; r < rows.end; r += kPoolRows) {
    PoolTask task{.rows = head_rows(item.params.inputs.q, item.params.inputs.q_order, item.batch,
                                    item.head_q, r),
                  .count = static_cast<int>(std::min<index_t>(kPoolRows, rows.end - r)),
                  .head_dim = static_cast<int>(dim),
                  .to = DType::kF32};
    task.means[code_ - 2] = item.scratch.rows + (r - rows.begin) / factor_ * dim;
    rows_.pool(task);
  }
  pack_float_rows(tiles_, item, queries.count, 0);
}

void PooledProbe::score_keys(const ProbeItem& item, Range kv_blocks, TileStep& step,
                             ProbeKeys& keys) const {
  const core::Geometry& g = item.geometry;
  const Range rows{
      semantics::pooled_range(kv_blocks.begin, g.config.block_kv, code_, item.kv_length()).begin,
      semantics::pooled_range(kv_blocks.end - 1, g.config.block_kv, code_, item.kv_length()).end};
  keys.count = static_cast<int>(rows.size());
  for (index_t r = rows.begin; r < rows.end; ++r) {
    const auto at = static_cast<std::size_t>(r - rows.begin);
    const Range tokens = semantics::pooled_tokens(r, factor_, item.kv_length());
    keys.position[at] = tokens.end - 1;
    keys.bias_log2[at] = tokens.size() == factor_ ? full_bias_log2_ : bias_log2_of(tokens.size());
  }
  const core::PyramidLevel& level = item.params.pyramid[static_cast<std::size_t>(code_)];
  const index_t first_row = (item.batch * g.shape.heads_kv + item.head_kv()) * level.rows;
  tiles_.load_keys({.data = level.k,
                    .dtype = g.shape.dtype_kv,
                    .stride = g.shape.head_dim,
                    .first = first_row + rows.begin},
                   {item.scratch.keys, step.shape.head_dim, 0, keys.count});
  step.keys = keys.count;
  step.rule.bias_log2 = keys.bias_log2.data();
  tiles_.scores(step, /*accumulate=*/false);
}

}  // namespace psa::cpu
