// SPDX-License-Identifier: Apache-2.0
// The C structs and the C++ types carry the same fields and the same values.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <psa/psa.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "capi/call.hpp"
#include "capi/status.hpp"

namespace psa::testing {
namespace {

template <typename Enum>
constexpr bool same(Enum cxx, int c) {
  return static_cast<int>(cxx) == c;
}
static_assert(same(Status::kInvalidArgument, PSA_INVALID_ARGUMENT) &&
              same(Status::kUnsupported, PSA_UNSUPPORTED) &&
              same(Status::kOutOfMemory, PSA_OUT_OF_MEMORY) && same(Status::kIo, PSA_IO) &&
              same(Status::kInternal, PSA_INTERNAL));
static_assert(same(DType::kF32, PSA_F32) && same(DType::kF16, PSA_F16) &&
              same(DType::kBF16, PSA_BF16));
static_assert(same(DeviceType::kCuda, PSA_CUDA) && same(TextSide::kBack, PSA_TEXT_BACK));
static_assert(same(LevelRule::kThreshold, PSA_RULE_THRESHOLD) && same(Rest::kMean, PSA_REST_MEAN));
static_assert(same(BudgetScope::kRow, PSA_SCOPE_ROW) && same(BudgetScope::kHead, PSA_SCOPE_HEAD));
static_assert(same(Rest::kSkip, PSA_REST_SKIP) && same(Rest::kLinear, PSA_REST_LINEAR));
static_assert(same(Importance::kSampledMax, PSA_SAMPLED_MAX) &&
              same(Importance::kSampledMass, PSA_SAMPLED_MASS) &&
              same(Importance::kAntidiagonal, PSA_ANTIDIAGONAL) &&
              same(Importance::kPooledLse, PSA_POOLED_LSE) &&
              same(Importance::kUserScores, PSA_USER_SCORES));
static_assert(same(Reorder::kGilbert, PSA_REORDER_GILBERT) &&
              same(Reorder::kTile3d, PSA_REORDER_TILE3D) &&
              same(Reorder::kKMeans, PSA_REORDER_KMEANS) &&
              same(Reorder::kHybrid, PSA_REORDER_HYBRID));
static_assert(same(Compat::kOfficial, PSA_COMPAT_OFFICIAL) && kMaxLevels == PSA_MAX_LEVELS &&
              kBlockMean == PSA_LEVEL_MEAN && kNumLevelCodes == PSA_NUM_LEVEL_CODES);

/// Every 4-byte word its own value, the flags 1: a field that is lost or swapped shows.
template <typename Struct>
Struct numbered() {
  Struct value{};
  for (std::size_t word = 1; word < sizeof(Struct) / 4; ++word) {
    const auto number = static_cast<std::int32_t>(word);
    std::memcpy(reinterpret_cast<char*>(&value) + 4 * word, &number, 4);
  }
  value.struct_size = sizeof(Struct);
  return value;
}

template <typename Struct>
bool same_bytes(const Struct& a, const Struct& b) {
  const auto* first = reinterpret_cast<const unsigned char*>(&a);
  return std::equal(first, first + sizeof(Struct), reinterpret_cast<const unsigned char*>(&b));
}

TEST(CStructs, ConfigKeepsEveryField) {
  psa_config given = numbered<psa_config>();
  given.reserved = 0;
  given.use_similarity_cap = given.text_keys_full = given.text_queries_full = 1;
  given.share_group_map = given.causal = given.weigh_values = 1;
  // The two gaps in the struct belong to no field.
  std::memset(reinterpret_cast<char*>(&given) + 68, 0, 4);
  std::memset(reinterpret_cast<char*>(&given) + 156, 0, 4);
  const std::array<float, 3> densities{0.1F, 0.2F, 0.3F};
  given.head_density = densities.data();
  given.num_head_densities = 3;
  const Config config = detail::from_c(given);
  psa_config back = detail::to_c(config);
  EXPECT_NE(back.head_density, given.head_density) << "a copy";
  EXPECT_TRUE(std::equal(densities.begin(), densities.end(), back.head_density));
  back.head_density = given.head_density;
  EXPECT_TRUE(same_bytes(back, given));
}

TEST(CStructs, ProblemKeepsEveryField) {
  psa_problem given = numbered<psa_problem>();
  given.reserved = 0;
  EXPECT_TRUE(same_bytes(detail::to_c(detail::from_c(given)), given));
}

TEST(CStructs, TensorKeepsEveryField) {
  float data = 0;
  const psa_tensor given{&data, 1, 2, 3, 0, {4, 5, 6, 7}, {8, 9, 10, 11}};
  EXPECT_TRUE(same_bytes(detail::to_c(detail::from_c(given)), given));
}

TEST(CStructs, DefaultsOfBothLanguagesAreEqual) {
  psa_config config;
  std::memset(&config, 0x55, sizeof(config));
  psa_config_init(&config);
  EXPECT_TRUE(same_bytes(config, detail::to_c(Config{})));
}

TEST(CxxPresets, AreFoundByName) {
  const std::vector<Preset> all = presets();
  ASSERT_FALSE(all.empty());
  for (const Preset& preset : all) {
    const Preset found = find_preset(std::string(preset.name));
    EXPECT_EQ(found.name, preset.name);
    EXPECT_EQ(found.config, preset.config);
    EXPECT_EQ(found.text_tokens, preset.text_tokens);
  }
}

TEST(CxxPresets, UnknownNamesGiveTheKnownOnes) {
  for (const Preset& preset : presets()) {
    expect_error(Status::kInvalidArgument, std::string(preset.name),
                 [] { (void)find_preset("no-such-preset"); });
  }
}

TEST(CxxPresets, DensityChangesTheBudgetAlone) {
  Config config;
  config.seed = 9;
  const Config sparser = with_density(config, 0.05);
  EXPECT_LT(sparser.budget[0], config.budget[0]);
  EXPECT_EQ(sparser.seed, 9U);
  config.head_density = {0.1F, 0.2F};  // S-24: one density for all heads now
  EXPECT_EQ(with_density(config, 0.05), sparser);
  expect_error(Status::kInvalidArgument, "density is 2", [&] { (void)with_density(config, 2.0); });
}

TEST(CxxBackends, EndWithTheReference) {
  const std::vector<BackendInfo> all = backends();
  ASSERT_GE(all.size(), 2U);
  EXPECT_EQ(all.back().name, "reference");
  EXPECT_TRUE(all.back().available);
  for (const BackendInfo& info : all) EXPECT_FALSE(info.reason.empty());
}

TEST(CStatus, EveryExceptionBecomesAStatus) {
  EXPECT_EQ(capi::guarded([] { throw Error(Status::kIo, "file is missing"); }), PSA_IO);
  EXPECT_STREQ(psa_last_error(), "file is missing");
  EXPECT_EQ(capi::guarded([] { throw std::bad_alloc(); }), PSA_OUT_OF_MEMORY);
  EXPECT_STREQ(psa_last_error(), "host memory is exhausted");
  EXPECT_EQ(capi::guarded([] { throw std::logic_error("broken"); }), PSA_INTERNAL);
  EXPECT_STREQ(psa_last_error(), "broken");
  EXPECT_EQ(capi::guarded([] { throw 3; }), PSA_INTERNAL);
  EXPECT_STREQ(psa_last_error(), "an exception of unknown type");
  EXPECT_EQ(capi::guarded([] {}), PSA_OK);
  EXPECT_STREQ(psa_last_error(), "an exception of unknown type");  // of the last failed call
}

TEST(CStatus, LongMessagesAreCut) {
  const std::string longest(5000, 'x');
  EXPECT_EQ(capi::guarded([&] { throw Error(Status::kIo, longest); }), PSA_IO);
  EXPECT_EQ(std::strlen(psa_last_error()), 2047U);
  EXPECT_EQ(capi::guarded([] { throw Error(Status::kIo, "short"); }), PSA_IO);
  EXPECT_STREQ(psa_last_error(), "short");
}

}  // namespace
}  // namespace psa::testing
