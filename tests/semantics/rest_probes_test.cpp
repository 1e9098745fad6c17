// SPDX-License-Identifier: Apache-2.0
#include "semantics/rest_probes.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <vector>

namespace psa::semantics {
namespace {

TEST(RestProbes, S25OneRowInEachPartOfTheQueries) {
  EXPECT_EQ(probe_count(1), 0);
  EXPECT_EQ(probe_count(1023), 0);
  EXPECT_EQ(probe_count(1024), 8);
  EXPECT_EQ(probe_count(8191), 63);
  EXPECT_EQ(probe_count(8192), 64);
  EXPECT_EQ(probe_count(index_t{1} << 31), 64);
  for (const index_t len :
       {index_t{1024}, index_t{1500}, index_t{8191}, index_t{75600}, (index_t{1} << 31) - 1}) {
    const index_t count = probe_count(len);
    for (index_t p = 0; p < count; ++p) {
      EXPECT_GE(probe_row(p, len), p * len / count) << len;
      EXPECT_LT(probe_row(p, len), (p + 1) * len / count) << len;
    }
  }
}

// A block size that divided the places would probe the same row of every block.
TEST(RestProbes, S25PlacesInABlockDiffer) {
  for (const index_t block : {16, 32, 64, 128}) {
    std::set<index_t> places;
    for (index_t p = 0; p < 64; ++p) places.insert(probe_row(p, 16384) % block);
    EXPECT_GT(places.size(), static_cast<std::size_t>(min_of(block, 64) / 2)) << block;
  }
}

TEST(RestProbes, S25CountsTheRowsBeforeAPosition) {
  for (const index_t len : {index_t{1}, index_t{1023}, index_t{1024}, index_t{1500}, index_t{8191},
                            index_t{8192}, index_t{16411}}) {
    index_t before = 0;
    for (index_t end = 0; end <= len; ++end) {
      ASSERT_EQ(probes_before(end, len), before) << end << " of " << len;
      if (before < probe_count(len) && probe_row(before, len) == end) ++before;
    }
    EXPECT_EQ(before, probe_count(len));
  }
  constexpr index_t kLongest = (index_t{1} << 31) - 1;
  EXPECT_EQ(probes_before(kLongest, kLongest), 64);
  EXPECT_EQ(probes_before(probe_row(40, kLongest), kLongest), 40);
  EXPECT_EQ(probes_before(probe_row(40, kLongest) + 1, kLongest), 41);
}

TEST(RestProbes, S25CausalBlocksAreFittedToRowsUpToTheirEnd) {
  EXPECT_EQ(fitted_probes(false, 128, 2048), 16);
  EXPECT_EQ(fitted_probes(true, 128, 2048), 1);
  EXPECT_EQ(fitted_probes(true, 2048, 2048), 16);
  EXPECT_EQ(fitted_probes(true, 128, 1000), 0);
}

using Sums = ProbeSums<double>;

/// Rows of `channels` numbers whose error is `noise` with the factors mu and beta.
std::vector<Sums> planted(double mu, double beta, double noise, int count = 64) {
  std::mt19937 generator(5);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> mass(0.2, 0.8);
  std::vector<Sums> rows;
  for (int r = 0; r < count; ++r) {
    Sums row{};
    row.read_mass = mass(generator);
    row.rest_mass = mass(generator);
    for (int c = 0; c < 32; ++c) {
      const double x1 = normal(generator);
      const double x2 = 0.5 * x1 + normal(generator);
      const double y = mu * x1 + beta * mu * x2 + noise * normal(generator);
      row.yy += y * y;
      row.y1 += y * x1;
      row.y2 += y * x2;
      row.x11 += x1 * x1;
      row.x12 += x1 * x2;
      row.x22 += x2 * x2;
    }
    rows.push_back(row);
  }
  return rows;
}

RestFactors<double> fit(const std::vector<Sums>& rows) {
  return fit_rest(rows.data(), static_cast<index_t>(rows.size()));
}

TEST(RestFit, S25FindsThePlantedFactors) {
  for (const double mu : {0.0625, 0.25, 0.6, 1.0, 1.7, 3.0}) {
    for (const double beta : {0.0, 0.4, 1.0, 2.5}) {
      const RestFactors<double> found = fit(planted(mu, beta, 0.01));
      EXPECT_NEAR(found.mass / mu, 1, 0.05) << mu << " " << beta;
      EXPECT_NEAR(found.slope, beta, 0.1) << mu << " " << beta;
    }
  }
}

TEST(RestFit, S25FloatsFindWhatDoublesDo) {
  const std::vector<Sums> rows = planted(0.6, 0.4, 0.1);
  std::vector<ProbeSums<float>> floats;
  for (const Sums& r : rows) {
    const auto f = [](double x) { return static_cast<float>(x); };
    floats.push_back({f(r.read_mass), f(r.rest_mass), f(r.yy), f(r.y1), f(r.y2), f(r.x11), f(r.x12),
                      f(r.x22), f(r.oo)});
  }
  const RestFactors<float> found = fit_rest(floats.data(), 64);
  EXPECT_NEAR(found.mass, fit(rows).mass, 1e-4);
  EXPECT_NEAR(found.slope, fit(rows).slope, 1e-4);
}

TEST(RestFit, S25FactorsStayInTheirRange) {
  EXPECT_DOUBLE_EQ(fit(planted(1e-4, 1, 0)).mass, std::exp2(-5));
  EXPECT_DOUBLE_EQ(fit(planted(100, 1, 0)).mass, 4);
  EXPECT_DOUBLE_EQ(fit(planted(1, 1000, 0)).slope, 4);
  EXPECT_DOUBLE_EQ(fit(planted(1, -2, 0)).slope, 0);
}

// Rows without an error, but for rounding that falls as mu grows or as it shrinks.
TEST(RestFit, S25RoundingDoesNotChooseTheMass) {
  for (const double read : {0.0, 0.5}) {
    std::vector<Sums> rows;
    for (int r = 0; r < 16; ++r) rows.push_back({read, 0.5, 1e-7, 0, 0, 1e-7, 0, 0, 1});
    EXPECT_NEAR(fit(rows).mass, 1, 0.3) << read;
    for (Sums& row : rows) row = {read, 0.5, 0, 0, 0, 0, 0, 0, 1};
    EXPECT_DOUBLE_EQ(fit(rows).mass, 1) << read;
  }
}

// Nothing says what mu is, so it stays at 1, whatever the rounding of the sums.
TEST(RestFit, S25AMassThatDoesNotCountStaysOne) {
  std::vector<Sums> rows;
  for (int r = 0; r < 16; ++r) rows.push_back({1, 1e-9, 1, 1e-9, 1e-9, 1e-9, 1e-9, 1e-9, 1});
  EXPECT_NEAR(fit(rows).mass, 1, 1e-3);
}

TEST(RestFit, S25FewRowsSayNothing) {
  std::vector<Sums> rows = planted(0.5, 2, 0, 8);
  EXPECT_NEAR(fit(rows).mass, 0.5, 0.05);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double bad : {nan, 1e300}) {
    std::vector<Sums> seven = rows;
    seven[3].yy = bad;
    EXPECT_EQ(fit(seven).mass, 1);
    EXPECT_EQ(fit(seven).slope, 1);
  }
  rows[3].rest_mass = 0;  // a row without a rest set
  EXPECT_EQ(fit(rows).mass, 1);
  EXPECT_EQ(fit_rest<double>(nullptr, 0).slope, 1);
}

// Where two steps are equally good, either gives the place in the middle.
TEST(RestFit, S25ATieGivesOneVertex) {
  using Fit = RestFit<double>;
  EXPECT_DOUBLE_EQ(Fit::vertex(-3, 5, 2, 2), -2.5);
  EXPECT_DOUBLE_EQ(Fit::vertex(-2, 2, 2, 7), -2.5);
  EXPECT_DOUBLE_EQ(Fit::vertex(0, 3, 1, 3), 0);
  EXPECT_DOUBLE_EQ(Fit::vertex(kFirstStep, 1, 2, 5), kFirstStep);
  EXPECT_DOUBLE_EQ(Fit::vertex(kLastStep, 5, 2, 1), kLastStep);
  EXPECT_DOUBLE_EQ(Fit::vertex(2, 1, 1, 1), 2);
}

// Sums that differ in their last bits do so too where the best step changes.
TEST(RestFit, S25FactorsFollowTheSumsSteadily) {
  double before = fit(planted(0.3, 1, 0.3)).mass;
  for (double mu = 0.3; mu < 1.2; mu *= 1.001) {
    const double mass = fit(planted(mu, 1, 0.3)).mass;
    EXPECT_NEAR(mass / before, 1, 0.004) << mu;
    before = mass;
  }
}

}  // namespace
}  // namespace psa::semantics
