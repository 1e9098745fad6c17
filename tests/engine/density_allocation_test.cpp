// SPDX-License-Identifier: Apache-2.0
#include "engine/tuning/density_allocation.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "error_text.hpp"

namespace psa::engine {
namespace {

using testing::AllOf;
using testing::DoubleNear;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pointwise;

MATCHER(SamePoint, "") {
  const auto& [got, expected] = arg;
  return got.density == expected.density && got.squared_error == expected.squared_error;
}

std::string refusal(const std::vector<ErrorCurve>& curves, double density) {
  return error_text(Status::kInvalidArgument,
                    [&] { static_cast<void>(allocate_density(curves, density)); });
}

/// Falling curves with corners at multiples of 1/8, whose slopes have no order.
std::vector<ErrorCurve> ragged_curves(std::uint32_t seed) {
  std::vector<ErrorCurve> curves(3);
  std::uint32_t state = seed;
  for (ErrorCurve& curve : curves) {
    double error = 0;
    for (int i = 8; i >= 1; --i) {
      curve.push_back({i / 8.0, error});
      state = state * 1664525U + 1013904223U;
      error += static_cast<double>(state >> 24);
    }
  }
  return curves;
}

TEST(DensityAllocation, HullHasTheCornersBelowAllChords) {
  const ErrorCurve hull = falling_hull({{.4, 3}, {.1, 9}, {.2, 8}, {.3, 3}, {.8, 1}, {.6, 2.5}});
  const ErrorCurve expected{{.1, 9}, {.3, 3}, {.8, 1}};
  EXPECT_THAT(hull, Pointwise(SamePoint(), expected));
}

TEST(DensityAllocation, HullEndsWhereMoreDensityDoesNotHelp) {
  EXPECT_THAT(falling_hull({{.1, 2}, {.2, 1}, {.5, 1}, {.9, 3}}),
              Pointwise(SamePoint(), ErrorCurve{{.1, 2}, {.2, 1}}));
  EXPECT_THAT(falling_hull({{.2, 2}, {.2, 1}}), Pointwise(SamePoint(), ErrorCurve{{.2, 1}}));
}

TEST(DensityAllocation, ErrorsLieOnTheHull) {
  const ErrorCurve curve{{.1, 9}, {.2, 8}, {.3, 3}};
  EXPECT_EQ(squared_error_at(curve, .05), 9);
  EXPECT_DOUBLE_EQ(squared_error_at(curve, .2), 6);
  EXPECT_EQ(squared_error_at(curve, .3), 3);
  EXPECT_EQ(squared_error_at(curve, 1), 3);
}

// The hull of each curve at all multiples of 1/32 is what density may be spent on; the corners are
// among them, and so is what a last segment is cut to for a budget in these units.
TEST(DensityAllocation, NoOtherAllocationHasALesserError) {
  constexpr int kUnits = 32;
  for (std::uint32_t seed = 1; seed <= 20; ++seed) {
    const std::vector<ErrorCurve> curves = ragged_curves(seed);
    for (const int budget : {12, 19, 40, 77, 96}) {
      double best = std::numeric_limits<double>::infinity();
      for (int a = kUnits / 8; a <= kUnits; ++a) {
        for (int b = kUnits / 8; b <= kUnits; ++b) {
          const int c = budget - a - b;
          if (c < kUnits / 8) continue;
          const auto at = [&](std::size_t i, int units) {
            return squared_error_at(curves[i], static_cast<double>(units) / kUnits);
          };
          best = std::min(best, (at(0, a) + at(1, b) + at(2, std::min(c, kUnits))) / 3);
        }
      }
      const double mean = static_cast<double>(budget) / (3 * kUnits);
      const Allocation got = allocate_density(curves, mean);
      EXPECT_NEAR(got.mean_squared_error, best, 1e-9 * best) << seed << ", " << budget;
      EXPECT_LE(got.mean_density, mean + 1e-12);
      double spent = 0;
      double error = 0;
      for (std::size_t i = 0; i < 3; ++i) {
        spent += got.density[i];
        error += squared_error_at(curves[i], got.density[i]);
      }
      EXPECT_NEAR(spent / 3, got.mean_density, 1e-12);
      EXPECT_NEAR(error / 3, got.mean_squared_error, 1e-9 * best);
    }
  }
}

TEST(DensityAllocation, LeastDensityForAnErrorIsTheInverse) {
  for (std::uint32_t seed = 1; seed <= 20; ++seed) {
    const std::vector<ErrorCurve> curves = ragged_curves(seed);
    const Allocation spent = allocate_density(curves, 0.4);
    const Allocation asked = allocate_error(curves, spent.mean_squared_error);
    EXPECT_NEAR(asked.mean_density, spent.mean_density, 1e-9);
    EXPECT_THAT(asked.density, Pointwise(DoubleNear(1e-9), spent.density));
  }
}

TEST(DensityAllocation, SpendsWhereTheErrorFallsFastest) {
  const std::vector<ErrorCurve> curves{{{.1, 1}, {.2, .9}}, {{.1, 10}, {.2, 1}, {.3, .5}}};
  EXPECT_THAT(allocate_density(curves, .15).density,
              ElementsAre(DoubleNear(.1, 1e-12), DoubleNear(.2, 1e-12)));
  EXPECT_THAT(allocate_density(curves, .175).density,
              ElementsAre(DoubleNear(.1, 1e-12), DoubleNear(.25, 1e-12)));
}

TEST(DensityAllocation, TakesNoMoreThanHelps) {
  const std::vector<ErrorCurve> curves{{{.1, 1}, {.2, 0}}, {{.1, 5}}};
  const Allocation got = allocate_density(curves, .9);
  EXPECT_THAT(got.density, ElementsAre(DoubleNear(.2, 1e-12), DoubleNear(.1, 1e-12)));
  EXPECT_NEAR(got.mean_squared_error, 2.5, 1e-12);
}

TEST(DensityAllocation, EqualGainsGoToTheFirstCurve) {
  const std::vector<ErrorCurve> curves(3, ErrorCurve{{.1, 1}, {.2, 0}});
  const Allocation got = allocate_density(curves, .4 / 3);
  EXPECT_THAT(got.density,
              ElementsAre(DoubleNear(.2, 1e-12), DoubleNear(.1, 1e-12), DoubleNear(.1, 1e-12)));
}

TEST(DensityAllocation, EveryCurveGetsWhatItIsToHaveAtLeast) {
  const std::vector<ErrorCurve> curves{{{.1, 1}, {.2, .9}, {.3, .9}},
                                       {{.1, 10}, {.2, 1}, {.3, .5}}};
  const std::vector<double> least{.15, .05};
  const Allocation spent = allocate_density(curves, .15, least);
  EXPECT_THAT(spent.density, ElementsAre(DoubleNear(.15, 1e-12), DoubleNear(.15, 1e-12)));
  EXPECT_NEAR(spent.mean_squared_error, (.95 + 5.5) / 2, 1e-12);
  const Allocation asked = allocate_error(curves, spent.mean_squared_error, least);
  EXPECT_THAT(asked.density, Pointwise(DoubleNear(1e-9), spent.density));
  // Also where it does not help.
  EXPECT_THAT(allocate_density(curves, .25, std::vector{.29, .1}).density,
              ElementsAre(DoubleNear(.29, 1e-12), DoubleNear(.21, 1e-12)));
}

TEST(DensityAllocation, RefusesLeastDensitiesThatDoNotFit) {
  const std::vector<ErrorCurve> curves(2, ErrorCurve{{.1, 1}, {.2, .5}});
  const auto refused = [&](const std::vector<double>& least) {
    return error_text(Status::kInvalidArgument,
                      [&] { static_cast<void>(allocate_density(curves, .15, least)); });
  };
  EXPECT_THAT(refused({.2, .12}), AllOf(HasSubstr("0.15"), HasSubstr("0.16")));
  EXPECT_THAT(refused({.1}), AllOf(HasSubstr("least has 1 "), HasSubstr("2 curves")));
  EXPECT_THAT(refused({.1, -1}), HasSubstr("-1"));
}

TEST(DensityAllocation, RefusesWhatCannotBeMet) {
  const std::vector<ErrorCurve> curves{{{.1, 1}, {.2, .5}}};
  EXPECT_THAT(refusal(curves, .05), AllOf(HasSubstr("0.05"), HasSubstr("0.1")));
  EXPECT_THAT(
      error_text(Status::kInvalidArgument, [&] { static_cast<void>(allocate_error(curves, .25)); }),
      AllOf(HasSubstr("0.25"), HasSubstr("0.5")));
}

TEST(DensityAllocation, RefusesWhatIsNoCurve) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(refusal({}, .5), HasSubstr("no curve"));
  EXPECT_THAT(refusal({{}}, .5), HasSubstr("no point"));
  EXPECT_THAT(refusal({{{.1, kNan}}}, .5), HasSubstr("nan"));
  EXPECT_THAT(refusal({{{-.1, 1}}}, .5), HasSubstr("-0.1"));
  EXPECT_THAT(refusal({{{.1, 1}}}, kNan), HasSubstr("nan"));
}

}  // namespace
}  // namespace psa::engine
