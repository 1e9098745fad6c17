// SPDX-License-Identifier: Apache-2.0
#include "output_errors.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

#include "psa/error.hpp"
#include "tensors_in.hpp"

namespace psa::cli {
namespace {

struct Sums {
  double difference = 0;  // of squares
  double reference = 0;   // of squares
  double candidate = 0;   // of squares
  double product = 0;
  double max_abs = 0;
  index_t rows = 0;
  index_t nonfinite_rows = 0;

  void add(const Sums& other) {
    difference += other.difference;
    reference += other.reference;
    candidate += other.candidate;
    product += other.product;
    max_abs = std::max(max_abs, other.max_abs);
    rows += other.rows;
    nonfinite_rows += other.nonfinite_rows;
  }

  [[nodiscard]] ErrorMetrics metrics() const {
    ErrorMetrics result;
    result.rows = rows;
    result.nonfinite_rows = nonfinite_rows;
    result.max_abs = max_abs;
    if (rows == 0) {
      result.rel_l2 = result.cosine = result.max_abs = std::numeric_limits<double>::quiet_NaN();
      return result;
    }
    if (difference > 0) {
      result.rel_l2 = reference > 0 ? std::sqrt(difference / reference)
                                    : std::numeric_limits<double>::infinity();
    }
    if (reference > 0 || candidate > 0) {
      const double lengths = std::sqrt(reference) * std::sqrt(candidate);
      result.cosine = lengths > 0 ? product / lengths : 0;
    }
    return result;
  }
};

Sums row_sums(const TensorView& candidate, const TensorView& reference, const RowPlace& row) {
  Sums sums;
  sums.rows = 1;
  for (index_t c = 0; c < reference.shape[3]; ++c) {
    const auto x = static_cast<double>(element_at(candidate, row.batch, row.head, row.token, c));
    const auto y = static_cast<double>(element_at(reference, row.batch, row.head, row.token, c));
    if (!std::isfinite(x) || !std::isfinite(y)) {
      Sums left_out;
      left_out.nonfinite_rows = 1;
      return left_out;
    }
    sums.difference += (x - y) * (x - y);
    sums.reference += y * y;
    sums.candidate += x * x;
    sums.product += x * y;
    sums.max_abs = std::max(sums.max_abs, std::abs(x - y));
  }
  return sums;
}

// `rows` [L] holds the lengths of the differences; afterwards in units of the typical reference
// row.
void scale_rows(std::span<float> rows, const Sums& head) {
  if (head.rows == 0) return;
  const double typical = std::sqrt(head.reference / static_cast<double>(head.rows));
  for (float& row : rows) {
    if (row != 0.0F) row = static_cast<float>(static_cast<double>(row) / typical);
  }
}

}  // namespace

OutputErrors compare_outputs(const TensorView& candidate, const TensorView& reference) {
  if (candidate.shape != reference.shape) {
    throw Error(Status::kInternal, "outputs of different shapes cannot be compared");
  }
  const auto [batch, heads, length, channels] = reference.shape;
  OutputErrors errors;
  errors.rows.resize(static_cast<std::size_t>(batch * heads * length));
  Sums all;
  std::vector<Sums> by_head(static_cast<std::size_t>(heads));
  for (index_t b = 0; b < batch; ++b) {
    for (index_t h = 0; h < heads; ++h) {
      Sums head;
      const std::span<float> rows = std::span(errors.rows)
                                        .subspan(static_cast<std::size_t>((b * heads + h) * length),
                                                 static_cast<std::size_t>(length));
      for (index_t token = 0; token < length; ++token) {
        const Sums row = row_sums(candidate, reference, {b, h, token});
        rows[static_cast<std::size_t>(token)] = row.rows == 1
                                                    ? static_cast<float>(std::sqrt(row.difference))
                                                    : std::numeric_limits<float>::quiet_NaN();
        head.add(row);
      }
      scale_rows(rows, head);
      by_head[static_cast<std::size_t>(h)].add(head);
      all.add(head);
    }
  }
  errors.all = all.metrics();
  for (const Sums& head : by_head) errors.heads.push_back(head.metrics());
  return errors;
}

NonFiniteCount count_nonfinite(const TensorView& tensor) {
  NonFiniteCount count;
  for (index_t b = 0; b < tensor.shape[0]; ++b) {
    for (index_t h = 0; h < tensor.shape[1]; ++h) {
      for (index_t token = 0; token < tensor.shape[2]; ++token) {
        index_t values = 0;
        for (index_t c = 0; c < tensor.shape[3]; ++c) {
          if (!std::isfinite(element_at(tensor, b, h, token, c))) ++values;
        }
        if (values == 0) continue;
        count.values += values;
        ++count.rows;
        if (count.first_rows.size() < kListedRows) count.first_rows.push_back({b, h, token});
      }
    }
  }
  return count;
}

std::string nonfinite_text(const std::string& name, const NonFiniteCount& count) {
  std::string text = name + " has " + std::to_string(count.values) +
                     (count.values == 1 ? " value that is" : " values that are") +
                     " NaN or Inf, in " + std::to_string(count.rows) +
                     (count.rows == 1 ? " row" : " rows") + " (batch, head, token): ";
  for (std::size_t i = 0; i < count.first_rows.size(); ++i) {
    const RowPlace& row = count.first_rows[i];
    text += (i == 0 ? "(" : ", (") + std::to_string(row.batch) + ", " + std::to_string(row.head) +
            ", " + std::to_string(row.token) + ")";
  }
  return text + (static_cast<std::size_t>(count.rows) > count.first_rows.size() ? ", ..." : "");
}

TensorView sampled_tokens(const TensorView& tensor, index_t first, index_t step, index_t count) {
  TensorView sample = tensor;
  const auto offset = static_cast<std::size_t>(first * tensor.stride[2]) * size_of(tensor.dtype);
  sample.data = static_cast<std::byte*>(tensor.data) + offset;
  sample.shape[2] = count;
  sample.stride[2] = step * tensor.stride[2];
  return sample;
}

}  // namespace psa::cli
