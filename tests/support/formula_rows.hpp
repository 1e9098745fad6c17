// SPDX-License-Identifier: Apache-2.0
#pragma once

// Tensor rows as the formulas of formulas.hpp read them, in double or float.

#include <cstddef>
#include <limits>
#include <vector>

#include "core/backend.hpp"
#include "core/tensor.hpp"

namespace psa::testing {

inline std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

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

inline TensorView pooled_view(const core::Geometry& g, const core::PyramidLevel& level,
                              void* data) {
  const index_t d = g.shape.head_dim;
  return {data,
          g.shape.dtype_kv,
          Device{},
          {g.shape.batch, g.shape.heads_kv, level.rows, d},
          {g.shape.heads_kv * level.rows * d, level.rows * d, d, 1}};
}

}  // namespace psa::testing
