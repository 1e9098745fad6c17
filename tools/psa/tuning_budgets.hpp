// SPDX-License-Identifier: Apache-2.0
#pragma once

// How a density is spent over the heads of all layers, by what a search has measured.

#include <map>
#include <optional>
#include <vector>

#include "engine/tuning/density_allocation.hpp"
#include "tuning_search.hpp"

namespace psa::cli {

struct LayerCurves {
  std::optional<index_t> layer;
  std::vector<engine::ErrorCurve> heads;
};

/// A head's part of the density.
struct HeadBudget {
  std::optional<index_t> layer;
  index_t head = 0;
  double density = 0;           ///< to ask for
  double expected_density = 0;  ///< what it comes to, rounded to blocks
};

struct Budgets {
  Config config;                                    ///< the finalist, at one density for all
  std::map<std::optional<index_t>, Config> layers;  ///< the same with a density for each head
  std::vector<LayerCurves> curves;                  ///< what it was chosen by
  double uniform_density = 0;                       ///< of `config`, as wanted
  double predicted_density = 0;
  double predicted_error = 0;
  std::vector<HeadBudget> heads;
};

/// The finalist with the least error at a mean density; a dearer selection is paid for with
/// density. Throws Error(kInvalidArgument) if none can have so small a one.
[[nodiscard]] Budgets budgets_of_density(const TuningSearch& search, double density);
/// The finalist with the least density and selection at a mean error. Throws
/// Error(kInvalidArgument) if none can have so small a one.
[[nodiscard]] Budgets budgets_of_error(const TuningSearch& search, double error);

}  // namespace psa::cli
