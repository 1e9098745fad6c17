// SPDX-License-Identifier: Apache-2.0
// Compiled with -ffp-contract=off: a fused multiply-add would round differently.
#include "engine/sampler/noise.hpp"

#include <cmath>
#include <cstddef>
#include <numbers>

namespace psa::engine {
namespace {

constexpr double kUnit = 0x1p-53;

struct Product {
  std::uint32_t high;
  std::uint32_t low;
};

Product multiply(std::uint32_t a, std::uint32_t b) {
  const std::uint64_t product = std::uint64_t{a} * b;
  return {static_cast<std::uint32_t>(product >> 32U), static_cast<std::uint32_t>(product)};
}

/// Natural logarithm of a positive number to about 1e-16: with u = m 2^e, m in [sqrt(1/2), sqrt(2))
/// and z = (m - 1)/(m + 1), log u = e log 2 + 2 (z + z^3/3 + z^5/5 + ...), |z| < 0.172.
double logarithm(double u) {
  int exponent = 0;
  double mantissa = std::frexp(u, &exponent);
  if (mantissa < std::numbers::sqrt2 / 2) {
    mantissa *= 2;
    --exponent;
  }
  const double z = (mantissa - 1) / (mantissa + 1);
  const double z2 = z * z;
  double sum = 0;
  for (int k = 23; k >= 1; k -= 2) sum = sum * z2 + 1.0 / k;
  return exponent * std::numbers::ln2 + 2 * z * sum;
}

struct Direction {
  double cosine;
  double sine;
};

/// Of 2 pi `turn`, turn in [0, 1): reduced to at most an eighth of a turn from an axis, which is
/// exact, then Taylor polynomials up to x^18.
Direction direction_of(double turn) {
  const int quarter = static_cast<int>(std::lround(turn * 4));
  const double x = 2 * std::numbers::pi * (turn - quarter * 0.25);
  const double x2 = x * x;
  double cosine = 1;
  double sine = 1;
  for (int k = 18; k >= 2; k -= 2) {
    cosine = 1 - cosine * x2 / (k * (k - 1));
    sine = 1 - sine * x2 / (k * (k + 1));
  }
  sine *= x;
  switch (quarter % 4) {
    case 0:
      return {cosine, sine};
    case 1:
      return {-sine, cosine};
    case 2:
      return {-cosine, -sine};
    default:
      return {sine, -cosine};
  }
}

double uniform(std::uint32_t low, std::uint32_t high) {
  return static_cast<double>((std::uint64_t{high} << 32U | low) >> 11U);
}

}  // namespace

std::array<std::uint32_t, 4> philox4x32_10(std::array<std::uint32_t, 4> counter,
                                           std::array<std::uint32_t, 2> key) {
  constexpr int kRounds = 10;
  for (int round = 0; round < kRounds; ++round) {
    const Product a = multiply(0xD2511F53U, counter[0]);
    const Product b = multiply(0xCD9E8D57U, counter[2]);
    counter = {b.high ^ counter[1] ^ key[0], b.low, a.high ^ counter[3] ^ key[1], a.low};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return counter;
}

void fill_normal(std::uint64_t seed, std::span<float> out) {
  const std::array<std::uint32_t, 2> key{static_cast<std::uint32_t>(seed),
                                         static_cast<std::uint32_t>(seed >> 32U)};
  for (std::size_t i = 0; i < out.size(); i += 2) {
    const std::uint64_t pair = i / 2;
    const std::array<std::uint32_t, 4> words = philox4x32_10(
        {static_cast<std::uint32_t>(pair), static_cast<std::uint32_t>(pair >> 32U), 0, 0}, key);
    const double radius = std::sqrt(-2 * logarithm((uniform(words[0], words[1]) + 1) * kUnit));
    const Direction direction = direction_of(uniform(words[2], words[3]) * kUnit);
    out[i] = static_cast<float>(radius * direction.cosine);
    if (i + 1 < out.size()) out[i + 1] = static_cast<float>(radius * direction.sine);
  }
}

}  // namespace psa::engine
