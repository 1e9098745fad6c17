// SPDX-License-Identifier: Apache-2.0
#include "engine/gemm/linear.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/goldens.hpp"
#include "psa/error.hpp"
#include "psa/half.hpp"

namespace psa::engine {
namespace {

using testing::HasSubstr;

std::vector<float> random_values(index_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  // bf16 numbers, so that both compute types see the same operands.
  for (float& value : values) value = float_from_bf16(bf16_from_float(normal(generator)));
  return values;
}

double gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

/// What a layer should give, and the largest error that float sums may make (docs/numerics.md).
struct Expected {
  double value = 0;
  double budget = 0;
};

struct Layer {
  LinearShape shape;
  std::vector<float> weight;
  std::vector<float> bias;

  explicit Layer(const LinearShape& wanted)
      : shape(wanted),
        weight(random_values(wanted.in * wanted.out, 1)),
        bias(random_values(wanted.out, 2)) {}

  [[nodiscard]] Linear make(const LinearOptions& options) const {
    return {shape, weight, bias, options};
  }

  [[nodiscard]] Expected at(const float* x, index_t channel, const LinearOptions& options) const {
    double sum = static_cast<double>(bias[static_cast<std::size_t>(channel)]);
    double size = std::abs(sum);
    for (index_t i = 0; i < shape.in; ++i) {
      const double product =
          static_cast<double>(x[i]) *
          static_cast<double>(weight[static_cast<std::size_t>(channel * shape.in + i)]);
      sum += product;
      size += std::abs(product);
    }
    if (options.activation == Activation::kGeluTanh) sum = gelu_tanh(sum);
    const double rounding = options.out == DType::kBF16 ? 0x1p-8 : 0;
    return {sum, 1e-6 * size + rounding * std::abs(sum) + 1e-6};
  }
};

std::vector<float> run(const Linear& linear, const std::vector<float>& x, index_t rows) {
  const LinearOptions& options = linear.options();
  std::vector<std::uint16_t> half_x(x.size());
  std::transform(x.begin(), x.end(), half_x.begin(), bf16_from_float);
  const bool is_bf16 = options.compute == DType::kBF16;
  const void* const input = is_bf16 ? static_cast<const void*>(half_x.data()) : x.data();
  std::vector<float> y(static_cast<std::size_t>(rows * linear.shape().out));
  if (options.out == DType::kF32) {
    linear.run(input, rows, y.data());
    return y;
  }
  std::vector<std::uint16_t> half_y(y.size());
  linear.run(input, rows, half_y.data());
  std::transform(half_y.begin(), half_y.end(), y.begin(), float_from_bf16);
  return y;
}

void expect_product(const LinearShape& shape, const LinearOptions& options, index_t rows) {
  const Layer layer(shape);
  const std::vector<float> x = random_values(rows * shape.in, 3);
  const std::vector<float> y = run(layer.make(options), x, rows);
  for (index_t row = 0; row < rows; ++row) {
    for (index_t channel = 0; channel < shape.out; ++channel) {
      const Expected expected = layer.at(x.data() + row * shape.in, channel, options);
      const float given = y[static_cast<std::size_t>(row * shape.out + channel)];
      ASSERT_NEAR(static_cast<double>(given), expected.value, expected.budget)
          << shape.in << " -> " << shape.out << ", row " << row << " of " << rows << ", channel "
          << channel;
    }
  }
}

TEST(Linear, ProductsAgreeWithDoubleForEveryTypeAndSize) {
  const std::vector<LinearOptions> kinds{
      {DType::kF32, DType::kF32, Activation::kNone},
      {DType::kF32, DType::kF32, Activation::kGeluTanh},
      {DType::kBF16, DType::kF32, Activation::kNone},
      {DType::kBF16, DType::kBF16, Activation::kNone},
      {DType::kBF16, DType::kBF16, Activation::kGeluTanh},
  };
  const std::vector<DType> types = compute_types();
  for (const LinearOptions& options : kinds) {
    if (std::find(types.begin(), types.end(), options.compute) == types.end()) continue;
    for (const index_t rows : {index_t{1}, index_t{7}, index_t{128}}) {
      expect_product({48, 32}, options, rows);
      expect_product({13, 5}, options, rows);
      expect_product({1, 1}, options, rows);
      expect_product({200, 130}, options, rows);
    }
  }
}

TEST(Linear, ThreadsShareALayer) {
  constexpr index_t kMaxRows = 16;
  const Layer layer({32, 24});
  const std::vector<float> x = random_values(kMaxRows * 32, 3);
  const Linear alone = layer.make({});
  const Linear shared = layer.make({});  // makes the products of all row counts while it is shared
  std::vector<std::thread> threads;
  std::vector<int> different(4);
  for (int& count : different) {
    threads.emplace_back([&] {
      for (index_t rows = 1; rows <= kMaxRows; ++rows) {
        count += static_cast<int>(run(shared, x, rows) != run(alone, x, rows));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(different, testing::Each(0));
}

TEST(Linear, MovedLayerStillComputes) {
  const Layer layer({8, 8});
  Linear first = layer.make({});
  const std::vector<float> x = random_values(8, 3);
  const std::vector<float> expected = run(first, x, 1);
  const Linear second = std::move(first);
  EXPECT_EQ(run(second, x, 1), expected);
}

TEST(Linear, NoRowsTouchNothing) {
  const Linear linear = Layer({4, 4}).make({});
  EXPECT_NO_THROW(linear.run(nullptr, 0, nullptr));
}

std::string refusal(const LinearShape& shape, index_t weights, index_t biases,
                    const LinearOptions& options = {}) {
  try {
    const Linear linear(shape, random_values(weights, 1), random_values(biases, 2), options);
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kInvalidArgument);
    return error.what();
  }
  return "(made)";
}

TEST(Linear, SizesThatDoNotFitAreNamed) {
  EXPECT_THAT(refusal({4, 3}, 11, 3), HasSubstr("4 to 3 channels needs 12 weights; given are 11"));
  EXPECT_THAT(refusal({4, 3}, 12, 4), HasSubstr("needs 3 bias values; given are 4"));
  EXPECT_THAT(refusal({0, 3}, 0, 3), HasSubstr("0 to 3 channels"));
  EXPECT_THAT(refusal({4, 3}, 12, 3, {.compute = DType::kF16}), HasSubstr("f32 and bf16"));
  EXPECT_THAT(refusal({4, 3}, 12, 3, {.out = DType::kBF16}), HasSubstr("f32 and bf16"));
}

}  // namespace
}  // namespace psa::engine
