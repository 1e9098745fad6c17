// SPDX-License-Identifier: Apache-2.0
#include "engine/tuning/density_allocation.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <string>
#include <utility>

#include "psa/error.hpp"

namespace psa::engine {
namespace {

/// Part of a hull between two corners.
struct Segment {
  std::size_t curve = 0;
  double density = 0;  ///< spent
  double error = 0;    ///< lost
  [[nodiscard]] double gain() const { return error / density; }
};

void check(std::span<const ErrorCurve> curves, std::span<const double> least) {
  if (curves.empty()) throw Error(Status::kInvalidArgument, "there is no curve to allocate to");
  if (!least.empty() && least.size() != curves.size()) {
    throw Error(Status::kInvalidArgument, "least has " + std::to_string(least.size()) +
                                              " densities; allowed: none, or one for each of " +
                                              std::to_string(curves.size()) + " curves");
  }
  for (const double density : least) {
    if (density >= 0 && std::isfinite(density)) continue;
    throw Error(Status::kInvalidArgument, "least has density " + std::to_string(density) +
                                              "; allowed are finite numbers from 0");
  }
  for (const ErrorCurve& curve : curves) {
    if (curve.empty()) throw Error(Status::kInvalidArgument, "a curve has no point");
    for (const DensityError& point : curve) {
      if (point.density >= 0 && point.squared_error >= 0 && std::isfinite(point.density) &&
          std::isfinite(point.squared_error)) {
        continue;
      }
      throw Error(Status::kInvalidArgument,
                  "a curve has density " + std::to_string(point.density) + " with squared error " +
                      std::to_string(point.squared_error) + "; allowed are finite numbers from 0");
    }
  }
}

/// Whether `middle` lies on or above the line from `from` to `to`.
bool is_above(const DensityError& from, const DensityError& middle, const DensityError& to) {
  return (middle.squared_error - from.squared_error) * (to.density - from.density) >=
         (to.squared_error - from.squared_error) * (middle.density - from.density);
}

/// What is left of a hull if `least` of the density is spent already.
ErrorCurve behind(const ErrorCurve& hull, double least) {
  if (least <= hull.front().density) return hull;
  ErrorCurve rest{{least, squared_error_at(hull, least)}};
  std::copy_if(hull.begin(), hull.end(), std::back_inserter(rest),
               [least](const DensityError& point) { return point.density > least; });
  return rest;
}

/// Spends density segment by segment. Sums are over the curves, not means.
class Spender {
 public:
  Spender(std::span<const ErrorCurve> curves, std::span<const double> least) {
    check(curves, least);
    for (std::size_t c = 0; c < curves.size(); ++c) {
      const ErrorCurve hull = behind(falling_hull(curves[c]), least.empty() ? 0 : least[c]);
      density_.push_back(hull.front().density);
      total_density_ += hull.front().density;
      total_error_ += hull.front().squared_error;
      for (std::size_t i = 1; i < hull.size(); ++i) {
        segments_.push_back({c, hull[i].density - hull[i - 1].density,
                             hull[i - 1].squared_error - hull[i].squared_error});
      }
    }
    // Stable: segments of one curve keep their order, and equal gains that of the curves.
    std::stable_sort(segments_.begin(), segments_.end(),
                     [](const Segment& a, const Segment& b) { return a.gain() > b.gain(); });
  }

  [[nodiscard]] double count() const { return static_cast<double>(density_.size()); }
  [[nodiscard]] double total_density() const { return total_density_; }
  [[nodiscard]] double total_error() const { return total_error_; }
  [[nodiscard]] const std::vector<Segment>& segments() const { return segments_; }

  /// A part, 0..1, of a segment.
  void spend(const Segment& segment, double part) {
    density_[segment.curve] += part * segment.density;
    total_density_ += part * segment.density;
    total_error_ -= part * segment.error;
  }

  [[nodiscard]] Allocation result() const {
    return {density_, total_density_ / count(), std::max(0.0, total_error_) / count()};
  }

 private:
  std::vector<double> density_;
  std::vector<Segment> segments_;
  double total_density_ = 0;
  double total_error_ = 0;
};

// Sums of many terms may miss a bound that they meet exactly by a few roundings.
constexpr double kRounding = 1e-12;

}  // namespace

ErrorCurve falling_hull(ErrorCurve points) {
  std::sort(points.begin(), points.end(), [](const DensityError& a, const DensityError& b) {
    return std::pair(a.density, a.squared_error) < std::pair(b.density, b.squared_error);
  });
  ErrorCurve hull;
  for (const DensityError& point : points) {
    // No point behind one that is as good for less.
    if (!hull.empty() && point.squared_error >= hull.back().squared_error) continue;
    while (hull.size() > 1 && is_above(hull[hull.size() - 2], hull.back(), point)) hull.pop_back();
    hull.push_back(point);
  }
  return hull;
}

double squared_error_at(const ErrorCurve& curve, double density) {
  const ErrorCurve hull = falling_hull(curve);
  const auto after = std::find_if(hull.begin(), hull.end(), [density](const DensityError& point) {
    return point.density >= density;
  });
  if (after == hull.begin()) return hull.front().squared_error;
  if (after == hull.end()) return hull.back().squared_error;
  const DensityError& before = *std::prev(after);
  const double part = (density - before.density) / (after->density - before.density);
  return before.squared_error + part * (after->squared_error - before.squared_error);
}

Allocation allocate_density(std::span<const ErrorCurve> curves, double mean_density,
                            std::span<const double> least) {
  Spender spender(curves, least);
  const double total = mean_density * spender.count();
  if (!(spender.total_density() <= total * (1 + kRounding))) {
    throw Error(Status::kInvalidArgument,
                "density is " + std::to_string(mean_density) + "; allowed: at least " +
                    std::to_string(spender.total_density() / spender.count()) +
                    ", the least that was measured");
  }
  for (const Segment& segment : spender.segments()) {
    const double part = std::min(1.0, (total - spender.total_density()) / segment.density);
    if (part <= 0) break;
    spender.spend(segment, part);
  }
  return spender.result();
}

Allocation allocate_error(std::span<const ErrorCurve> curves, double mean_squared_error,
                          std::span<const double> least) {
  Spender spender(curves, least);
  const double total = mean_squared_error * spender.count();
  for (const Segment& segment : spender.segments()) {
    const double part = std::min(1.0, (spender.total_error() - total) / segment.error);
    if (part <= 0) break;
    spender.spend(segment, part);
  }
  if (!(spender.total_error() <= total * (1 + kRounding) + kRounding)) {
    throw Error(Status::kInvalidArgument,
                "squared error is " + std::to_string(mean_squared_error) + "; allowed: at least " +
                    std::to_string(spender.total_error() / spender.count()) +
                    ", the least that was measured");
  }
  return spender.result();
}

}  // namespace psa::engine
