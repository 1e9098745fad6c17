// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "placement.hpp"
#include "problem.hpp"
#include "psa/stages.hpp"

namespace psa::cli {

/// `config` with every share of its budget times `factor`, at most 1; with densities per head,
/// those instead, and at least what a plan allows.
[[nodiscard]] Config with_scaled_budget(const Config& config, double factor);

/// Finds budgets of a wanted density on given tensors. What is scaled is the budget as a whole, so
/// that the split over the levels stays; what is measured is the level map itself, so that forced
/// blocks, ties, rounding and the price of block means are all inside.
class DensityMatcher {
 public:
  /// Estimates the importance once, with the estimator, blocks and order of `problem`. The
  /// arguments must outlive this object; `kv_lengths` is the host's, or null.
  DensityMatcher(const Problem& problem, const PlacedInputs& inputs, const std::int32_t* kv_lengths,
                 const PlanOptions& options);

  /// The least scaled budget of `config` whose density is not below `density`; where no budget is
  /// that dense, the densest. `config` must have the estimator, blocks and order of the problem.
  [[nodiscard]] Config match(const Config& config, double density) const;

  /// Density of the level map of `config` (S-21).
  [[nodiscard]] double density_of(const Config& config) const;

 private:
  const Problem& problem_;
  const PlacedInputs& inputs_;
  const std::int32_t* kv_lengths_;
  const PlanOptions& options_;
  std::vector<float> host_importance_;  ///< [B, Hq, Nq, Nk]; where it is computed: importance_
  std::optional<Placed> importance_;
};

}  // namespace psa::cli
