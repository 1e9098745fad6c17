// SPDX-License-Identifier: Apache-2.0
#pragma once

// The first-order term of rest = linear (S-23): which blocks have it, and what their mass is.

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

/// A number that a float holds.
template <typename Real>
PSA_HD bool is_finite_float(Real x) {
  return std::isfinite(static_cast<float>(x));
}

/// What the mass n e^(mean logit) of a block is multiplied by: e^s to second order around the mean
/// is 1 + v/2 with v the variance of the block's logits, 0 if it is not finite. `variance` is
/// v / scale^2: the sum over the channels of the mean square of the queries times the variance of
/// the keys.
template <typename Real>
PSA_HD Real rest_mass(Real scale, Real variance) {
  const Real v = scale * scale * variance;
  return is_finite_float(v) ? Real(1) + v / Real(2) : Real(1);
}

}  // namespace psa::semantics
