// SPDX-License-Identifier: Apache-2.0
#include "support/formulas.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "support/formula_rows.hpp"

namespace psa::testing {
namespace {

float rounded(float value, DType dtype) {
  float stored = 0.0F;
  core::store_element(&stored, dtype, 0, value);
  return core::load_element(&stored, dtype, 0);
}
double rounded(double value, DType /*dtype*/) { return value; }

/// Key and value rows of one KV head: [code][row][D].
template <typename Real>
struct KvRows {
  std::vector<Matrix<Real>> k{at(kNumLevelCodes)};
  std::vector<Matrix<Real>> v{at(kNumLevelCodes)};
};

template <typename Real>
KvRows<Real> kv_rows(const core::Geometry& g, const core::Inputs& in,
                     const core::KvPyramid& pyramid, index_t b, index_t h) {
  KvRows<Real> rows;
  const std::int32_t* order = in.kv_order.of(b, h);
  rows.k[1] = head_of<Real>(in.k, order, b, h);
  rows.v[1] = head_of<Real>(in.v, order, b, h);
  for (std::size_t code = 2; code < rows.k.size(); ++code) {
    const core::PyramidLevel& level = pyramid[code];
    if (level.k == nullptr || level.v == nullptr) continue;
    rows.k[code] = head_of<Real>(pooled_view(g, level, level.k), nullptr, b, h);
    rows.v[code] = head_of<Real>(pooled_view(g, level, level.v), nullptr, b, h);
  }
  return rows;
}

/// A row that one query reads.
template <typename Real>
struct ReadRow {
  const std::vector<Real>* k;
  const std::vector<Real>* v;
  Real bias;
  bool is_block_mean;
};

/// R of S-6 for query row r; `codes` [Nk], `mass_factor` [Nk] of block means or empty.
template <typename Real>
std::vector<ReadRow<Real>> rows_read(const core::Geometry& g, const KvRows<Real>& kv,
                                     const LevelCode* codes, index_t r, index_t n,
                                     const std::vector<Real>& mass_factor) {
  const Config& config = g.config;
  const index_t block = config.block_kv;
  const index_t position = r + n - g.shape.len_q;
  std::vector<ReadRow<Real>> read;
  for (index_t j = 0; j * block < n; ++j) {
    const std::size_t code = codes[j];
    if (code == kSkip) continue;
    const index_t factor = code == kBlockMean ? block : index_t{1} << (code - 1);
    const bool padded = config.compat == Compat::kOfficial && code > 1;
    const index_t block_end = padded ? (j + 1) * block : std::min((j + 1) * block, n);
    for (index_t begin = j * block; begin < block_end; begin += factor) {
      const index_t end = std::min(begin + factor, block_end);
      if (config.causal && end - 1 > position) continue;
      const std::size_t row = at(begin / factor);
      const bool is_mean = code == kBlockMean;
      const Real weight = static_cast<Real>(end - begin) *
                          (is_mean && !mass_factor.empty() ? mass_factor[at(j)] : Real(1));
      read.push_back({&kv.k[code][row], &kv.v[code][row], std::log(weight), is_mean});
    }
  }
  return read;
}

template <typename Real>
struct SoftMax {
  Real lse;
  Real mean_share;  // of the block means
};

/// Output of one query.
template <typename Real>
SoftMax<Real> soft_max(const std::vector<Real>& query, const std::vector<ReadRow<Real>>& read,
                       Real scale, DType probabilities, std::vector<Real>& out) {
  std::fill(out.begin(), out.end(), Real(0));
  std::vector<Real> logits;
  logits.reserve(read.size());
  for (const ReadRow<Real>& row : read) logits.push_back(scale * dot(query, *row.k) + row.bias);
  if (logits.empty()) return {kNothing<Real>, 0};
  const Real largest = *std::max_element(logits.begin(), logits.end());
  Real sum = 0;
  Real mean_sum = 0;
  for (std::size_t i = 0; i < read.size(); ++i) {
    const Real p = std::exp(logits[i] - largest);
    sum += p;
    if (read[i].is_block_mean) mean_sum += p;
    const Real weight = rounded(p, probabilities);
    for (std::size_t c = 0; c < out.size(); ++c) out[c] += weight * (*read[i].v)[c];
  }
  for (Real& x : out) x /= sum;
  return {largest + std::log(sum), mean_sum / sum};
}

/// Mean and covariance of keys and values [begin, end), and the variance of the keys (S-23).
template <typename Real>
struct Moments {
  std::vector<Real> k_mean;
  std::vector<Real> v_mean;
  Matrix<Real> covariance;
  std::vector<Real> key_variance;
  index_t index;
  Real n;

  Moments(const Matrix<Real>& k, const Matrix<Real>& v, index_t block, index_t begin, index_t end)
      : k_mean(k[0].size()),
        v_mean(k[0].size()),
        covariance(k[0].size(), std::vector<Real>(k[0].size())),
        key_variance(k[0].size()),
        index(block),
        n(static_cast<Real>(end - begin)) {
    const std::size_t dim = k_mean.size();
    for (std::size_t j = at(begin); j < at(end); ++j) {
      for (std::size_t c = 0; c < dim; ++c) {
        k_mean[c] += k[j][c] / n;
        v_mean[c] += v[j][c] / n;
      }
    }
    for (std::size_t j = at(begin); j < at(end); ++j) {
      for (std::size_t c = 0; c < dim; ++c) {
        const Real key = k[j][c] - k_mean[c];
        key_variance[c] += key * key / n;
        for (std::size_t e = 0; e < dim; ++e) covariance[c][e] += key * (v[j][e] - v_mean[e]) / n;
      }
    }
  }
};

/// Of all KV blocks with a valid key, n keys.
template <typename Real>
std::vector<Moments<Real>> block_moments(const core::Geometry& g, const KvRows<Real>& kv,
                                         index_t n) {
  std::vector<Moments<Real>> moments;
  const index_t block = g.config.block_kv;
  for (index_t j = 0; j * block < n; ++j) {
    moments.emplace_back(kv.k[1], kv.v[1], j, j * block, std::min((j + 1) * block, n));
  }
  return moments;
}

/// Moments of the blocks of a rest set.
template <typename Real>
using RestSet = std::vector<const Moments<Real>*>;

/// x with the significant bits of `dtype`, and any exponent.
template <typename Real>
Real rounded_in_unit(Real x, DType dtype) {
  int exponent = 0;
  const Real fraction = std::frexp(x, &exponent);
  return std::ldexp(rounded(fraction, dtype), exponent);
}

/// S-23 for the rows of a query block.
template <typename Real>
struct RestReading {
  std::vector<Real> mass_factor;  // [KV blocks]; 1 outside of the rest set
  Matrix<Real> map;               // M, its parts rounded; zeros: no term
};

/// `queries` [begin, end) are the rows of the block, `blocks` KV blocks there are.
template <typename Real>
RestReading<Real> read_rest(const RestSet<Real>& rest, const Matrix<Real>& queries, index_t begin,
                            index_t end, index_t blocks, Real scale, DType dtype) {
  const std::size_t dim = queries[0].size();
  std::vector<Real> mean(dim);
  std::vector<Real> square(dim);
  const auto rows = static_cast<Real>(end - begin);
  for (std::size_t r = at(begin); r < at(end); ++r) {
    for (std::size_t c = 0; c < dim; ++c) {
      mean[c] += queries[r][c] / rows;
      square[c] += queries[r][c] * queries[r][c] / rows;
    }
  }
  RestReading<Real> reading{std::vector<Real>(at(blocks), Real(1)),
                            Matrix<Real>(dim, std::vector<Real>(dim))};
  Real total = 0;
  for (const Moments<Real>* block : rest) {
    const Real weight = block->n * std::exp(scale * dot(mean, block->k_mean));
    const Real mass = 1 + scale * scale * dot(square, block->key_variance) / 2;
    reading.mass_factor[at(block->index)] = mass;
    total += weight * mass;
    const Real factor = rounded_in_unit(weight, dtype);
    for (std::size_t c = 0; c < dim; ++c) {
      for (std::size_t e = 0; e < dim; ++e) {
        reading.map[c][e] += factor * rounded_in_unit(block->covariance[c][e], dtype);
      }
    }
  }
  if (rest.empty()) return reading;
  for (std::vector<Real>& row : reading.map) {
    for (Real& x : row) x = rounded_in_unit(x, dtype) * scale / total;
  }
  return reading;
}

/// One query head and what it reads.
template <typename Real>
struct Head {
  const core::Geometry& g;
  const KvRows<Real>& kv;
  const Matrix<Real>& queries;
  const std::vector<Moments<Real>>& moments;  // [KV blocks with a valid key]; empty: not linear
  const LevelCode* levels;                    // [Nq, Nk]
  index_t n;                                  // valid keys
  DType probabilities;
  DType maps;

  [[nodiscard]] Real scale() const { return static_cast<Real>(g.scale); }
  [[nodiscard]] bool is_rounded() const {
    return std::is_same_v<Real, float> && probabilities != DType::kF32;
  }
  [[nodiscard]] const LevelCode* codes(index_t i) const { return levels + i * g.num_kv_blocks; }
  /// R_i of S-23.
  [[nodiscard]] RestSet<Real> rest(index_t i) const {
    RestSet<Real> rest;
    const index_t first_position = i * g.config.block_q + n - g.shape.len_q;
    for (const Moments<Real>& block : moments) {
      const index_t end = std::min((block.index + 1) * g.config.block_kv, n);
      if (codes(i)[block.index] != kBlockMean) continue;
      if (!g.config.causal || end - 1 <= first_position) rest.push_back(&block);
    }
    return rest;
  }
  [[nodiscard]] RestReading<Real> reading(index_t i) const {
    const index_t begin = i * g.config.block_q;
    const index_t end = std::min(begin + g.config.block_q, g.shape.len_q);
    return read_rest(rest(i), queries, begin, end, g.num_kv_blocks, scale(), maps);
  }
};

template <typename Real>
std::vector<Real> product(const std::vector<Real>& query, const Matrix<Real>& map) {
  std::vector<Real> result(query.size());
  for (std::size_t c = 0; c < query.size(); ++c) {
    for (std::size_t e = 0; e < query.size(); ++e) result[e] += query[c] * map[c][e];
  }
  return result;
}

// S-25: what a probe row says, in vectors over the channels.
template <typename Real>
struct Probe {
  index_t row;
  Real read = 0;    // m_R
  Real mass = 0;    // m^
  Real square = 0;  // of the exact row
  std::vector<Real> y;
  std::vector<Real> x1;
  std::vector<Real> x2;
};

/// One number, the mass factor, governs all rows of a head, so a single evaluation with rounded
/// probabilities would tell little of how much rounding may do: there are several, whose roundings
/// differ since each has another unit of the probabilities.
constexpr int kRoundings = 16;

/// Without rounding, and then with each rounding, if there is any.
template <typename Real>
std::vector<Probe<Real>> probe_row(const Head<Real>& head, index_t r) {
  const core::Geometry& g = head.g;
  const index_t i = r / g.config.block_q;
  const std::vector<Real>& query = head.queries[at(r)];
  const RestReading<Real> reading = head.reading(i);
  std::vector<bool> is_rest(at(g.num_kv_blocks));
  for (const Moments<Real>* block : head.rest(i)) is_rest[at(block->index)] = true;
  const std::vector<LevelCode> finest(at(g.num_kv_blocks), 1);
  const std::vector<LevelCode> coarsest(at(g.num_kv_blocks), kBlockMean);
  const auto keys = rows_read(g, head.kv, finest.data(), r, head.n, std::vector<Real>{});
  const auto means = rows_read(g, head.kv, coarsest.data(), r, head.n, reading.mass_factor);
  const auto logit = [&](const ReadRow<Real>& row) {
    return head.scale() * dot(query, *row.k) + row.bias;
  };
  Real largest = kNothing<Real>;
  for (const auto& row : keys) largest = std::max(largest, logit(row));
  for (std::size_t j = 0; j < means.size(); ++j) {
    if (is_rest[j]) largest = std::max(largest, logit(means[j]));
  }
  const std::size_t dim = query.size();
  std::vector<Real> weights;
  for (const auto& row : keys) weights.push_back(std::exp(logit(row) - largest));
  Probe<Real> probe{
      r, 0, 0, 0, std::vector<Real>(dim), std::vector<Real>(dim), std::vector<Real>(dim)};
  std::vector<Real> mean_weights;
  for (std::size_t j = 0; j < means.size(); ++j) {
    mean_weights.push_back(is_rest[j] ? std::exp(logit(means[j]) - largest) : Real(0));
    probe.mass += mean_weights[j];
  }
  const LevelCode* codes = head.codes(i);
  const auto is_unread = [&](std::size_t key) {
    const std::size_t j = key / at(g.config.block_kv);
    return is_rest[j] || codes[j] == kSkip;
  };
  Real total = 0;
  for (std::size_t j = 0; j < keys.size(); ++j) {
    total += weights[j];
    if (!is_unread(j)) probe.read += weights[j];
  }
  const std::vector<Real> term = product(query, reading.map);
  std::vector<Probe<Real>> probes;
  for (int rounding = 0; rounding <= (head.is_rounded() ? kRoundings : 0); ++rounding) {
    const Real unit = std::exp2(static_cast<Real>(rounding) / kRoundings);
    const auto stored = [&](Real p) {
      return rounding == 0 ? p : unit * rounded(p / unit, head.probabilities);
    };
    std::vector<Real> all(dim);
    std::vector<Real> read(dim);
    std::vector<Real> rest(dim);
    for (std::size_t j = 0; j < means.size(); ++j) {
      for (std::size_t c = 0; c < dim; ++c) rest[c] += stored(mean_weights[j]) * (*means[j].v)[c];
    }
    for (std::size_t j = 0; j < keys.size(); ++j) {
      const Real weight = stored(weights[j]);
      for (std::size_t c = 0; c < dim; ++c) {
        const Real part = weight * (*keys[j].v)[c];
        all[c] += part;
        if (!is_unread(j)) read[c] += part;
      }
    }
    probe.square = 0;
    for (std::size_t c = 0; c < dim; ++c) {
      const Real out = all[c] / total;
      probe.square += out * out;
      probe.y[c] = out * probe.read - read[c];
      probe.x1[c] = rest[c] - out * probe.mass;
      probe.x2[c] = probe.mass * term[c];
    }
    probes.push_back(probe);
  }
  return probes;
}

template <typename Real>
struct Factors {
  Real mass = 1;
  Real slope = 1;
};

/// beta for a mu, and the sum of squares with both.
template <typename Real>
std::pair<Real, Real> fit_slope(const std::vector<Probe<Real>>& probes, Real mu) {
  Real along = 0;
  Real length = 0;
  for (const Probe<Real>& p : probes) {
    const Real size = p.read + mu * p.mass;
    for (std::size_t c = 0; c < p.y.size(); ++c) {
      along += (p.y[c] - mu * p.x1[c]) / size * p.x2[c] / size;
      length += p.x2[c] / size * p.x2[c] / size;
    }
  }
  const Real beta = length > 0 ? std::clamp(along / length / mu, Real(0), Real(4)) : Real(1);
  Real squares = 0;
  for (const Probe<Real>& p : probes) {
    for (std::size_t c = 0; c < p.y.size(); ++c) {
      const Real error = (p.y[c] - mu * p.x1[c] - beta * mu * p.x2[c]) / (p.read + mu * p.mass);
      squares += error * error;
    }
  }
  Real floor = 0;
  for (const Probe<Real>& p : probes) floor += p.square / 65536;
  const Real log_mu = std::log(mu);
  return {beta,
          squares + (2 * squares / static_cast<Real>(probes.size()) + floor) * log_mu * log_mu};
}

/// S-25: the probe rows of a head that qualify, of each rounding. Inputs must be finite.
template <typename Real>
std::vector<std::vector<Probe<Real>>> qualified_probes(const Head<Real>& head) {
  const index_t len_q = head.g.shape.len_q;
  const index_t count = std::min<index_t>(64, len_q / 128);
  std::vector<std::vector<Probe<Real>>> probes(head.is_rounded() ? kRoundings + 1 : 1);
  for (index_t p = 0; p < count && count >= 8; ++p) {
    const index_t begin = p * len_q / count;
    const index_t rows = (p + 1) * len_q / count - begin;
    const auto fraction = static_cast<std::uint32_t>(p * 2654435769);  // golden ratio, 32 bits
    const index_t row = begin + rows * static_cast<index_t>(fraction) / (index_t{1} << 32);
    const std::vector<Probe<Real>> evaluated = probe_row(head, row);
    for (std::size_t i = 0; i < evaluated.size(); ++i) {
      if (evaluated[i].mass > 0) probes[i].push_back(evaluated[i]);
    }
  }
  return probes;
}

/// S-25 of query block i, from those of the head.
template <typename Real>
Factors<Real> rest_factors(const Head<Real>& head, std::vector<Probe<Real>> probes, index_t i) {
  const Config& config = head.g.config;
  const auto is_later = [&](const Probe<Real>& p) { return p.row / config.block_q > i; };
  if (config.causal) std::erase_if(probes, is_later);
  if (probes.size() < 8) return {};
  const auto mass_at = [](Real step) { return std::exp2(step / 2); };
  const auto error_at = [&](int step) {
    return fit_slope(probes, mass_at(static_cast<Real>(step))).second;
  };
  int best = -10;
  for (int step = -9; step <= 4; ++step) {
    if (error_at(step) < error_at(best)) best = step;
  }
  const Real before = error_at(best - 1);
  const Real after = error_at(best + 1);
  const Real bend = before - 2 * error_at(best) + after;
  const Real vertex = bend > 0 ? (before - after) / bend / 2 : Real(0);
  const Real offset =
      std::clamp(vertex, best == -10 ? Real(0) : Real(-.5), best == 4 ? Real(0) : Real(.5));
  const Real mass = mass_at(static_cast<Real>(best) + offset);
  return {mass, fit_slope(probes, mass).first};
}

/// Those of the rounding whose mass factor errs most; the first ones are without rounding.
template <typename Real>
Factors<Real> worst_factors(const Head<Real>& head,
                            const std::vector<std::vector<Probe<Real>>>& probes, index_t i) {
  const Factors<Real> exact = rest_factors(head, probes[0], i);
  Factors<Real> worst = exact;
  const auto error = [&](const Factors<Real>& f) {
    return std::abs(std::log(f.mass / exact.mass));
  };
  for (std::size_t rounding = 1; rounding < probes.size(); ++rounding) {
    const Factors<Real> factors = rest_factors(head, probes[rounding], i);
    if (error(factors) >= error(worst)) worst = factors;
  }
  return worst;
}

template <typename Real>
AttentionValues attention_formula(const core::Geometry& g, const core::Inputs& in,
                                  const core::KvPyramid& pyramid,
                                  const std::vector<LevelCode>& levels, DType probabilities,
                                  DType maps) {
  const ProblemShape& s = g.shape;
  AttentionValues result;
  result.out.shape = {s.batch, s.heads_q, s.len_q, s.head_dim};
  result.lse.shape = {s.batch, s.heads_q, s.len_q, 1};
  result.out.data.resize(at(s.batch * s.heads_q * s.len_q * s.head_dim));
  result.lse.data.resize(at(s.batch * s.heads_q * s.len_q));
  for (index_t b = 0; b < s.batch; ++b) {
    for (index_t h = 0; h < s.heads_q; ++h) {
      const auto kv = kv_rows<Real>(g, in, pyramid, b, h / (s.heads_q / s.heads_kv));
      const std::int32_t* order = in.q_order.of(b, h);
      const Matrix<Real> queries = head_of<Real>(in.q, order, b, h);
      const index_t map_row = (b * s.heads_q + h) * g.num_q_blocks;
      const bool is_linear = g.config.rest == Rest::kLinear;
      std::vector<Moments<Real>> moments;
      if (is_linear) moments = block_moments(g, kv, in.kv_length(b));
      const Head<Real> head{g,
                            kv,
                            queries,
                            moments,
                            levels.data() + map_row * g.num_kv_blocks,
                            in.kv_length(b),
                            probabilities,
                            maps};
      std::vector<std::vector<Probe<Real>>> probes;
      if (is_linear) probes = qualified_probes(head);
      Factors<Real> factors;  // of the query block
      std::vector<Real> out(at(s.head_dim));
      RestReading<Real> rest;  // of the query block
      for (index_t r = 0; r < s.len_q; ++r) {
        const index_t i = r / g.config.block_q;
        if (is_linear && r % g.config.block_q == 0) {
          rest = head.reading(i);
          factors = worst_factors(head, probes, i);
          for (const auto* block : head.rest(i)) {
            rest.mass_factor[at(block->index)] *= factors.mass;
          }
        }
        const auto read = rows_read(g, kv, head.codes(i), r, head.n, rest.mass_factor);
        const auto [lse, mean_share] =
            soft_max(queries[at(r)], read, head.scale(), probabilities, out);
        if (is_linear) {
          const std::vector<Real> term = product(queries[at(r)], rest.map);
          for (std::size_t c = 0; c < out.size(); ++c) {
            out[c] += mean_share * factors.slope * term[c];
          }
        }
        const index_t token = (b * s.heads_q + h) * s.len_q + (order == nullptr ? r : order[r]);
        result.lse.data[at(token)] = static_cast<double>(lse);
        for (index_t c = 0; c < s.head_dim; ++c) {
          result.out.data[at(token * s.head_dim + c)] =
              static_cast<double>(rounded(out[at(c)], s.dtype_out));
        }
      }
    }
  }
  return result;
}

}  // namespace

AttentionValues exact_attention(const core::Geometry& geometry, const core::Inputs& inputs,
                                const core::KvPyramid& pyramid,
                                const std::vector<LevelCode>& levels) {
  return attention_formula<double>(geometry, inputs, pyramid, levels, DType::kF32, DType::kF32);
}

AttentionValues plain_attention(const core::Geometry& geometry, const core::Inputs& inputs,
                                const core::KvPyramid& pyramid,
                                const std::vector<LevelCode>& levels, DType probabilities,
                                DType maps) {
  return attention_formula<float>(geometry, inputs, pyramid, levels, probabilities, maps);
}

}  // namespace psa::testing
