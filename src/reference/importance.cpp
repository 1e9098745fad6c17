// SPDX-License-Identifier: Apache-2.0

// Importance stage: how much each query block needs each KV block (S-9 to S-13).
//
//   in   q [B, Hq, Lq, D], k [B, Hkv, Lkv, D]; for pooled_lse the pooled keys of factor g
//   out  importance of a chunk; 0 where S-8 hides a block or no key is real
//
//   S-9   sampled_max    max over r of exp(M[r,j] - max_j' M[r,j'])
//   S-10  sampled_mass   mean over r of E[r,j] / sum_j' E[r,j']
//   S-11  antidiagonal   mean over the groups a of block i of sum over the groups b of block j of
//   P_ab S-12  pooled_lse     the same over means of sub-blocks S-13  user_scores    `importance`
//   holds the caller's scores already; sharing is all that is left
//
// Samples (S-9, S-10) and groups (S-11, S-12) that see no key are left out of the mean.
//
// Cost: D per logit; Lq * Lkv / 16 logits by default for the samples, Lq * Lkv / (t * t) of t * D
// for the antidiagonal, Lq * Lkv / (g * g) for the sub-blocks.

#include "semantics/importance.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "psa/error.hpp"
#include "reference/rows.hpp"
#include "reference/stages.hpp"

namespace psa::reference {
namespace {

using semantics::Range;
using semantics::Side;

constexpr double kHidden = -std::numeric_limits<double>::infinity();

/// One query head in working order.
struct Head {
  const core::Geometry& geometry;
  index_t batch;
  index_t head_q;
  index_t kv_length;
  std::vector<Row> queries;      // [Lq][D]
  std::vector<Row> keys;         // [Lkv][D]
  std::vector<Row> pooled_keys;  // [rows][D], pooled_lse only

  [[nodiscard]] const Config& config() const { return geometry.config; }
  [[nodiscard]] double scale() const { return static_cast<double>(geometry.scale); }
  [[nodiscard]] index_t head_kv() const { return head_q / geometry.heads_per_kv(); }
  [[nodiscard]] Range queries_of(index_t q_block) const {
    return semantics::block_range(q_block, config().block_q, geometry.shape.len_q);
  }
  [[nodiscard]] Range keys_of(index_t kv_block) const {
    return semantics::block_range(kv_block, config().block_kv, kv_length);
  }
  [[nodiscard]] index_t position_of(index_t query) const {
    return semantics::causal_position(query, geometry.shape.len_q, kv_length);
  }
};

/// Importance of one query block for all KV blocks: [Nk].
using ImportanceRow = std::vector<double>;

// ---- S-9, S-10 ----------------------------------------------------------------------------------

/// S-9. Offsets of the samples in every block of a head, in rising order.
std::vector<index_t> sampled_offsets(const Head& head, Side side) {
  const Config& config = head.config();
  const bool is_query = side == Side::kQuery;
  const index_t block_size = is_query ? config.block_q : config.block_kv;
  const index_t samples = is_query ? config.samples_q : config.samples_kv;
  const index_t head_index = is_query ? head.head_q : head.head_kv();
  std::vector<index_t> offsets;
  for (index_t o = 0; o < block_size; ++o) {
    if (semantics::is_sampled(config.seed, side, head.batch, head_index, o, block_size, samples)) {
      offsets.push_back(o);
    }
  }
  return offsets;
}

/// Logits of one sampled query with the visible samples of each KV block: [Nk][<= samples_kv].
std::vector<std::vector<double>> sampled_logits(const Head& head, index_t query,
                                                const std::vector<index_t>& offsets) {
  std::vector<std::vector<double>> logits(to_size(head.geometry.num_kv_blocks));
  for (index_t j = 0; j < head.geometry.num_kv_blocks; ++j) {
    const Range block = head.keys_of(j);
    if (block.size() == 0) continue;
    for (const index_t offset : offsets) {
      const index_t key = semantics::sample_position(block, offset);
      if (!semantics::is_visible(head.config().causal, key, head.position_of(query))) continue;
      logits[to_size(j)].push_back(head.scale() *
                                   dot(head.queries[to_size(query)], head.keys[to_size(key)]));
    }
  }
  return logits;
}

/// What one sampled query adds: peak ratios (S-9) or shares of its mass (S-10). Empty: it sees no
/// key.
ImportanceRow sampled_query(const Head& head, const std::vector<std::vector<double>>& logits) {
  ImportanceRow block_max(logits.size(), kHidden);  // M[r, j]
  for (std::size_t j = 0; j < logits.size(); ++j) {
    for (const double s : logits[j]) block_max[j] = std::max(block_max[j], s);
  }
  const double row_max = *std::max_element(block_max.begin(), block_max.end());
  if (row_max == kHidden) return {};
  ImportanceRow row(logits.size(), 0.0);
  if (head.config().importance == Importance::kSampledMax) {
    for (std::size_t j = 0; j < row.size(); ++j) row[j] = std::exp(block_max[j] - row_max);
    return row;
  }
  const auto samples = static_cast<double>(head.config().samples_kv);
  double total = 0.0;
  for (std::size_t j = 0; j < row.size(); ++j) {
    for (const double s : logits[j]) row[j] += std::exp(s - row_max);
    row[j] *= static_cast<double>(head.keys_of(static_cast<index_t>(j)).size()) / samples;
    total += row[j];
  }
  for (double& x : row) x /= total;
  return row;
}

ImportanceRow sampled(const Head& head, index_t q_block) {
  const bool is_max = head.config().importance == Importance::kSampledMax;
  const std::vector<index_t> key_offsets = sampled_offsets(head, Side::kKey);
  ImportanceRow result(to_size(head.geometry.num_kv_blocks), 0.0);
  double seeing = 0.0;
  for (const index_t offset : sampled_offsets(head, Side::kQuery)) {
    const index_t query = semantics::sample_position(head.queries_of(q_block), offset);
    const ImportanceRow row = sampled_query(head, sampled_logits(head, query, key_offsets));
    if (row.empty()) continue;
    seeing += 1.0;
    for (std::size_t j = 0; j < row.size(); ++j) {
      result[j] = is_max ? std::max(result[j], row[j]) : result[j] + row[j];
    }
  }
  if (!is_max && seeing > 0.0) {
    for (double& x : result) x /= seeing;
  }
  return result;
}

// ---- S-11, S-12 ---------------------------------------------------------------------------------

/// Logit of query group a and key group b; kHidden if the causal rule hides b from a.
using GroupLogit = std::function<double(index_t a, index_t b)>;

/// S-11. Mean over the query groups of a block of their soft-max mass in each KV block.
ImportanceRow group_mass(const Head& head, index_t q_block, index_t group_tokens,
                         const GroupLogit& logit) {
  const Range queries = head.queries_of(q_block);
  const index_t key_groups = semantics::ceil_div(head.kv_length, group_tokens);
  ImportanceRow result(to_size(head.geometry.num_kv_blocks), 0.0);
  double seeing = 0.0;
  for (index_t a = queries.begin / group_tokens; a * group_tokens < queries.end; ++a) {
    std::vector<double> logits;
    double largest = kHidden;
    for (index_t b = 0; b < key_groups; ++b) {
      logits.push_back(logit(a, b));
      largest = std::max(largest, logits.back());
    }
    if (largest == kHidden) continue;
    seeing += 1.0;
    double total = 0.0;
    for (const double s : logits) total += std::exp(s - largest);
    for (index_t b = 0; b < key_groups; ++b) {
      const index_t kv_block = b * group_tokens / head.config().block_kv;
      result[to_size(kv_block)] += std::exp(logits[to_size(b)] - largest) / total;
    }
  }
  if (seeing > 0.0) {
    for (double& x : result) x /= seeing;
  }
  return result;
}

ImportanceRow antidiagonal(const Head& head, index_t q_block) {
  const index_t stride = head.config().antidiagonal_stride;
  const index_t len_q = head.geometry.shape.len_q;
  return group_mass(head, q_block, stride, [&](index_t a, index_t b) {
    const index_t last_query = semantics::min_of((a + 1) * stride, len_q) - 1;
    if (!semantics::is_group_visible(head.config().causal, b * stride,
                                     head.position_of(last_query))) {
      return kHidden;
    }
    double sum = 0.0;
    for (index_t u = 0; u < stride; ++u) {
      const index_t query = a * stride + semantics::antidiagonal_query_offset(u, stride);
      const index_t key = b * stride + u;
      if (query >= len_q || key >= head.kv_length) continue;
      sum += dot(head.queries[to_size(query)], head.keys[to_size(key)]);
    }
    return head.scale() / static_cast<double>(stride) * sum;
  });
}

ImportanceRow pooled_lse(const Head& head, index_t q_block) {
  const index_t factor = head.config().pooled_tokens;
  const index_t len_q = head.geometry.shape.len_q;
  return group_mass(head, q_block, factor, [&](index_t a, index_t b) {
    const Range queries = semantics::pooled_tokens(a, factor, len_q);
    const Range keys = semantics::pooled_tokens(b, factor, head.kv_length);
    if (!semantics::is_group_visible(head.config().causal, keys.end - 1,
                                     head.position_of(queries.end - 1))) {
      return kHidden;
    }
    const Row mean_query = mean_of(head.queries, queries);
    const index_t weight = semantics::pooled_weight(b, factor, head.kv_length);
    return head.scale() * dot(mean_query, head.pooled_keys[to_size(b)]) +
           semantics::pooled_bias(weight);
  });
}

// ---- the stage ----------------------------------------------------------------------------------

/// Level code whose pool factor is the sub-block of pooled_lse.
std::size_t pooled_lse_level(const Config& config) {
  int code = semantics::kFinestLevel;
  while (semantics::pool_factor(code, config.block_kv) != config.pooled_tokens) ++code;
  return static_cast<std::size_t>(code);
}

Head load_query_head(const core::Geometry& geometry, const core::ImportanceParams& params,
                     index_t batch, index_t head_q) {
  Head head{geometry, batch, head_q, key_length(geometry, params.inputs, batch), {}, {}, {}};
  const index_t head_kv = head.head_kv();
  head.queries = load_head(params.inputs.q, params.inputs.q_order.of(batch, head_q), batch, head_q);
  head.keys = load_head(params.inputs.k, params.inputs.kv_order.of(batch, head_kv), batch, head_kv);
  if (geometry.config.importance == Importance::kPooledLse) {
    const core::PyramidLevel& level = params.pyramid[pooled_lse_level(geometry.config)];
    const TensorView view = level_view(geometry, level.rows, level.k);
    head.pooled_keys = load_head(view, nullptr, batch, head_kv);
  }
  return head;
}

ImportanceRow estimate(const Head& head, index_t q_block) {
  switch (head.config().importance) {
    case Importance::kSampledMax:
    case Importance::kSampledMass:
      return sampled(head, q_block);
    case Importance::kAntidiagonal:
      return antidiagonal(head, q_block);
    case Importance::kPooledLse:
      return pooled_lse(head, q_block);
    case Importance::kUserScores:
      break;
  }
  throw Error(Status::kInternal, "importance is user_scores; there is nothing to estimate");
}

/// Blocks that a query block cannot read have no importance, whatever the caller gave.
void clear_hidden(const core::Geometry& geometry, index_t q_block, index_t kv_length, float* row) {
  const Config& config = geometry.config;
  const index_t len_q = geometry.shape.len_q;
  const Range queries = semantics::block_range(q_block, config.block_q, len_q);
  for (index_t j = 0; j < geometry.num_kv_blocks; ++j) {
    const Range keys = semantics::block_range(j, config.block_kv, kv_length);
    const auto visibility =
        semantics::block_visibility(config.causal, queries, keys, len_q, kv_length);
    if (visibility == semantics::Visibility::kHidden) row[j] = 0.0F;
  }
}

/// S-13. `rows` are the importances [Nk] of one query block for the heads of a KV group; each
/// becomes their mean after normalisation.
void share_rows(const std::vector<float*>& rows, index_t num_kv_blocks) {
  std::vector<float> sums;
  for (const float* row : rows) {
    float sum = 0.0F;
    for (index_t j = 0; j < num_kv_blocks; ++j) sum += row[j];
    sums.push_back(sum);
  }
  for (index_t j = 0; j < num_kv_blocks; ++j) {
    float mean = 0.0F;
    for (std::size_t h = 0; h < rows.size(); ++h) {
      if (sums[h] > 0.0F && std::isfinite(sums[h])) mean += rows[h][j] / sums[h];
    }
    mean /= static_cast<float>(rows.size());
    for (float* row : rows) row[j] = mean;
  }
}

/// The chunk's rows of batch element b.
void batch_importance(const core::Geometry& geometry, const core::ImportanceParams& params,
                      index_t b) {
  const core::RowChunk& chunk = params.chunk;
  const index_t heads_q = geometry.shape.heads_q;
  const auto row_of = [&](index_t head_q, index_t q_block) {
    const index_t head = (b - chunk.batch_begin) * heads_q + head_q;
    const index_t row = head * chunk.q_blocks() + q_block - chunk.q_block_begin;
    return params.importance + row * geometry.num_kv_blocks;
  };
  const bool estimates = geometry.config.importance != Importance::kUserScores;
  const index_t kv_length = key_length(geometry, params.inputs, b);
  for (index_t h = 0; estimates && h < heads_q; ++h) {
    const Head head = load_query_head(geometry, params, b, h);
    for (index_t i = chunk.q_block_begin; i < chunk.q_block_end; ++i) {
      const ImportanceRow row = estimate(head, i);
      std::transform(row.begin(), row.end(), row_of(h, i),
                     [](double x) { return static_cast<float>(x); });
    }
  }
  for (index_t h = 0; h < heads_q; ++h) {
    for (index_t i = chunk.q_block_begin; i < chunk.q_block_end; ++i) {
      clear_hidden(geometry, i, kv_length, row_of(h, i));
    }
  }
  if (!geometry.config.share_group_map) return;
  for (index_t first = 0; first < heads_q; first += geometry.heads_per_kv()) {
    for (index_t i = chunk.q_block_begin; i < chunk.q_block_end; ++i) {
      std::vector<float*> rows;
      for (index_t h = first; h < first + geometry.heads_per_kv(); ++h) {
        rows.push_back(row_of(h, i));
      }
      share_rows(rows, geometry.num_kv_blocks);
    }
  }
}

}  // namespace

void importance(const core::StageContext& context, const core::ImportanceParams& params) {
  const core::Geometry& geometry = context.geometry;
  for (index_t b = params.chunk.batch_begin; b < params.chunk.batch_end; ++b) {
    batch_importance(geometry, params, b);
  }
}

}  // namespace psa::reference
