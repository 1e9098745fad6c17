// SPDX-License-Identifier: Apache-2.0
#include "reference/rest_probes.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace psa::reference {
namespace {

double logit(const Row& query, const MetRow& row, double scale) {
  return scale * dot(query, *row.key) + row.bias;
}

/// Sums of e^s and of e^s v, relative to e^reference.
struct Sums {
  double mass = 0;
  Row values;  // [D]
};

Sums sum(const Row& query, const std::vector<MetRow>& rows, double scale, double reference) {
  Sums sums{0, Row(query.size(), 0.0)};
  for (const MetRow& row : rows) {
    const double p = std::exp(logit(query, row, scale) - reference);
    sums.mass += p;
    for (std::size_t c = 0; c < query.size(); ++c) sums.values[c] += p * (*row.value)[c];
  }
  return sums;
}

}  // namespace

semantics::ProbeSums<double> probe_sums(const ProbedRow& row, double scale) {
  double reference = -std::numeric_limits<double>::infinity();
  for (const auto* rows : {&row.read, &row.unread, &row.means}) {
    for (const MetRow& met : *rows) reference = std::max(reference, logit(row.query, met, scale));
  }
  const Sums read = sum(row.query, row.read, scale, reference);
  const Sums unread = sum(row.query, row.unread, scale, reference);
  const Sums means = sum(row.query, row.means, scale, reference);
  semantics::ProbeSums<double> sums{};
  sums.read_mass = read.mass;
  sums.rest_mass = means.mass;
  for (std::size_t c = 0; c < row.query.size(); ++c) {
    const double out = (read.values[c] + unread.values[c]) / (read.mass + unread.mass);
    const double y = out * read.mass - read.values[c];
    const double x1 = means.values[c] - out * means.mass;
    const double x2 = means.mass * row.term[c];
    sums.add_channel(out, y, x1, x2);
  }
  return sums;
}

}  // namespace psa::reference
