// SPDX-License-Identifier: Apache-2.0

// Conversions between float and the 16-bit storage types, which every stage rounds with.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "psa/half.hpp"

namespace psa::core {
namespace {

struct StorageType {
  const char* name;
  float (*load)(std::uint16_t);
  std::uint16_t (*store)(float);
  std::uint16_t infinity;
};

constexpr StorageType kTypes[] = {{"f16", float_from_f16, f16_from_float, 0x7C00},
                                  {"bf16", float_from_bf16, bf16_from_float, 0x7F80}};

class StorageTypes : public ::testing::TestWithParam<StorageType> {};

TEST_P(StorageTypes, EveryStoredNumberSurvivesTheWayToFloatAndBack) {
  const StorageType& type = GetParam();
  for (std::uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const auto stored = static_cast<std::uint16_t>(bits);
    const float value = type.load(stored);
    if ((stored & 0x7FFF) > type.infinity) {
      EXPECT_TRUE(std::isnan(value) && std::isnan(type.load(type.store(value)))) << bits;
    } else {
      EXPECT_EQ(type.store(value), stored);
    }
  }
}

TEST_P(StorageTypes, AreOrderedLikeTheirBits) {
  const StorageType& type = GetParam();
  for (std::uint16_t bits = 0; bits < type.infinity; ++bits) {
    EXPECT_LT(type.load(bits), type.load(static_cast<std::uint16_t>(bits + 1)));
  }
  EXPECT_TRUE(std::isinf(type.load(type.infinity)));
}

/// Number half way between a stored number and the next, as it would be with more bits.
float middle(const StorageType& type, std::uint16_t bits) {
  const double low = static_cast<double>(type.load(bits));
  const auto next = static_cast<std::uint16_t>(bits + 1);
  if (next != type.infinity) {
    return static_cast<float>((low + static_cast<double>(type.load(next))) / 2.0);
  }
  const auto previous = static_cast<std::uint16_t>(bits - 1);
  return static_cast<float>(low + (low - static_cast<double>(type.load(previous))) / 2.0);
}

TEST_P(StorageTypes, RoundToNearestTiesToEven) {
  const StorageType& type = GetParam();
  for (std::uint16_t bits = 0; bits < type.infinity; ++bits) {
    const auto next = static_cast<std::uint16_t>(bits + 1);
    const float tie = middle(type, bits);
    EXPECT_EQ(type.store(tie), bits % 2 == 0 ? bits : next) << bits;
    EXPECT_EQ(type.store(std::nextafter(tie, 0.0F)), bits) << bits;
    EXPECT_EQ(type.store(std::nextafter(tie, INFINITY)), next) << bits;
    EXPECT_EQ(type.store(-tie), 0x8000 | type.store(tie)) << bits;
  }
}

TEST_P(StorageTypes, LargeNumbersBecomeInfinite) {
  const StorageType& type = GetParam();
  EXPECT_EQ(type.store(INFINITY), type.infinity);
  EXPECT_EQ(type.store(-INFINITY), 0x8000 | type.infinity);
  EXPECT_EQ(type.store(std::numeric_limits<float>::max()), type.infinity);
}

INSTANTIATE_TEST_SUITE_P(, StorageTypes, ::testing::ValuesIn(kTypes),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace psa::core
