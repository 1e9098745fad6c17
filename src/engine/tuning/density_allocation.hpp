// SPDX-License-Identifier: Apache-2.0
#pragma once

// One density, spent where it lowers the error most.
//
// Each head has a curve: its squared error at some densities. Minimising the mean of the lower
// convex hulls of the curves under a mean density is solved exactly by taking the segments of all
// hulls by falling gain (error lost per density), the last one in part. So all heads but one end at
// a corner of their hull, which is a point of the curve, whatever its shape between the points.

#include <span>
#include <vector>

namespace psa::engine {

struct DensityError {
  double density = 0;        ///< 0..1
  double squared_error = 0;  ///< >= 0
};

/// Of one head: at least one point, in any order.
using ErrorCurve = std::vector<DensityError>;

struct Allocation {
  std::vector<double> density;  ///< of each curve
  double mean_density = 0;
  double mean_squared_error = 0;  ///< along the hulls
};

/// The corners of the lower convex hull by rising density, up to the least error: errors fall, and
/// fall ever more slowly.
[[nodiscard]] ErrorCurve falling_hull(ErrorCurve points);

/// Along the hull of the curve; before and behind it, what it begins and ends with.
[[nodiscard]] double squared_error_at(const ErrorCurve& curve, double density);

/// Least mean squared error with a mean density of at most `mean_density`. `least` has a density
/// for each curve that it gets at least; empty: none has one. Throws Error(kInvalidArgument) if
/// there is no curve, a curve has no point, a number is negative or not finite, `least` has another
/// size than `curves`, or even the least densities of all curves have a larger mean.
[[nodiscard]] Allocation allocate_density(std::span<const ErrorCurve> curves, double mean_density,
                                          std::span<const double> least = {});

/// Least mean density with a mean squared error of at most `mean_squared_error`. Throws as above,
/// and if even the largest densities have a larger one.
[[nodiscard]] Allocation allocate_error(std::span<const ErrorCurve> curves,
                                        double mean_squared_error,
                                        std::span<const double> least = {});

}  // namespace psa::engine
