// SPDX-License-Identifier: Apache-2.0
#pragma once

// Soft-max over keys that arrive in pieces, and rows that see no key at all (S-6, S-7).

#include <cmath>
#include <limits>

#include "semantics/hd.hpp"

namespace psa::semantics {

/// State of one row: largest logit so far and sum of exp(logit - max). No key yet: (-inf, 0).
template <typename Real>
struct SoftmaxState {
  Real max = -std::numeric_limits<Real>::infinity();
  Real sum = 0;
};

/// Factor that brings a sum taken relative to `old_max` to `new_max`; 1 while no key was seen, so
/// that -inf minus -inf never arises.
template <typename Real>
PSA_HD Real rescale_factor(Real old_max, Real new_max) {
  return old_max == new_max ? Real(1) : std::exp(old_max - new_max);
}

/// S-7. Natural-log sum of the row including all biases; -inf when nothing was read.
template <typename Real>
PSA_HD Real log_sum_exp(const SoftmaxState<Real>& state) {
  if (state.sum == Real(0)) return -std::numeric_limits<Real>::infinity();
  return state.max + std::log(state.sum);
}

/// S-7. What the accumulated values are multiplied by; a row that read nothing gives 0.
template <typename Real>
PSA_HD Real normaliser(const SoftmaxState<Real>& state) {
  return state.sum == Real(0) ? Real(0) : Real(1) / state.sum;
}

}  // namespace psa::semantics
