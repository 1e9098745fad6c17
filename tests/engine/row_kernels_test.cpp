// SPDX-License-Identifier: Apache-2.0
#include "engine/cuda/row_kernels.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <vector>

#include "cuda/cuda_test.hpp"
#include "engine/blocks/rotary.hpp"
#include "engine/device_values.hpp"
#include "engine/error_text.hpp"

namespace psa::engine {
namespace {

class RowKernels : public psa::testing::CudaTest {};

constexpr float kEps = 1e-5F;
constexpr index_t kRows = 5;
constexpr double kRounding = 0x1p-8;  // of bf16

/// One vector, part of a warp, several warps, and vectors that wrap around the CTA.
const std::vector<index_t> kDims{8, 24, 48, 264, 1536, 2056, 5120, 8192};

std::size_t at(index_t index) { return static_cast<std::size_t>(index); }

/// The budget of docs/numerics.md, grown with the value, and one rounding of a bf16 result.
void expect_near(float given, double expected, double rounding, index_t index) {
  EXPECT_NEAR(static_cast<double>(given), expected, (2e-5 + rounding) * (1 + std::abs(expected)))
      << index;
}

/// Layer norm of one row in double.
std::vector<double> layer_norm_of(const std::vector<double>& x, const std::vector<float>& scale,
                                  const std::vector<float>& shift) {
  const auto dim = static_cast<double>(x.size());
  double mean = 0;
  for (const double value : x) mean += value / dim;
  double variance = 0;
  for (const double value : x) variance += (value - mean) * (value - mean) / dim;
  std::vector<double> out;
  for (std::size_t i = 0; i < x.size(); ++i) {
    out.push_back((x[i] - mean) / std::sqrt(variance + static_cast<double>(kEps)) *
                      static_cast<double>(scale[i]) +
                  static_cast<double>(shift[i]));
  }
  return out;
}

TEST_F(RowKernels, AddNormAgreesWithDouble) {
  const DeviceStream stream;
  for (const index_t dim : kDims) {
    const std::vector<float> x = random_bf16(kRows * dim, 1, 3);
    const std::vector<float> y = random_bf16(kRows * dim, 2);
    const std::vector<float> gate = random_bf16(dim, 3);
    const std::vector<float> scale = random_bf16(dim, 4);
    const std::vector<float> shift = random_bf16(dim, 5);
    const DeviceBuffer device_x = floats_on(stream, x);
    const DeviceBuffer device_y = bf16_on(stream, y);
    const DeviceBuffer device_gate = floats_on(stream, gate);
    const DeviceBuffer device_scale = floats_on(stream, scale);
    const DeviceBuffer device_shift = floats_on(stream, shift);
    const DeviceBuffer out(at(kRows * dim) * sizeof(float));
    add_norm({.rows = kRows,
              .dim = dim,
              .eps = kEps,
              .x = device_x.as<float>(),
              .y = device_y.as<std::uint16_t>(),
              .gate = device_gate.as<float>(),
              .scale = device_scale.as<float>(),
              .shift = device_shift.as<float>(),
              .out = out.as<void>(),
              .out_dtype = DType::kF32},
             stream.handle());
    const std::vector<float> residual = floats_from(stream, device_x);
    const std::vector<float> given = floats_from(stream, out);
    for (index_t row = 0; row < kRows; ++row) {
      std::vector<double> sum;
      for (index_t i = 0; i < dim; ++i) {
        const std::size_t index = at(row * dim + i);
        sum.push_back(static_cast<double>(x[index]) +
                      static_cast<double>(gate[at(i)]) * static_cast<double>(y[index]));
        expect_near(residual[index], sum.back(), 0, i);
      }
      const std::vector<double> expected = layer_norm_of(sum, scale, shift);
      for (index_t i = 0; i < dim; ++i) {
        expect_near(given[at(row * dim + i)], expected[at(i)], 0, i);
      }
    }
  }
}

TEST_F(RowKernels, AddNormDoesWhatItsPointersAskFor) {
  const DeviceStream stream;
  constexpr index_t kDim = 264;
  const std::vector<float> x = random_bf16(kRows * kDim, 1);
  const std::vector<float> y = random_bf16(kRows * kDim, 2);
  const DeviceBuffer device_x = floats_on(stream, x);
  const DeviceBuffer device_y = bf16_on(stream, y);
  const DeviceBuffer out(at(kRows * kDim) * sizeof(std::uint16_t));
  AddNorm call{.rows = kRows, .dim = kDim, .x = device_x.as<float>(), .out = out.as<void>()};
  add_norm(call, stream.handle());  // neither: a conversion
  EXPECT_EQ(bf16_from(stream, out), x);
  EXPECT_EQ(floats_from(stream, device_x), x);
  call.y = device_y.as<std::uint16_t>();
  add_norm(call, stream.handle());  // without a gate: a sum
  const std::vector<float> sum = floats_from(stream, device_x);
  const std::vector<float> rounded = bf16_from(stream, out);
  for (std::size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(sum[i], x[i] + y[i]);
    EXPECT_EQ(rounded[i], float_from_bf16(bf16_from_float(sum[i])));
  }
}

TEST_F(RowKernels, NormRotateAgreesWithDouble) {
  const DeviceStream stream;
  constexpr index_t kHeads = 4;
  for (const index_t head_dim : {6, 16, 20, 24, 128, 256}) {
    const VideoGrid grid{2, 2, 3};
    const index_t rows = grid.tokens();
    const index_t dim = kHeads * head_dim;
    const index_t stride = 3 * dim;  // q, k, v
    const RotaryTable table(head_dim, grid);
    std::vector<float> cosine(at(table.pairs()));
    std::vector<float> sine(at(table.pairs()));
    std::vector<float> rotation;
    for (index_t row = 0; row < rows; ++row) {
      table.angles_of(row, cosine.data(), sine.data());
      for (std::size_t i = 0; i < cosine.size(); ++i) {
        rotation.insert(rotation.end(), {cosine[i], sine[i]});
      }
    }
    const std::vector<float> x = random_bf16(rows * stride, 1, 0.5F);
    const std::vector<float> weight = random_bf16(2 * dim, 2);
    const DeviceBuffer device_x = bf16_on(stream, x);
    const DeviceBuffer device_weight = floats_on(stream, weight);
    const DeviceBuffer device_rotation = floats_on(stream, rotation);
    norm_rotate({.rows = rows,
                 .parts = 2,
                 .dim = dim,
                 .row_stride = stride,
                 .eps = kEps,
                 .x = device_x.as<std::uint16_t>(),
                 .weight = device_weight.as<float>(),
                 .rotation = device_rotation.as<float>(),
                 .head_dim = head_dim},
                stream.handle());
    const std::vector<float> given = bf16_from(stream, device_x);
    for (index_t row = 0; row < rows; ++row) {
      for (index_t part = 0; part < 2; ++part) {
        const float* const from = x.data() + row * stride + part * dim;
        double squares = 0;
        for (index_t i = 0; i < dim; ++i) squares += std::pow(static_cast<double>(from[i]), 2);
        const double factor =
            1 / std::sqrt(squares / static_cast<double>(dim) + static_cast<double>(kEps));
        const auto normed = [&](index_t i) {
          return static_cast<double>(from[i]) * factor *
                 static_cast<double>(weight[at(part * dim + i)]);
        };
        for (index_t i = 0; i < dim; i += 2) {
          const index_t angle = row * head_dim + i % head_dim;
          const auto c = static_cast<double>(rotation[at(angle)]);
          const auto s = static_cast<double>(rotation[at(angle + 1)]);
          const index_t to = row * stride + part * dim + i;
          expect_near(given[at(to)], normed(i) * c - normed(i + 1) * s, kRounding, i);
          expect_near(given[at(to + 1)], normed(i) * s + normed(i + 1) * c, kRounding, i + 1);
        }
      }
      for (index_t i = 2 * dim; i < stride; ++i) {
        EXPECT_EQ(given[at(row * stride + i)], x[at(row * stride + i)]) << "v was touched";
      }
    }
  }
}

TEST_F(RowKernels, NormWithoutRotation) {
  const DeviceStream stream;
  for (const index_t dim : kDims) {
    const std::vector<float> x = random_bf16(kRows * dim, 1);
    const std::vector<float> weight = random_bf16(dim, 2);
    const DeviceBuffer device_x = bf16_on(stream, x);
    const DeviceBuffer device_weight = floats_on(stream, weight);
    norm_rotate({.rows = kRows,
                 .dim = dim,
                 .row_stride = dim,
                 .eps = kEps,
                 .x = device_x.as<std::uint16_t>(),
                 .weight = device_weight.as<float>()},
                stream.handle());
    const std::vector<float> given = bf16_from(stream, device_x);
    for (index_t row = 0; row < kRows; ++row) {
      double squares = 0;
      for (index_t i = 0; i < dim; ++i) {
        squares += std::pow(static_cast<double>(x[at(row * dim + i)]), 2);
      }
      const double root = std::sqrt(squares / static_cast<double>(dim) + static_cast<double>(kEps));
      for (index_t i = 0; i < dim; ++i) {
        const auto value = static_cast<double>(x[at(row * dim + i)]);
        expect_near(given[at(row * dim + i)], value / root * static_cast<double>(weight[at(i)]),
                    kRounding, i);
      }
    }
  }
}

TEST_F(RowKernels, ModulationAddsTheConditionAndOneToScales) {
  const DeviceStream stream;
  constexpr index_t kDim = 33;
  constexpr index_t kTableRows = 12;
  constexpr index_t kConditionRows = 6;
  const std::vector<float> table = random_bf16(kTableRows * kDim, 1);
  const std::vector<float> condition = random_bf16(kConditionRows * kDim, 2);
  const DeviceBuffer device_table = floats_on(stream, table);
  const DeviceBuffer device_condition = floats_on(stream, condition);
  const DeviceBuffer out(table.size() * sizeof(float));
  modulate({.rows = kTableRows,
            .dim = kDim,
            .table = device_table.as<float>(),
            .condition = device_condition.as<float>(),
            .condition_rows = kConditionRows,
            .out = out.as<float>()},
           stream.handle());
  const std::vector<float> given = floats_from(stream, out);
  for (index_t i = 0; i < kTableRows * kDim; ++i) {
    const index_t row = i / kDim;
    const float one = row % 3 == 1 ? 1.0F : 0.0F;
    EXPECT_EQ(given[at(i)], table[at(i)] + condition[at(i % (kConditionRows * kDim))] + one);
  }
}

TEST_F(RowKernels, SiluAndRoundingOfOddLengths) {
  const DeviceStream stream;
  for (const index_t count : {1, 7, 255, 257, 1000}) {
    std::vector<float> x = random_bf16(count, 1);
    for (float& value : x) value *= 1.001F;  // no bf16 numbers
    const DeviceBuffer device_x = floats_on(stream, x);
    const DeviceBuffer rounded(at(count) * sizeof(std::uint16_t));
    to_bf16(device_x.as<float>(), count, rounded.as<std::uint16_t>(), stream.handle());
    silu(device_x.as<float>(), count, device_x.as<float>(), stream.handle());
    const std::vector<float> bf16 = bf16_from(stream, rounded);
    const std::vector<float> activated = floats_from(stream, device_x);
    for (index_t i = 0; i < count; ++i) {
      const auto value = static_cast<double>(x[at(i)]);
      EXPECT_EQ(bf16[at(i)], float_from_bf16(bf16_from_float(x[at(i)])));
      expect_near(activated[at(i)], value / (1 + std::exp(-value)), 0, i);
    }
  }
}

TEST_F(RowKernels, PatchesAreThoseOfTheCpu) {
  const DeviceStream stream;
  for (const PatchLayout& layout :
       {PatchLayout{{3, 4, 5}, {1, 2, 2}}, PatchLayout{{2, 3, 2}, {2, 1, 3}}}) {
    constexpr index_t kChannels = 3;
    const index_t values = kChannels * layout.patch_volume();
    const std::vector<float> latent = random_bf16(layout.grid.tokens() * values, 1);
    std::vector<float> patches(latent.size());
    std::vector<float> scattered(latent.size());
    for (index_t token = 0; token < layout.grid.tokens(); ++token) {
      gather_patch(layout, kChannels, latent.data(), token, patches.data() + token * values);
      scatter_patch(layout, kChannels, latent.data() + token * values, token, scattered.data());
    }
    const DeviceBuffer from = floats_on(stream, latent);
    const DeviceBuffer to(latent.size() * sizeof(float));
    gather_patches(layout, kChannels, from.as<float>(), to.as<float>(), stream.handle());
    EXPECT_EQ(floats_from(stream, to), patches);
    scatter_patches(layout, kChannels, from.as<float>(), to.as<float>(), stream.handle());
    EXPECT_EQ(floats_from(stream, to), scattered);
  }
}

TEST_F(RowKernels, RowsThatTheyCannotHoldAreRefused) {
  const DeviceStream stream;
  for (const index_t dim : {index_t{12}, kMaxRowDim + 8}) {
    const auto call = [&] { add_norm({.rows = 1, .dim = dim}, stream.handle()); };
    EXPECT_THAT(error_text(Status::kUnsupported, call),
                ::testing::HasSubstr("multiples of 8 up to 8192"));
  }
}

}  // namespace
}  // namespace psa::engine
