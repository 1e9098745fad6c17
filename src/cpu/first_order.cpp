// SPDX-License-Identifier: Apache-2.0
#include "cpu/first_order.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "semantics/first_order.hpp"

namespace psa::cpu {
namespace {

using semantics::Range;

/// Floats of each map that stay in the first-level cache while all covariances are added to them.
constexpr int kMapPiece = 512;

int head_dim_of(const core::Geometry& g) { return static_cast<int>(g.shape.head_dim); }

std::size_t map_floats(const core::Geometry& g) {
  return output_floats(head_dim_of(g), head_dim_of(g));
}

/// Moments of one KV head, of its block 0.
BlockMoments head_moments(const core::Geometry& g, const BlockMoments& all, index_t b, index_t h) {
  const index_t first = (b * g.shape.heads_kv + h) * g.num_kv_blocks;
  return {all.key_mean + first * g.shape.head_dim, all.key_variance + first * g.shape.head_dim,
          all.covariance + first * static_cast<index_t>(map_floats(g))};
}

/// Subtracts the mean of `count` rows from them.
void centre(const RowKernels& kernels, int count, int dim, float* rows, float* mean) {
  std::fill_n(mean, dim, 0.0F);
  for (int r = 0; r < count; ++r) kernels.add(rows + r * dim, dim, mean);
  kernels.store_mean(mean, static_cast<float>(count), dim, DType::kF32, mean);
  for (int r = 0; r < count; ++r) kernels.add_scaled(mean, -1.0F, dim, rows + r * dim);
}

/// sum += row^2.
void add_squares(const float* row, int dim, float* sum) {
  for (int d = 0; d < dim; ++d) sum[d] += row[d] * row[d];
}

/// Channels [first, first + columns) of rows, as `accumulate` reads probabilities.
void lay_out_operand(const float* rows, int count, int dim, int first, int columns, float* to) {
  const int padded = padded_queries(columns);
  for (int begin = 0; begin < columns; begin += kGroupQueries) {
    const int width = std::min(kGroupQueries, padded - begin);
    const int real = std::min(width, columns - begin);
    for (int r = 0; r < count; ++r) {
      float* at = to + begin * kMaxTileKeys + r * width;
      std::copy_n(rows + r * dim + first + begin, real, at);
      std::fill_n(at + real, width - real, 0.0F);
    }
  }
}

/// Means of the rows that qualify and of their squares, in scratch.mean and scratch.square; NaN if
/// there is none.
void mean_query(const Isa& isa, const PackShape& shape, const InputRows& queries,
                const MapScratch& scratch) {
  const int dim = shape.head_dim;
  isa.rows->load_floats(queries, shape.rows, dim, scratch.rows);
  std::fill_n(scratch.mean, dim, 0.0F);
  std::fill_n(scratch.square, dim, 0.0F);
  int count = 0;
  for (int r = 0; r < shape.rows; ++r) {
    const float* row = scratch.rows + r * dim;
    if (!semantics::is_finite_float(isa.rows->dot(row, row, dim))) continue;
    isa.rows->add(row, dim, scratch.mean);
    add_squares(row, dim, scratch.square);
    ++count;
  }
  const auto rows = static_cast<float>(count);
  isa.rows->store_mean(scratch.mean, rows, dim, DType::kF32, scratch.mean);
  isa.rows->store_mean(scratch.square, rows, dim, DType::kF32, scratch.square);
}

/// What one query block makes of the KV blocks of its head, [Nk] each.
struct RestRow {
  float* weights;
  float* bias_log2;
};

/// Logits of the rest set of a query block at its mean query, in `weights`, and what masses are
/// multiplied by to second order, in `bias_log2`. Outside of the set -inf and 0.
void rest_logits(const Isa& isa, const core::Geometry& g, const LevelCode* codes, Range queries,
                 index_t kv_length, const BlockMoments& head, const MapScratch& scratch,
                 const RestRow& row) {
  const int dim = head_dim_of(g);
  for (index_t j = 0; j < g.num_kv_blocks; ++j) {
    row.weights[j] = -std::numeric_limits<float>::infinity();
    row.bias_log2[j] = 0.0F;
    if (!is_rest_block(g, codes, queries, j, kv_length)) continue;
    row.weights[j] = g.scale * isa.rows->dot(scratch.mean, head.key_mean + j * dim, dim);
    const float variance = isa.rows->dot(scratch.square, head.key_variance + j * dim, dim);
    row.bias_log2[j] = semantics::rest_mass(g.scale, variance);
  }
}

/// Logits become the factors of the covariances in M; what masses are multiplied by, `mass`
/// included, biases. Covariances hold n times the covariance, which is the n of the weight.
void logits_to_weights(const core::Geometry& g, index_t kv_length, float mass, const RestRow& row) {
  float max = -std::numeric_limits<float>::infinity();
  for (index_t j = 0; j < g.num_kv_blocks; ++j) max = std::max(max, row.weights[j]);
  float sum = 0.0F;
  for (index_t j = 0; j < g.num_kv_blocks; ++j) {
    float& weight = row.weights[j];
    const bool has_weight = weight != -std::numeric_limits<float>::infinity();
    weight = has_weight ? std::exp(weight - max) : 0.0F;
    const auto tokens =
        static_cast<float>(semantics::block_range(j, g.config.block_kv, kv_length).size());
    sum += tokens * weight * row.bias_log2[j];
    if (row.bias_log2[j] > 0.0F) row.bias_log2[j] = std::log2(row.bias_log2[j] * mass);
  }
  if (sum == 0.0F) return;
  for (index_t j = 0; j < g.num_kv_blocks; ++j) row.weights[j] *= g.scale / sum;
}

/// The covariances [first, first + kCount) with their weights, from float `piece` on. Blocks
/// without weight are left out: they may hold NaN, or nothing that was ever written. Null rows:
/// none is left.
ScaledRows weighted_covariances(const BlockMoments& head, const float* weights, Range blocks,
                                index_t floats, int piece) {
  ScaledRows rows;
  int used = 0;
  for (index_t j = blocks.begin; j < blocks.end; ++j) {
    if (weights[j] == 0.0F) continue;
    rows.row[used] = head.covariance + j * floats + piece;
    rows.factor[used++] = weights[j];
  }
  std::fill(rows.row + used, rows.row + ScaledRows::kCount, rows.row[0]);
  return rows;
}

/// maps = sums over the blocks of weight x covariance.
void sum_covariances(const Isa& isa, const core::Geometry& g, const BlockMoments& head,
                     const QueryBlocks& queries, const MapScratch& scratch) {
  std::array<std::size_t, kMapRun> wanted{};
  std::size_t count = 0;
  for (std::size_t i = 0; i < queries.count; ++i) {
    if (!queries.tasks.at(i).is_made) wanted.at(count++) = i;
  }
  const auto floats = static_cast<int>(map_floats(g));
  for (int piece = 0; piece < floats; piece += kMapPiece) {
    const int size = std::min(kMapPiece, floats - piece);
    for (std::size_t w = 0; w < count; ++w) {
      std::fill_n(queries.tasks[wanted[w]].map + piece, size, 0.0F);
    }
    for (index_t j = 0; j < g.num_kv_blocks; j += ScaledRows::kCount) {
      const Range blocks{j, std::min<index_t>(j + ScaledRows::kCount, g.num_kv_blocks)};
      for (std::size_t w = 0; w < count; ++w) {
        const std::size_t i = wanted[w];
        const ScaledRows rows =
            weighted_covariances(head, scratch.weights[i], blocks, floats, piece);
        if (rows.row[0] == nullptr) continue;
        isa.rows->add_scaled_rows(rows, size, queries.tasks[i].map + piece);
      }
    }
  }
}

/// Rows [first, first + count) of the transposed map as a key tile.
void load_map(const float* map, int dim, int first, int count, float* tile) {
  const int padded = padded_queries(dim);
  for (int c = 0; c < count; ++c) {
    for (int begin = 0; begin < dim; begin += kGroupQueries) {
      const int width = std::min(kGroupQueries, padded - begin);
      std::copy_n(map + begin * dim + (first + c) * width, std::min(width, dim - begin),
                  tile + c * dim + begin);
    }
  }
}

/// Sum of the rest's exponentials relative to the maximum of all rows, times the slope.
void finish_rest_sums(const PackShape& shape, const SoftmaxState& state, float slope,
                      const MapScratch& scratch) {
  for (int q = 0; q < padded_queries(shape.rows); ++q) {
    if (scratch.rest_sum[q] == 0.0F) continue;
    scratch.rest_sum[q] *= slope * std::exp2(scratch.rest_max_log2[q] - state.max_log2[q]);
  }
}

}  // namespace

BlockMoments carve_moments(Ledger& ledger, const core::Geometry& g) {
  const auto blocks = static_cast<std::size_t>(g.shape.batch * g.shape.heads_kv * g.num_kv_blocks);
  BlockMoments moments;
  moments.key_mean = ledger.take<float>(blocks * static_cast<std::size_t>(g.shape.head_dim));
  moments.key_variance = ledger.take<float>(blocks * static_cast<std::size_t>(g.shape.head_dim));
  moments.covariance = ledger.take<float>(blocks * map_floats(g));
  return moments;
}

MomentScratch carve_moment_scratch(Ledger& ledger, const core::Geometry& g) {
  const auto dim = static_cast<std::size_t>(g.shape.head_dim);
  const std::size_t rows = dim * static_cast<std::size_t>(g.config.block_kv);
  MomentScratch s{};
  s.keys = ledger.take<float>(rows);
  s.values = ledger.take<float>(rows);
  s.mean = ledger.take<float>(dim);
  s.operand = ledger.take<float>(score_floats(std::min(head_dim_of(g), kMaxQueries)));
  s.ones = ledger.take<float>(kMaxQueries);
  return s;
}

MapScratch carve_map_scratch(Ledger& ledger, const core::Geometry& g) {
  const int dim = head_dim_of(g);
  const auto channels = static_cast<std::size_t>(dim);
  const auto queries = static_cast<std::size_t>(padded_queries(g.config.block_q));
  const auto tiles = static_cast<std::size_t>(semantics::ceil_div(dim, kMaxTileKeys));
  MapScratch s{};
  for (float*& map : s.maps) map = ledger.take<float>(map_floats(g));
  for (float*& w : s.weights) w = ledger.take<float>(static_cast<std::size_t>(g.num_kv_blocks));
  for (float*& x : s.bias_log2) x = ledger.take<float>(static_cast<std::size_t>(g.num_kv_blocks));
  s.rows = ledger.take<float>(static_cast<std::size_t>(g.config.block_q) * channels);
  s.mean = ledger.take<float>(channels);
  s.square = ledger.take<float>(channels);
  s.queries = ledger.take<float>(queries * channels);
  s.tile = ledger.take<float>(static_cast<std::size_t>(kMaxTileKeys) * channels);
  s.terms = ledger.take<float>(tiles * score_floats(g.config.block_q));
  s.rest_max_log2 = ledger.take<float>(queries);
  s.rest_sum = ledger.take<float>(queries);
  return s;
}

bool is_rest_block(const core::Geometry& g, const LevelCode* codes, Range queries, index_t j,
                   index_t kv_length) {
  const Range keys = semantics::block_range(j, g.config.block_kv, kv_length);
  const auto visibility =
      semantics::block_visibility(g.config.causal, queries, keys, g.shape.len_q, kv_length);
  return semantics::is_in_rest_set(codes[j], visibility);
}

void make_moments(const Isa& isa, const core::Geometry& g, const core::Inputs& inputs,
                  const KvBlock& block, const BlockMoments& moments, const MomentScratch& scratch) {
  const auto [b, h, j] = block;
  const Range tokens = semantics::block_range(j, g.config.block_kv, inputs.kv_length(b));
  const auto count = static_cast<int>(tokens.size());
  if (count == 0) return;
  const int dim = head_dim_of(g);
  const BlockMoments head = head_moments(g, moments, b, h);
  isa.rows->load_floats(head_rows(inputs.k, inputs.kv_order, b, h, tokens.begin), count, dim,
                        scratch.keys);
  isa.rows->load_floats(head_rows(inputs.v, inputs.kv_order, b, h, tokens.begin), count, dim,
                        scratch.values);
  centre(*isa.rows, count, dim, scratch.keys, head.key_mean + j * dim);
  centre(*isa.rows, count, dim, scratch.values, scratch.mean);
  float* variance = head.key_variance + j * dim;
  std::fill_n(variance, dim, 0.0F);
  for (int r = 0; r < count; ++r) add_squares(scratch.keys + r * dim, dim, variance);
  isa.rows->store_mean(variance, static_cast<float>(count), dim, DType::kF32, variance);

  std::fill_n(scratch.ones, kMaxQueries, 1.0F);
  float* covariance = head.covariance + j * static_cast<index_t>(map_floats(g));
  std::fill_n(covariance, map_floats(g), 0.0F);
  TileStep step;
  step.keys = count;
  step.value_tile = scratch.values;
  step.scores = scratch.operand;
  step.state.rescale = scratch.ones;
  for (int first = 0; first < dim; first += kMaxQueries) {
    step.shape = {std::min(kMaxQueries, dim - first), dim};
    step.output = covariance + first * dim;
    lay_out_operand(scratch.keys, count, dim, first, step.shape.rows, scratch.operand);
    isa.f32->accumulate(step);
  }
}

void make_maps(const Isa& isa, const core::Geometry& g, const core::AttentionParams& params,
               const QueryBlocks& blocks, const BlockMoments& moments, const MapScratch& scratch) {
  const core::Inputs& in = params.inputs;
  const index_t b = blocks.b;
  const index_t h = blocks.h;
  const index_t kv_length = in.kv_length(b);
  const BlockMoments head = head_moments(g, moments, b, h / g.heads_per_kv());
  for (std::size_t place = 0; place < blocks.count; ++place) {
    const MapTask& task = blocks.tasks.at(place);
    const index_t i = task.q_block;
    const Range queries = semantics::block_range(i, g.config.block_q, g.shape.len_q);
    const PackShape shape{static_cast<int>(queries.size()), head_dim_of(g)};
    mean_query(isa, shape, head_rows(in.q, in.q_order, b, h, queries.begin), scratch);
    const RestRow row{scratch.weights.at(place), scratch.bias_log2.at(place)};
    rest_logits(isa, g, params.levels.row(b, h, i), queries, kv_length, head, scratch, row);
    logits_to_weights(g, kv_length, task.factors.mass, row);
  }
  sum_covariances(isa, g, head, blocks, scratch);
}

void multiply_map(const Isa& isa, int head_dim, const float* query, const float* map, float* term) {
  const int padded = padded_queries(head_dim);
  for (int c = 0; c < head_dim; ++c) {
    float sum = 0.0F;
    for (int begin = 0; begin < head_dim; begin += kGroupQueries) {
      const int width = std::min(kGroupQueries, padded - begin);
      sum += isa.rows->dot(query + begin, map + begin * head_dim + c * width,
                           std::min(width, head_dim - begin));
    }
    term[c] = semantics::is_finite_float(sum) ? sum : 0.0F;
  }
}

void keep_rest(const PackShape& shape, const SoftmaxState& state, const MapScratch& scratch) {
  const int queries = padded_queries(shape.rows);
  std::copy_n(state.max_log2, queries, scratch.rest_max_log2);
  std::copy_n(state.sum, queries, scratch.rest_sum);
}

void add_first_order(const Isa& isa, const PackShape& shape, const InputRows& queries,
                     const float* map, float slope, const SoftmaxState& state,
                     const MapScratch& scratch, float* output) {
  finish_rest_sums(shape, state, slope, scratch);
  isa.f32->pack_queries(shape, queries, scratch.queries);
  TileStep step;
  step.shape = shape;
  step.queries = scratch.queries;
  step.key_tile = scratch.tile;
  step.scores = scratch.terms;
  for (int first = 0; first < shape.head_dim; first += kMaxTileKeys) {
    step.keys = std::min(kMaxTileKeys, shape.head_dim - first);
    load_map(map, shape.head_dim, first, step.keys, scratch.tile);
    isa.f32->scores(step, /*accumulate=*/false);
    step.scores += score_floats(shape.rows);
  }
  isa.rows->add_terms(
      {.shape = shape, .terms = scratch.terms, .share = scratch.rest_sum, .output = output});
}

}  // namespace psa::cpu
