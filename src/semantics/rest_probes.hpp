// SPDX-License-Identifier: Apache-2.0
#pragma once

// Factors of the rest, fitted to exact rows (docs/semantics.md S-25): which rows of a head are
// probes, and what their sums say of the mass and of the first-order term of unread blocks.

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "semantics/blocks.hpp"
#include "semantics/first_order.hpp"
#include "semantics/hd.hpp"
#include "semantics/pooling.hpp"

namespace psa::semantics {

inline constexpr index_t kMostProbes = 64;
inline constexpr index_t kRowsPerProbe = 128;  ///< at least, so that probes cost 1 % of dense
inline constexpr index_t kFewestProbes = 8;    ///< fewer rows do not tell a factor from noise

/// Probe rows of a head; 0 where there are too few query rows for kFewestProbes.
PSA_HD constexpr index_t probe_count(index_t len_q) {
  const index_t count = min_of(kMostProbes, len_q / kRowsPerProbe);
  return count < kFewestProbes ? 0 : count;
}

/// Query position, in working order, of a probe: one in each of probe_count() equal parts of the
/// queries, at a place in its part that no block size divides (fractions of multiples of the golden
/// ratio).
PSA_HD constexpr index_t probe_row(index_t probe, index_t len_q) {
  constexpr std::uint32_t kGoldenRatio = 0x9E3779B9U;  // its fraction times 2^32
  const index_t count = probe_count(len_q);
  const index_t begin = probe * len_q / count;
  const index_t rows = (probe + 1) * len_q / count - begin;
  const std::uint32_t fraction = static_cast<std::uint32_t>(probe) * kGoldenRatio;
  return begin + (rows * index_t{fraction} >> 32);
}

/// Probe rows below query position `end`: the first ones, since positions rise with the probe.
PSA_HD constexpr index_t probes_before(index_t end, index_t len_q) {
  const index_t count = probe_count(len_q);
  if (count == 0) return 0;
  const index_t part = min_of(count, end * count / len_q);  // all parts before it lie below `end`
  return part < count && probe_row(part, len_q) < end ? part + 1 : part;
}

/// Probe rows, from the first on, to which the factors of query block [., end) are fitted. In
/// causal calls none is of a later query block.
PSA_HD constexpr index_t fitted_probes(bool causal, index_t end, index_t len_q) {
  return causal ? probes_before(end, len_q) : probe_count(len_q);
}

/// Whether a probe row counts the keys of a block as unread: in its rest set, or skipped.
PSA_HD constexpr bool is_unread(int code, bool is_in_rest_set) {
  return is_in_rest_set || code == kSkipCode;
}

/// What a probe row says. Its error with a mass factor mu and a slope beta is exactly
/// |y - mu x1 - beta mu x2| / (read_mass + mu rest_mass): see S-25 for y, x1 and x2. Masses are
/// relative to the largest exponential of the row.
template <typename Real>
struct ProbeSums {
  Real read_mass, rest_mass;
  Real yy, y1, y2, x11, x12, x22;  ///< products, summed over the channels
  Real oo;                         ///< square of the exact row

  /// A channel of the exact row and of y, x1 and x2.
  PSA_HD void add_channel(Real out, Real y, Real x1, Real x2) {
    oo += out * out;
    yy += y * y;
    y1 += y * x1;
    y2 += y * x2;
    x11 += x1 * x1;
    x12 += x1 * x2;
    x22 += x2 * x2;
  }

  /// Sums over other channels of the row, whose masses are the same.
  PSA_HD void add(const ProbeSums& other) {
    oo += other.oo;
    yy += other.yy;
    y1 += other.y1;
    y2 += other.y2;
    x11 += other.x11;
    x12 += other.x12;
    x22 += other.x22;
  }

  [[nodiscard]] PSA_HD bool qualifies() const {
    return rest_mass > Real(0) && read_mass + rest_mass >= Real(0x1p-40) && is_finite_float(yy) &&
           is_finite_float(x11) && is_finite_float(x22) && is_finite_float(oo) &&
           is_finite_float(read_mass) && is_finite_float(rest_mass);
  }
};

template <typename Real>
struct RestFactors {
  Real mass = 1;   ///< mu, of the masses of unread blocks
  Real slope = 1;  ///< beta, of their first-order term
};

// mu is searched among 2^(t/2), t in kFirstStep..kLastStep, and then between neighbours.
inline constexpr int kFirstStep = -10;
inline constexpr int kLastStep = 4;
inline constexpr int kMostSlope = 4;

// Errors are taken at the neighbours of the first and the last step too.
inline constexpr int kFirstError = kFirstStep - 1;
inline constexpr int kErrors = kLastStep + 1 - kFirstError + 1;

/// Errors below the rounding of 16-bit storage, here squared, must not choose mu: where the rest
/// has no error at all, only rounding would.
inline constexpr double kRoundingFloor = 0x1p-16;

PSA_HD inline double mass_at(double step) { return std::exp2(0.5 * step); }

/// Mean squared error of the probe rows as a function of mu and beta, but for a factor.
template <typename Real>
struct RestFit {
  const ProbeSums<Real>* probes;
  index_t count;

  struct Terms {
    Real yy = 0, y1 = 0, y2 = 0, x11 = 0, x12 = 0, x22 = 0, oo = 0;
    Real rows = 0;
  };

  /// A row's share of the terms.
  static PSA_HD void add(Terms& sum, const ProbeSums<Real>& row, Real mass) {
    if (!row.qualifies()) return;
    const Real total = row.read_mass + mass * row.rest_mass;
    const Real weight = Real(1) / (total * total);
    sum.yy += weight * row.yy;
    sum.y1 += weight * row.y1;
    sum.y2 += weight * row.y2;
    sum.x11 += weight * row.x11;
    sum.x12 += weight * row.x12;
    sum.x22 += weight * row.x22;
    sum.oo += row.oo;
    sum.rows += Real(1);
  }

  [[nodiscard]] PSA_HD Terms terms_at(Real mass) const {
    Terms sum;
    for (index_t r = 0; r < count; ++r) add(sum, probes[r], mass);
    return sum;
  }

  [[nodiscard]] static PSA_HD Real slope_of(const Terms& t, Real mass) {
    if (!(t.x22 > Real(0))) return Real(1);
    const Real slope = (t.y2 - mass * t.x12) / (mass * t.x22);
    return std::fmin(std::fmax(slope, Real(0)), Real(kMostSlope));
  }

  /// The error at mu with its best beta, with what keeps mu at 1 if rows are few or right.
  [[nodiscard]] static PSA_HD Real error_of(const Terms& t, Real mass) {
    const Real line = slope_of(t, mass) * mass;
    const Real error = t.yy + mass * mass * t.x11 + line * line * t.x22 - Real(2) * mass * t.y1 -
                       Real(2) * line * t.y2 + Real(2) * mass * line * t.x12;
    const Real log_mass = std::log(mass);
    const Real square = log_mass * log_mass;
    return error * (Real(1) + Real(2) / t.rows * square) + Real(kRoundingFloor) * t.oo * square;
  }

  /// Where the parabola through the errors at step - 1, step and step + 1 is least, `step` being
  /// the best of all. It goes over steadily to the neighbour's.
  [[nodiscard]] static PSA_HD Real vertex(int step, Real before, Real at, Real after) {
    const Real bend = before - Real(2) * at + after;
    if (!(bend > Real(0))) return static_cast<Real>(step);
    const Real offset = (before - after) / (Real(2) * bend);
    const Real least = step == kFirstStep ? Real(0) : Real(-0.5);
    const Real most = step == kLastStep ? Real(0) : Real(0.5);
    return static_cast<Real>(step) + std::fmin(std::fmax(offset, least), most);
  }

  /// The vertex of the best step, the one at 0 among equals; errors[i] is that at step
  /// kFirstError + i.
  [[nodiscard]] static PSA_HD Real best_vertex(const Real* errors) {
    int best = 0;
    for (int step = kFirstStep; step <= kLastStep; ++step) {
      if (errors[step - kFirstError] < errors[best - kFirstError]) best = step;
    }
    const Real* at = errors + best - kFirstError;
    return vertex(best, at[-1], at[0], at[1]);
  }

  /// The factors at a vertex. 1 where too few rows qualify.
  [[nodiscard]] static PSA_HD RestFactors<Real> factors_of(const Terms& t, Real mass) {
    if (t.rows < static_cast<Real>(kFewestProbes)) return {};
    return {mass, slope_of(t, mass)};
  }
};

/// The factors that the first `count` probe rows of a head give.
template <typename Real>
RestFactors<Real> fit_rest(const ProbeSums<Real>* probes, index_t count) {
  const RestFit<Real> fit{probes, count};
  std::array<Real, kErrors> errors{};
  for (int i = 0; i < kErrors; ++i) {
    const auto mass = static_cast<Real>(mass_at(kFirstError + i));
    errors[static_cast<std::size_t>(i)] = fit.error_of(fit.terms_at(mass), mass);
  }
  const Real step = fit.best_vertex(errors.data());
  const auto mass = static_cast<Real>(mass_at(static_cast<double>(step)));
  return fit.factors_of(fit.terms_at(mass), mass);
}

}  // namespace psa::semantics
