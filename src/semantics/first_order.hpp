// SPDX-License-Identifier: Apache-2.0
#pragma once

// The first-order term of rest = linear (S-23): which blocks have it, and how far it is trusted.

#include <cmath>

#include "semantics/blocks.hpp"
#include "semantics/hd.hpp"
#include "semantics/pooling.hpp"

namespace psa::semantics {

/// Whether a block of a level-map row belongs to its rest set. Blocks that straddle the diagonal
/// would carry keys to queries before them.
PSA_HD constexpr bool is_in_rest_set(int code, Visibility visibility) {
  return code == kBlockMeanCode && visibility == Visibility::kFull;
}

/// Damping of a query block: `scale^2 * query_norm2 * key_spread / head_dim` is about the variance
/// of the logits inside a block; the exponential is not linear where that is large.
template <typename Real>
PSA_HD Real first_order_damping(Real scale, Real query_norm2, Real key_spread, int head_dim) {
  return Real(1) / (Real(1) + scale * scale * query_norm2 * key_spread / Real(head_dim));
}

/// A number that a float holds.
template <typename Real>
PSA_HD bool is_finite_float(Real x) {
  return std::isfinite(static_cast<float>(x));
}

}  // namespace psa::semantics
