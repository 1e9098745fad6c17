// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/rows.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "engine/blocks/patches.hpp"
#include "engine/blocks/rotary.hpp"
#include "psa/half.hpp"

namespace psa::engine {
namespace {

constexpr float kEps = 1e-5F;
constexpr double kBudget = 2e-5;  // docs/numerics.md

std::vector<float> random_row(index_t count, unsigned seed, float mean = 0) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(mean);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

/// Lengths around every vector width.
const std::vector<index_t> kLengths{1, 2, 7, 8, 15, 16, 17, 33, 48, 100, 256};

TEST(Rows, LayerNormAgreesWithDouble) {
  for (const index_t dim : kLengths) {
    const std::vector<float> x = random_row(dim, 1, 3);
    const std::vector<float> scale = random_row(dim, 2);
    const std::vector<float> shift = random_row(dim, 3);
    std::vector<float> out(x.size());
    layer_norm(x.data(), dim, kEps, scale.data(), shift.data(), out.data());
    double mean = 0;
    for (const float value : x) mean += static_cast<double>(value) / static_cast<double>(dim);
    double variance = 0;
    for (const float value : x) {
      const double centred = static_cast<double>(value) - mean;
      variance += centred * centred / static_cast<double>(dim);
    }
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = (static_cast<double>(x[i]) - mean) /
                                  std::sqrt(variance + static_cast<double>(kEps)) *
                                  static_cast<double>(scale[i]) +
                              static_cast<double>(shift[i]);
      EXPECT_NEAR(static_cast<double>(out[i]), expected, kBudget) << dim << " " << i;
    }
    std::vector<float> in_place = x;
    layer_norm(in_place.data(), dim, kEps, scale.data(), shift.data(), in_place.data());
    EXPECT_EQ(in_place, out);
  }
}

TEST(Rows, RmsNormAgreesWithDouble) {
  for (const index_t dim : kLengths) {
    const std::vector<float> x = random_row(dim, 1, 1);
    const std::vector<float> weight = random_row(dim, 2);
    std::vector<float> out = x;
    rms_norm(out.data(), dim, kEps, weight.data());
    double squares = 0;
    for (const float value : x) {
      squares += static_cast<double>(value) * static_cast<double>(value) / static_cast<double>(dim);
    }
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = static_cast<double>(x[i]) /
                              std::sqrt(squares + static_cast<double>(kEps)) *
                              static_cast<double>(weight[i]);
      EXPECT_NEAR(static_cast<double>(out[i]), expected, kBudget) << dim << " " << i;
    }
  }
}

TEST(Rows, PairsOfEveryHeadTurnByTheSameAngles) {
  for (const index_t pairs : {index_t{3}, index_t{8}, index_t{16}, index_t{32}}) {
    constexpr index_t kHeads = 3;
    const std::vector<float> angle = random_row(pairs, 4);
    std::vector<float> cosine(angle.size());
    std::vector<float> sine(angle.size());
    for (std::size_t i = 0; i < angle.size(); ++i) {
      cosine[i] = std::cos(angle[i]);
      sine[i] = std::sin(angle[i]);
    }
    const std::vector<float> x = random_row(kHeads * 2 * pairs, 5);
    std::vector<float> turned = x;
    rotate_pairs(turned.data(), kHeads, pairs, cosine.data(), sine.data());
    for (std::size_t i = 0; i < x.size(); i += 2) {
      const std::size_t pair = i / 2 % angle.size();
      EXPECT_NEAR(turned[i], x[i] * cosine[pair] - x[i + 1] * sine[pair], 1e-6);
      EXPECT_NEAR(turned[i + 1], x[i] * sine[pair] + x[i + 1] * cosine[pair], 1e-6);
    }
  }
}

TEST(Rows, SumsAndRoundingAreThoseOfTheScalars) {
  for (const index_t count : kLengths) {
    const std::vector<float> x = random_row(count, 1);
    const std::vector<float> y = random_row(count, 2);
    const std::vector<float> gate = random_row(count, 3);
    std::vector<float> gated = x;
    add_gated(gated.data(), y.data(), gate.data(), count);
    std::vector<float> plain = x;
    add(plain.data(), y.data(), count);
    std::vector<std::uint16_t> rounded(x.size());
    round_to_bf16(x.data(), count, rounded.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_NEAR(gated[i], x[i] + y[i] * gate[i], 1e-5F);
      EXPECT_EQ(plain[i], x[i] + y[i]);
      EXPECT_EQ(rounded[i], bf16_from_float(x[i]));
    }
  }
  const std::vector<float> special(20, std::numeric_limits<float>::quiet_NaN());
  std::vector<std::uint16_t> rounded(special.size());
  round_to_bf16(special.data(), 20, rounded.data());
  for (const std::uint16_t bits : rounded) EXPECT_TRUE(std::isnan(float_from_bf16(bits)));
}

TEST(Rotary, ChannelsAreSplitOverFramesRowsAndColumns) {
  // 20 channels: 2 * (20 / 6) = 6 each for height and width, 8 for frames.
  const VideoGrid grid{2, 3, 5};
  const RotaryTable table(20, grid);
  ASSERT_EQ(table.pairs(), 10);
  std::vector<float> cosine(10);
  std::vector<float> sine(10);
  const index_t frame = 1;
  const index_t row = 2;
  const index_t column = 3;
  table.angles_of((frame * 3 + row) * 5 + column, cosine.data(), sine.data());
  const auto expect_angle = [&](std::size_t pair, index_t position, double exponent) {
    const double angle = static_cast<double>(position) * std::pow(10000.0, -exponent);
    EXPECT_NEAR(static_cast<double>(cosine[pair]), std::cos(angle), 1e-7) << pair;
    EXPECT_NEAR(static_cast<double>(sine[pair]), std::sin(angle), 1e-7) << pair;
  };
  for (std::size_t i = 0; i < 4; ++i) expect_angle(i, frame, static_cast<double>(i) / 4);
  for (std::size_t i = 0; i < 3; ++i) expect_angle(4 + i, row, static_cast<double>(i) / 3);
  for (std::size_t i = 0; i < 3; ++i) expect_angle(7 + i, column, static_cast<double>(i) / 3);
}

TEST(Patches, GatherAndScatterKnowTheirOrders) {
  const PatchLayout layout{{2, 3, 2}, {2, 1, 3}};
  constexpr index_t kChannels = 4;
  constexpr index_t kFrames = 4;
  constexpr index_t kHeight = 3;
  constexpr index_t kWidth = 6;
  const std::vector<float> latent = random_row(kChannels * kFrames * kHeight * kWidth, 6);
  std::vector<float> copy(latent.size());
  const index_t volume = layout.patch_volume();
  for (index_t token = 0; token < layout.grid.tokens(); ++token) {
    std::vector<float> kernel_order(static_cast<std::size_t>(kChannels * volume));
    gather_patch(layout, kChannels, latent.data(), token, kernel_order.data());
    std::vector<float> output_order(kernel_order.size());
    for (index_t c = 0; c < kChannels; ++c) {
      for (index_t voxel = 0; voxel < volume; ++voxel) {
        output_order[static_cast<std::size_t>(voxel * kChannels + c)] =
            kernel_order[static_cast<std::size_t>(c * volume + voxel)];
      }
    }
    scatter_patch(layout, kChannels, output_order.data(), token, copy.data());
  }
  EXPECT_EQ(copy, latent);
  // Token (1, 2, 1): frames 2..3, row 2, columns 3..5. Its value (channel 3, frame 1, column 2).
  std::vector<float> patch(static_cast<std::size_t>(kChannels * volume));
  gather_patch(layout, kChannels, latent.data(), (1 * 3 + 2) * 2 + 1, patch.data());
  EXPECT_EQ(patch[3 * 6 + 1 * 3 + 2], latent[((3 * kFrames + 3) * kHeight + 2) * kWidth + 5]);
}

}  // namespace
}  // namespace psa::engine
