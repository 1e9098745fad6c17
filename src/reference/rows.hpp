// SPDX-License-Identifier: Apache-2.0
#pragma once

// Tensor rows as vectors of double, in working order.

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "core/backend.hpp"
#include "core/tensor.hpp"

namespace psa::reference {

using Row = std::vector<double>;  // [D]

[[nodiscard]] inline std::size_t to_size(index_t i) { return static_cast<std::size_t>(i); }

/// Token of the caller's tensor that stands at a position of the working order (S-19).
[[nodiscard]] inline index_t token_at(const std::int32_t* order, index_t position) {
  return order == nullptr ? position : order[position];
}

/// Keys of a batch element that exist (S-1). Levels have no k to ask.
[[nodiscard]] inline index_t key_length(const core::Geometry& geometry, const core::Inputs& inputs,
                                        index_t batch) {
  return inputs.kv_lengths == nullptr ? geometry.shape.len_kv : inputs.kv_lengths[batch];
}

/// One head of a tensor in working order: [shape[2]][shape[3]].
[[nodiscard]] inline std::vector<Row> load_head(const TensorView& tensor, const std::int32_t* order,
                                                index_t batch, index_t head) {
  std::vector<Row> rows;
  for (index_t position = 0; position < tensor.shape[2]; ++position) {
    const std::byte* address = core::row_address(tensor, batch, head, token_at(order, position));
    Row row;
    for (index_t c = 0; c < tensor.shape[3]; ++c) {
      row.push_back(static_cast<double>(core::load_element(address, tensor.dtype, c)));
    }
    rows.push_back(row);
  }
  return rows;
}

/// Rounds once to the storage type of the tensor.
inline void store_row(const TensorView& tensor, index_t batch, index_t head, index_t token,
                      const Row& row) {
  std::byte* address = core::row_address(tensor, batch, head, token);
  for (index_t c = 0; c < tensor.shape[3]; ++c) {
    core::store_element(address, tensor.dtype, c, static_cast<float>(row[to_size(c)]));
  }
}

/// The pooled keys (data = level.k) or values (level.v) of a pyramid level: [B, Hkv, rows, D].
[[nodiscard]] inline TensorView level_view(const core::Geometry& geometry, index_t rows,
                                           void* data) {
  const ProblemShape& s = geometry.shape;
  return {data,
          s.dtype_kv,
          Device{},
          {s.batch, s.heads_kv, rows, s.head_dim},
          {s.heads_kv * rows * s.head_dim, rows * s.head_dim, s.head_dim, 1}};
}

/// Mean of the rows of a range of positions.
[[nodiscard]] inline Row mean_of(const std::vector<Row>& rows, semantics::Range range) {
  Row mean(rows.front().size(), 0.0);
  for (index_t r = range.begin; r < range.end; ++r) {
    for (std::size_t c = 0; c < mean.size(); ++c) mean[c] += rows[to_size(r)][c];
  }
  for (double& x : mean) x /= static_cast<double>(range.size());
  return mean;
}

[[nodiscard]] inline double dot(const Row& a, const Row& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

}  // namespace psa::reference
