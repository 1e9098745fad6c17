// SPDX-License-Identifier: Apache-2.0
#include "reference/first_order.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "semantics/blocks.hpp"
#include "semantics/first_order.hpp"

namespace psa::reference {
namespace {

std::vector<Row> zero_map(std::size_t dim) { return {dim, Row(dim, 0.0)}; }

bool is_finite(const Row& row) {
  return std::all_of(row.begin(), row.end(),
                     [](double x) { return semantics::is_finite_float(x); });
}

BlockMoments moments_of(const std::vector<Row>& keys, const std::vector<Row>& values,
                        semantics::Range tokens) {
  const std::size_t dim = keys.front().size();
  const auto count = static_cast<double>(tokens.size());
  BlockMoments block{mean_of(keys, tokens), zero_map(dim), Row(dim, 0.0), tokens.size()};
  const Row value_mean = mean_of(values, tokens);
  for (index_t j = tokens.begin; j < tokens.end; ++j) {
    for (std::size_t d = 0; d < dim; ++d) {
      const double key = keys[to_size(j)][d] - block.key_mean[d];
      block.key_variance[d] += key * key / count;
      for (std::size_t c = 0; c < dim; ++c) {
        block.covariance[d][c] += key * (values[to_size(j)][c] - value_mean[c]) / count;
      }
    }
  }
  return block;
}

/// Means over the rows that qualify; `rows` 0: none.
struct QueryMoments {
  Row mean;    // [D]
  Row square;  // [D]
  double rows = 0;
};

QueryMoments query_moments(const std::vector<Row>& queries) {
  QueryMoments moments{Row(queries.front().size(), 0.0), Row(queries.front().size(), 0.0)};
  for (const Row& query : queries) {
    if (!semantics::is_finite_float(dot(query, query))) continue;
    moments.rows += 1;
    for (std::size_t d = 0; d < query.size(); ++d) {
      moments.mean[d] += query[d];
      moments.square[d] += query[d] * query[d];
    }
  }
  for (double& x : moments.mean) x /= moments.rows;
  for (double& x : moments.square) x /= moments.rows;
  return moments;
}

/// n exp(scale q k), normalised to sum 1.
std::vector<double> rest_weights(const std::vector<const BlockMoments*>& rest, const Row& query,
                                 double scale) {
  double max = -std::numeric_limits<double>::infinity();
  for (const BlockMoments* block : rest) max = std::max(max, scale * dot(query, block->key_mean));
  std::vector<double> weights;
  double sum = 0;
  for (const BlockMoments* block : rest) {
    weights.push_back(static_cast<double>(block->tokens) *
                      std::exp(scale * dot(query, block->key_mean) - max));
    sum += weights.back();
  }
  for (double& w : weights) w /= sum;
  return weights;
}

}  // namespace

std::vector<BlockMoments> block_moments(const std::vector<Row>& keys,
                                        const std::vector<Row>& values, index_t block_kv,
                                        index_t kv_length) {
  std::vector<BlockMoments> blocks;
  for (index_t j = 0; j * block_kv < kv_length; ++j) {
    blocks.push_back(moments_of(keys, values, semantics::block_range(j, block_kv, kv_length)));
  }
  return blocks;
}

RestReading read_rest(const std::vector<const BlockMoments*>& rest, const std::vector<Row>& queries,
                      double scale) {
  const std::size_t dim = queries.front().size();
  RestReading reading{std::vector<double>(rest.size(), 1.0), zero_map(dim)};
  const QueryMoments query = query_moments(queries);
  if (rest.empty() || query.rows == 0) return reading;
  const std::vector<double> weights = rest_weights(rest, query.mean, scale);
  double sum = 0;
  for (std::size_t b = 0; b < rest.size(); ++b) {
    reading.mass_factor[b] = semantics::rest_mass(scale, dot(query.square, rest[b]->key_variance));
    sum += weights[b] * reading.mass_factor[b];
  }
  std::vector<Row>& map = reading.map;
  for (std::size_t b = 0; b < rest.size(); ++b) {
    if (weights[b] == 0) continue;  // whatever its moments are
    const double factor = scale * weights[b] / sum;
    for (std::size_t d = 0; d < dim; ++d) {
      for (std::size_t c = 0; c < dim; ++c) map[d][c] += factor * rest[b]->covariance[d][c];
    }
  }
  if (!std::all_of(map.begin(), map.end(), is_finite)) map = zero_map(dim);
  return reading;
}

Row first_order_term(const Row& query, const std::vector<Row>& map) {
  Row term(query.size(), 0.0);
  for (std::size_t d = 0; d < query.size(); ++d) {
    for (std::size_t c = 0; c < query.size(); ++c) term[c] += query[d] * map[d][c];
  }
  for (double& x : term) {
    if (!semantics::is_finite_float(x)) x = 0;
  }
  return term;
}

}  // namespace psa::reference
