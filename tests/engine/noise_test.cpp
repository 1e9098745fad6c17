// SPDX-License-Identifier: Apache-2.0
#include "engine/sampler/noise.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <numbers>
#include <vector>

#include "engine/sampler_golden.hpp"

namespace psa::engine {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;

TEST(Noise, PhiloxGivesThePublishedWords) {
  // Known answers of the authors' Random123 library.
  EXPECT_THAT(philox4x32_10({}, {}), ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_THAT(philox4x32_10({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(
      philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(Noise, BitsOfASeedAreFixed) {
  std::vector<float> noise(kNoiseOfSeed0.size());
  fill_normal(0, noise);
  EXPECT_THAT(noise, ElementsAreArray(kNoiseOfSeed0));
  fill_normal(0xDEADBEEF12345678, noise);
  EXPECT_THAT(noise, ElementsAreArray(kNoiseOfLargeSeed));
}

TEST(Noise, AgreesWithTheFunctionsOfTheCLibrary) {
  constexpr std::uint32_t kPairs = 1U << 16U;
  std::vector<float> noise(2 * std::size_t{kPairs});
  fill_normal(3, noise);
  const auto unit = [](std::uint32_t low, std::uint32_t high) {
    return static_cast<double>((std::uint64_t{high} << 32U | low) >> 11U);
  };
  int differing = 0;
  for (std::uint32_t pair = 0; pair < kPairs; ++pair) {
    const auto words = philox4x32_10({pair, 0, 0, 0}, {3, 0});
    const double radius = std::sqrt(-2 * std::log((unit(words[0], words[1]) + 1) * 0x1p-53));
    const double angle = 2 * std::numbers::pi * unit(words[2], words[3]) * 0x1p-53;
    const std::size_t at = 2 * std::size_t{pair};
    differing += noise[at] != static_cast<float>(radius * std::cos(angle)) ? 1 : 0;
    differing += noise[at + 1] != static_cast<float>(radius * std::sin(angle)) ? 1 : 0;
  }
  // Errors of about 1e-16 before rounding to float leave perhaps one; of 1e-11 they leave dozens.
  EXPECT_LE(differing, 2);
}

TEST(Noise, LongerOutputBeginsWithAShorterOne) {
  std::vector<float> longer(7);
  std::vector<float> shorter(3);
  fill_normal(11, longer);
  fill_normal(11, shorter);
  longer.resize(3);
  EXPECT_EQ(longer, shorter);
  fill_normal(11, {});
}

TEST(Noise, IsNormalAndIndependent) {
  constexpr std::size_t kCount = 1U << 20U;
  std::vector<float> noise(kCount);
  fill_normal(5, noise);
  double sum = 0;
  double squares = 0;
  double fourth_powers = 0;
  double neighbours = 0;
  double largest = 0;
  for (std::size_t i = 0; i < kCount; ++i) {
    const auto x = static_cast<double>(noise[i]);
    sum += x;
    squares += x * x;
    fourth_powers += x * x * x * x;
    if (i > 0) neighbours += x * static_cast<double>(noise[i - 1]);
    largest = std::max(largest, std::abs(x));
  }
  constexpr double kFiveDeviations = 5.0 / 1024;  // of the mean of 2^20 numbers with variance 1
  EXPECT_NEAR(sum / kCount, 0, kFiveDeviations);
  EXPECT_NEAR(squares / kCount, 1, kFiveDeviations * std::sqrt(2.0));
  EXPECT_NEAR(fourth_powers / kCount, 3, kFiveDeviations * std::sqrt(96.0));
  EXPECT_NEAR(neighbours / kCount, 0, kFiveDeviations);
  EXPECT_GT(largest, 4.2);
  EXPECT_LT(largest, 6.5);
}

}  // namespace
}  // namespace psa::engine
