// SPDX-License-Identifier: Apache-2.0
#include "support/formulas.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/tensor.hpp"
#include "semantics/importance.hpp"

namespace psa::testing {
namespace {

std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

template <typename Real>
using Matrix = std::vector<std::vector<Real>>;

template <typename Real>
constexpr Real kNothing = -std::numeric_limits<Real>::infinity();

/// One head of a tensor, in working order.
template <typename Real>
Matrix<Real> head_of(const TensorView& t, const std::int32_t* order, index_t b, index_t h) {
  Matrix<Real> rows(at(t.shape[2]), std::vector<Real>(at(t.shape[3])));
  for (index_t w = 0; w < t.shape[2]; ++w) {
    const std::byte* row = core::row_address(t, b, h, order == nullptr ? w : order[w]);
    for (index_t c = 0; c < t.shape[3]; ++c) {
      rows[at(w)][at(c)] = static_cast<Real>(core::load_element(row, t.dtype, c));
    }
  }
  return rows;
}

template <typename Real>
Real dot(const std::vector<Real>& a, const std::vector<Real>& b) {
  Real sum = 0;
  for (std::size_t c = 0; c < a.size(); ++c) sum += a[c] * b[c];
  return sum;
}

float rounded(float value, DType dtype) {
  float stored = 0.0F;
  core::store_element(&stored, dtype, 0, value);
  return core::load_element(&stored, dtype, 0);
}
double rounded(double value, DType /*dtype*/) { return value; }

TensorView pooled_view(const core::Geometry& g, const core::PyramidLevel& level, void* data) {
  const index_t d = g.shape.head_dim;
  return {data,
          g.shape.dtype_kv,
          Device{},
          {g.shape.batch, g.shape.heads_kv, level.rows, d},
          {g.shape.heads_kv * level.rows * d, level.rows * d, d, 1}};
}

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

/// Moments of the rest set of query block i; `codes` [Nk], n valid keys.
template <typename Real>
std::vector<Moments<Real>> rest_set(const core::Geometry& g, const KvRows<Real>& kv,
                                    const LevelCode* codes, index_t i, index_t n) {
  std::vector<Moments<Real>> rest;
  const index_t block = g.config.block_kv;
  const index_t first_position = i * g.config.block_q + n - g.shape.len_q;
  for (index_t j = 0; j * block < n; ++j) {
    const index_t end = std::min((j + 1) * block, n);
    if (codes[j] != kBlockMean || (g.config.causal && end - 1 > first_position)) continue;
    rest.emplace_back(kv.k[1], kv.v[1], j, j * block, end);
  }
  return rest;
}

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
RestReading<Real> read_rest(const std::vector<Moments<Real>>& rest, const Matrix<Real>& queries,
                            index_t begin, index_t end, index_t blocks, Real scale, DType dtype) {
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
  for (const Moments<Real>& block : rest) {
    const Real weight = block.n * std::exp(scale * dot(mean, block.k_mean));
    const Real mass = 1 + scale * scale * dot(square, block.key_variance) / 2;
    reading.mass_factor[at(block.index)] = mass;
    total += weight * mass;
    const Real factor = rounded_in_unit(weight, dtype);
    for (std::size_t c = 0; c < dim; ++c) {
      for (std::size_t e = 0; e < dim; ++e) {
        reading.map[c][e] += factor * rounded_in_unit(block.covariance[c][e], dtype);
      }
    }
  }
  if (rest.empty()) return reading;
  for (std::vector<Real>& row : reading.map) {
    for (Real& x : row) x = rounded_in_unit(x, dtype) * scale / total;
  }
  return reading;
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
      std::vector<Real> out(at(s.head_dim));
      RestReading<Real> rest;  // of the query block
      for (index_t r = 0; r < s.len_q; ++r) {
        const index_t i = r / g.config.block_q;
        const LevelCode* codes =
            levels.data() + ((b * s.heads_q + h) * g.num_q_blocks + i) * g.num_kv_blocks;
        const auto scale = static_cast<Real>(g.scale);
        if (g.config.rest == Rest::kLinear && r % g.config.block_q == 0) {
          rest = read_rest(rest_set(g, kv, codes, i, in.kv_length(b)), queries, r,
                           std::min(r + g.config.block_q, s.len_q), g.num_kv_blocks, scale, maps);
        }
        const auto read = rows_read(g, kv, codes, r, in.kv_length(b), rest.mass_factor);
        const auto [lse, mean_share] = soft_max(queries[at(r)], read, scale, probabilities, out);
        if (g.config.rest == Rest::kLinear) {
          for (std::size_t c = 0; c < out.size(); ++c) {
            for (std::size_t e = 0; e < out.size(); ++e) {
              out[e] += mean_share * queries[at(r)][c] * rest.map[c][e];
            }
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

// ---- importance ---------------------------------------------------------------------------------

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

Values exact_importance(const core::Geometry& geometry, const core::Inputs& inputs,
                        const core::KvPyramid& pyramid) {
  return importance_formula<double>(geometry, inputs, pyramid);
}

Values plain_importance(const core::Geometry& geometry, const core::Inputs& inputs,
                        const core::KvPyramid& pyramid) {
  return importance_formula<float>(geometry, inputs, pyramid);
}

}  // namespace psa::testing
