// SPDX-License-Identifier: Apache-2.0

// Attention stage: one soft-max over the rows of all levels that a query block reads (S-5 to S-8;
// S-22(a) for compat = official), and the first-order term of rest = linear (S-23) with the factors
// that probe rows say (S-25).
//
//   in   q [B, Hq, Lq, D], k, v [B, Hkv, Lkv, D], pyramid, levels [B, Hq, Nq, Nk]
//   out  out [B, Hq, Lq, D] and lse [B, Hq, Lq] (may be null), both in the caller's order
//
//   S-1  query head h reads KV head h / (Hq / Hkv)
//   S-5  s = scale * q . k + ln(weight)
//   S-6  out = sum e^s v / sum e^s, lse = ln sum e^s
//   S-7  nothing to read: out = 0, lse = -inf
//   S-8  a pooled row is visible if the last position that it stands for is
//
// Cost: 4 * D per query row and row that it reads.

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "reference/first_order.hpp"
#include "reference/rest_probes.hpp"
#include "reference/rows.hpp"
#include "reference/stages.hpp"
#include "semantics/blocks.hpp"
#include "semantics/first_order.hpp"
#include "semantics/online_softmax.hpp"
#include "semantics/pooling.hpp"
#include "semantics/rest_probes.hpp"

namespace psa::reference {
namespace {

using semantics::Range;

/// Keys and values of one KV head by level code: [rows][D] each.
struct KvHead {
  std::array<std::vector<Row>, kNumLevelCodes> keys;
  std::array<std::vector<Row>, kNumLevelCodes> values;
  std::vector<BlockMoments> moments;  // of the KV blocks with a real token; rest = linear only
};

/// A (pooled) row as a query sees it.
struct PooledRow {
  const Row* key;
  const Row* value;
  index_t last_position;
  double bias;
  bool is_block_mean;
};

/// A query row that has met the rows that it reads.
struct AttendedRow {
  Row out;  // [D]
  double lse;
  double rest_share;  // of the block means in the soft-max
};

KvHead load_kv_head(const core::Geometry& geometry, const core::AttentionParams& params,
                    index_t batch, index_t kv_head) {
  KvHead head;
  const std::int32_t* order = params.inputs.kv_order.of(batch, kv_head);
  head.keys[semantics::kFinestLevel] = load_head(params.inputs.k, order, batch, kv_head);
  head.values[semantics::kFinestLevel] = load_head(params.inputs.v, order, batch, kv_head);
  for (std::size_t code = semantics::kFinestLevel + 1; code < head.keys.size(); ++code) {
    const core::PyramidLevel& level = params.pyramid[code];
    if (level.k == nullptr || level.v == nullptr) continue;
    const TensorView k = level_view(geometry, level.rows, level.k);
    const TensorView v = level_view(geometry, level.rows, level.v);
    head.keys[code] = load_head(k, nullptr, batch, kv_head);
    head.values[code] = load_head(v, nullptr, batch, kv_head);
  }
  if (geometry.config.rest == Rest::kLinear) {
    head.moments =
        block_moments(head.keys[semantics::kFinestLevel], head.values[semantics::kFinestLevel],
                      geometry.config.block_kv, key_length(geometry, params.inputs, batch));
  }
  return head;
}

/// The rows that a query block reads of KV block `kv_block` at level `code`.
std::vector<PooledRow> read_block(const Config& config, const KvHead& head, index_t kv_block,
                                  int code, index_t kv_length) {
  const bool padded = config.compat == Compat::kOfficial && code > semantics::kFinestLevel;
  const index_t factor = semantics::pool_factor(code, config.block_kv);
  const Range range =
      padded ? semantics::official_pooled_range(kv_block, config.block_kv, code, kv_length)
             : semantics::pooled_range(kv_block, config.block_kv, code, kv_length);
  std::vector<PooledRow> rows;
  for (index_t g = range.begin; g < range.end; ++g) {
    // S-22(a): the padding counts as positions of its own.
    const index_t last =
        padded ? (g + 1) * factor - 1 : semantics::pooled_tokens(g, factor, kv_length).end - 1;
    const index_t weight = padded ? semantics::official_pooled_weight(factor)
                                  : semantics::pooled_weight(g, factor, kv_length);
    const auto level = static_cast<std::size_t>(code);
    rows.push_back({&head.keys[level][to_size(g)], &head.values[level][to_size(g)], last,
                    semantics::pooled_bias(weight), code == semantics::kBlockMeanCode});
  }
  return rows;
}

AttendedRow attend(const Row& query, const std::vector<PooledRow>& visible, double scale) {
  std::vector<double> logits;
  semantics::SoftmaxState<double> state;
  for (const PooledRow& row : visible) {
    logits.push_back(scale * dot(query, *row.key) + row.bias);
    state.max = std::max(state.max, logits.back());
  }
  AttendedRow result{Row(query.size(), 0.0), 0.0, 0.0};
  for (std::size_t r = 0; r < visible.size(); ++r) {
    const double p = std::exp(logits[r] - state.max);
    state.sum += p;
    if (visible[r].is_block_mean) result.rest_share += p;
    for (std::size_t c = 0; c < query.size(); ++c) result.out[c] += p * (*visible[r].value)[c];
  }
  for (double& x : result.out) x *= semantics::normaliser(state);
  result.rest_share *= semantics::normaliser(state);
  result.lse = semantics::log_sum_exp(state);
  return result;
}

/// One query head, in working order.
struct QueryHead {
  const core::Geometry& geometry;
  const core::AttentionParams& params;
  const KvHead& kv_head;
  index_t batch;
  index_t head;
  index_t kv_length;
  std::vector<Row> queries;  // [Lq][D]

  [[nodiscard]] const LevelCode* codes(index_t q_block) const {
    return params.levels.row(batch, head, q_block);
  }
  [[nodiscard]] double scale() const { return static_cast<double>(geometry.scale); }
  [[nodiscard]] bool sees(index_t row, const PooledRow& key) const {
    const index_t position = semantics::causal_position(row, geometry.shape.len_q, kv_length);
    return semantics::is_visible(geometry.config.causal, key.last_position, position);
  }
  [[nodiscard]] std::vector<PooledRow> read(index_t kv_block, int code) const {
    return read_block(geometry.config, kv_head, kv_block, code, kv_length);
  }
};

/// S-23 of one query block.
struct LinearRest {
  std::vector<Row> map;
  std::vector<bool> is_rest;       // [Nk]
  std::vector<double> extra_bias;  // [Nk], of the means of the rest set
};

/// `mass` is the mass factor of S-25.
LinearRest linear_rest(const QueryHead& head, index_t q_block, double mass) {
  const Config& config = head.geometry.config;
  const index_t len_q = head.geometry.shape.len_q;
  const Range block = semantics::block_range(q_block, config.block_q, len_q);
  LinearRest result{{},
                    std::vector<bool>(to_size(head.geometry.num_kv_blocks), false),
                    std::vector<double>(to_size(head.geometry.num_kv_blocks), 0.0)};
  std::vector<const BlockMoments*> rest;
  std::vector<std::size_t> blocks;
  for (std::size_t j = 0; j < head.kv_head.moments.size(); ++j) {
    const Range keys =
        semantics::block_range(static_cast<index_t>(j), config.block_kv, head.kv_length);
    const auto visibility =
        semantics::block_visibility(config.causal, block, keys, len_q, head.kv_length);
    if (!semantics::is_in_rest_set(head.codes(q_block)[j], visibility)) continue;
    rest.push_back(&head.kv_head.moments[j]);
    blocks.push_back(j);
    result.is_rest[j] = true;
  }
  const std::vector<Row> rows(head.queries.begin() + block.begin, head.queries.begin() + block.end);
  RestReading reading = read_rest(rest, rows, head.scale());
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    result.extra_bias[blocks[b]] = std::log(reading.mass_factor[b] * mass);
  }
  result.map = std::move(reading.map);
  return result;
}

/// What probe row `row` says; `rest` is that of its query block.
semantics::ProbeSums<double> probe(const QueryHead& head, index_t row, const LinearRest& rest) {
  const Row& query = head.queries[to_size(row)];
  const Row term = first_order_term(query, rest.map);
  const LevelCode* codes = head.codes(row / head.geometry.config.block_q);
  ProbedRow probed{query, {}, {}, {}, term};
  for (std::size_t j = 0; j < rest.is_rest.size(); ++j) {
    const auto kv_block = static_cast<index_t>(j);
    const bool is_unread = semantics::is_unread(codes[j], rest.is_rest[j]);
    for (const PooledRow& key : head.read(kv_block, semantics::kFinestLevel)) {
      if (!head.sees(row, key)) continue;
      (is_unread ? probed.unread : probed.read).push_back({key.key, key.value, key.bias});
    }
    if (!rest.is_rest[j]) continue;
    for (const PooledRow& mean : head.read(kv_block, semantics::kBlockMeanCode)) {
      probed.means.push_back({mean.key, mean.value, mean.bias + rest.extra_bias[j]});
    }
  }
  return probe_sums(probed, head.scale());
}

/// What all probe rows of the head say.
std::vector<semantics::ProbeSums<double>> probe_all(const QueryHead& head) {
  const index_t len_q = head.geometry.shape.len_q;
  std::vector<semantics::ProbeSums<double>> sums;
  for (index_t p = 0; p < semantics::probe_count(len_q); ++p) {
    const index_t row = semantics::probe_row(p, len_q);
    const LinearRest rest = linear_rest(head, row / head.geometry.config.block_q, /*mass=*/1.0);
    sums.push_back(probe(head, row, rest));
  }
  return sums;
}

void attend_head(const QueryHead& head) {
  const core::Geometry& geometry = head.geometry;
  const core::AttentionParams& params = head.params;
  const index_t len_q = geometry.shape.len_q;
  const std::int32_t* order = params.inputs.q_order.of(head.batch, head.head);
  const bool is_linear = geometry.config.rest == Rest::kLinear;
  std::vector<semantics::ProbeSums<double>> probes;
  if (is_linear) probes = probe_all(head);
  for (index_t i = 0; i < geometry.num_q_blocks; ++i) {
    const Range block = semantics::block_range(i, geometry.config.block_q, len_q);
    LinearRest rest;
    semantics::RestFactors<double> factors;
    if (is_linear) {
      factors = semantics::fit_rest(
          probes.data(), semantics::fitted_probes(geometry.config.causal, block.end, len_q));
      rest = linear_rest(head, i, factors.mass);
    }
    std::vector<PooledRow> rows;
    for (index_t j = 0; j < geometry.num_kv_blocks; ++j) {
      auto read = head.read(j, head.codes(i)[j]);
      for (PooledRow& row : read) {
        if (row.is_block_mean && is_linear) row.bias += rest.extra_bias[to_size(j)];
      }
      rows.insert(rows.end(), read.begin(), read.end());
    }
    for (index_t r = block.begin; r < block.end; ++r) {
      const Row& query = head.queries[to_size(r)];
      std::vector<PooledRow> visible;
      for (const PooledRow& row : rows) {
        if (head.sees(r, row)) visible.push_back(row);
      }
      AttendedRow result = attend(query, visible, head.scale());
      if (is_linear) {
        const Row term = first_order_term(query, rest.map);
        for (std::size_t c = 0; c < term.size(); ++c) {
          result.out[c] += result.rest_share * factors.slope * term[c];
        }
      }
      const index_t token = token_at(order, r);
      store_row(params.out, head.batch, head.head, token, result.out);
      if (params.lse == nullptr) continue;
      params.lse[(head.batch * geometry.shape.heads_q + head.head) * len_q + token] =
          static_cast<float>(result.lse);
    }
  }
}

}  // namespace

void attention(const core::StageContext& context, const core::AttentionParams& params) {
  const core::Geometry& geometry = context.geometry;
  for (index_t b = 0; b < geometry.shape.batch; ++b) {
    for (index_t h = 0; h < geometry.shape.heads_q; ++h) {
      const KvHead kv_head = load_kv_head(geometry, params, b, h / geometry.heads_per_kv());
      const std::int32_t* order = params.inputs.q_order.of(b, h);
      attend_head({geometry, params, kv_head, b, h, key_length(geometry, params.inputs, b),
                   load_head(params.inputs.q, order, b, h)});
    }
  }
}

}  // namespace psa::reference
