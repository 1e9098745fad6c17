// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "semantics/importance.hpp"
#include "support/formula_rows.hpp"
#include "support/formulas.hpp"

namespace psa::testing {
namespace {

/// What one head's estimate is made from, in working order.
template <typename Real>
struct EstimateInput {
  const core::Geometry& geometry;
  index_t batch;
  index_t head_q;
  index_t head_kv;
  index_t n;       // valid keys
  Matrix<Real> q;  // [Lq][D]
  Matrix<Real> k;  // [Lkv][D], or the pooled keys for pooled_lse

  [[nodiscard]] bool is_visible(index_t key, index_t query) const {
    return !geometry.config.causal || key <= query + n - geometry.shape.len_q;
  }
};

/// The `count` offsets of smallest hash.
std::vector<index_t> draw(const Config& config, semantics::Side side, index_t b, index_t h,
                          index_t block, index_t count) {
  std::vector<std::pair<std::uint64_t, index_t>> hashed;
  for (index_t o = 0; o < block; ++o) {
    hashed.emplace_back(semantics::sample_hash(config.seed, side, b, h, o), o);
  }
  std::sort(hashed.begin(), hashed.end());
  std::vector<index_t> offsets;
  for (index_t i = 0; i < count; ++i) offsets.push_back(hashed[at(i)].second);
  return offsets;
}

/// Logits of one query with the visible samples of each KV block: [Nk][.].
template <typename Real>
Matrix<Real> sample_logits(const EstimateInput<Real>& in, index_t r,
                           const std::vector<index_t>& offsets) {
  const index_t block = in.geometry.config.block_kv;
  Matrix<Real> logits(at(in.geometry.num_kv_blocks));
  for (index_t j = 0; j * block < in.n; ++j) {
    const index_t tokens = std::min(block, in.n - j * block);
    for (const index_t o : offsets) {
      const index_t key = j * block + o % tokens;
      if (!in.is_visible(key, r)) continue;
      logits[at(j)].push_back(static_cast<Real>(in.geometry.scale) *
                              dot(in.q[at(r)], in.k[at(key)]));
    }
  }
  return logits;
}

/// Row i of S-9 or S-10.
template <typename Real>
std::vector<Real> sampled_row(const EstimateInput<Real>& in, index_t i) {
  const Config& config = in.geometry.config;
  const bool is_max = config.importance == Importance::kSampledMax;
  const auto keys =
      draw(config, semantics::Side::kKey, in.batch, in.head_kv, config.block_kv, config.samples_kv);
  const index_t tokens =
      std::min<index_t>(config.block_q, in.geometry.shape.len_q - i * config.block_q);
  std::vector<Real> row(at(in.geometry.num_kv_blocks), Real(0));
  Real seeing = 0;
  for (const index_t o : draw(config, semantics::Side::kQuery, in.batch, in.head_q, config.block_q,
                              config.samples_q)) {
    const Matrix<Real> logits = sample_logits(in, i * config.block_q + o % tokens, keys);
    Real largest = kNothing<Real>;
    for (const auto& block : logits) {
      for (const Real s : block) largest = std::max(largest, s);
    }
    if (largest == kNothing<Real>) continue;
    seeing += Real(1);
    std::vector<Real> part(row.size(), Real(0));
    Real total = 0;
    for (std::size_t j = 0; j < row.size(); ++j) {
      const index_t real =
          std::min<index_t>(config.block_kv, in.n - static_cast<index_t>(j) * config.block_kv);
      for (const Real s : logits[j]) {
        const Real e = std::exp(s - largest);
        part[j] =
            is_max ? std::max(part[j], e)
                   : part[j] + e * static_cast<Real>(real) / static_cast<Real>(config.samples_kv);
      }
      total += part[j];
    }
    for (std::size_t j = 0; j < row.size(); ++j) {
      row[j] = is_max ? std::max(row[j], part[j]) : row[j] + part[j] / total;
    }
  }
  for (Real& x : row) x = is_max || seeing == Real(0) ? x : x / seeing;
  return row;
}

/// Logit of a group pair by S-11 or S-12.
template <typename Real>
Real group_logit(const EstimateInput<Real>& in, index_t a, index_t b, index_t size) {
  const index_t len_q = in.geometry.shape.len_q;
  const auto scale = static_cast<Real>(in.geometry.scale);
  const index_t last_query = std::min((a + 1) * size, len_q) - 1;
  const index_t end_key = std::min((b + 1) * size, in.n);
  if (in.geometry.config.importance == Importance::kAntidiagonal) {
    if (!in.is_visible(b * size, last_query)) return kNothing<Real>;
    Real sum = 0;
    for (index_t u = 0; u < size; ++u) {
      const index_t query = a * size + size - 1 - u;
      const index_t key = b * size + u;
      if (query < len_q && key < in.n) sum += dot(in.q[at(query)], in.k[at(key)]);
    }
    return scale * sum / static_cast<Real>(size);
  }
  if (!in.is_visible(end_key - 1, last_query)) return kNothing<Real>;
  std::vector<Real> mean(in.q.front().size(), Real(0));
  for (index_t r = a * size; r <= last_query; ++r) {
    for (std::size_t c = 0; c < mean.size(); ++c) mean[c] += in.q[at(r)][c];
  }
  for (Real& x : mean) x /= static_cast<Real>(last_query + 1 - a * size);
  return scale * dot(mean, in.k[at(b)]) + std::log(static_cast<Real>(end_key - b * size));
}

/// Row i of S-11 or S-12.
template <typename Real>
std::vector<Real> group_row(const EstimateInput<Real>& in, index_t i) {
  const Config& config = in.geometry.config;
  const index_t size = config.importance == Importance::kAntidiagonal ? config.antidiagonal_stride
                                                                      : config.pooled_tokens;
  const index_t end = std::min<index_t>((i + 1) * config.block_q, in.geometry.shape.len_q);
  std::vector<Real> row(at(in.geometry.num_kv_blocks), Real(0));
  Real seeing = 0;
  for (index_t a = i * config.block_q / size; a * size < end; ++a) {
    std::vector<Real> logits;
    for (index_t b = 0; b * size < in.n; ++b) logits.push_back(group_logit(in, a, b, size));
    const Real largest =
        logits.empty() ? kNothing<Real> : *std::max_element(logits.begin(), logits.end());
    if (largest == kNothing<Real>) continue;
    seeing += Real(1);
    Real total = 0;
    for (const Real s : logits) total += std::exp(s - largest);
    for (std::size_t b = 0; b < logits.size(); ++b) {
      row[b * at(size) / at(config.block_kv)] += std::exp(logits[b] - largest) / total;
    }
  }
  for (Real& x : row) x = seeing == Real(0) ? x : x / seeing;
  return row;
}

template <typename Real>
Values importance_formula(const core::Geometry& g, const core::Inputs& in,
                          const core::KvPyramid& pyramid) {
  const ProblemShape& s = g.shape;
  const bool pooled = g.config.importance == Importance::kPooledLse;
  const bool grouped = pooled || g.config.importance == Importance::kAntidiagonal;
  Values values{{s.batch, s.heads_q, g.num_q_blocks, g.num_kv_blocks}, {}};
  for (index_t b = 0; b < s.batch; ++b) {
    for (index_t h = 0; h < s.heads_q; ++h) {
      const index_t head_kv = h / (s.heads_q / s.heads_kv);
      EstimateInput<Real> input{g, b, h, head_kv, in.kv_length(b), {}, {}};
      input.q = head_of<Real>(in.q, in.q_order.of(b, h), b, h);
      const core::PyramidLevel& level = pyramid[g.config.pooled_tokens == 8 ? 4 : 5];
      input.k = pooled ? head_of<Real>(pooled_view(g, level, level.k), nullptr, b, head_kv)
                       : head_of<Real>(in.k, in.kv_order.of(b, head_kv), b, head_kv);
      for (index_t i = 0; i < g.num_q_blocks; ++i) {
        const std::vector<Real> row = grouped ? group_row(input, i) : sampled_row(input, i);
        values.data.insert(values.data.end(), row.begin(), row.end());
      }
    }
  }
  return values;
}

}  // namespace

Values exact_importance(const core::Geometry& geometry, const core::Inputs& inputs,
                        const core::KvPyramid& pyramid) {
  return importance_formula<double>(geometry, inputs, pyramid);
}

Values plain_importance(const core::Geometry& geometry, const core::Inputs& inputs,
                        const core::KvPyramid& pyramid) {
  return importance_formula<float>(geometry, inputs, pyramid);
}

}  // namespace psa::testing
