// SPDX-License-Identifier: Apache-2.0
#include "engine/gemm/linear_cuda.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <vector>

#include "cuda/cuda_test.hpp"
#include "engine/device_values.hpp"
#include "engine/error_text.hpp"

namespace psa::engine {
namespace {

class CudaLinear : public psa::testing::CudaTest {};

double gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

void expect_product(CublasLt& library, const DeviceStream& stream, const LinearShape& shape,
                    const LinearOptions& options, index_t rows) {
  const std::vector<float> weight = random_bf16(shape.in * shape.out, 1);
  const std::vector<float> bias = random_bf16(shape.out, 2);
  const std::vector<float> x = random_bf16(rows * shape.in, 3);
  const LinearCuda linear(library, shape, weight, bias, options);
  const bool takes_bf16 = options.compute == DType::kBF16;
  const bool gives_bf16 = options.out == DType::kBF16;
  const DeviceBuffer device_x = takes_bf16 ? bf16_on(stream, x) : floats_on(stream, x);
  const DeviceBuffer device_y(static_cast<std::size_t>(rows * shape.out) * size_of(options.out));
  linear.run(device_x.as<void>(), rows, device_y.as<void>());
  const std::vector<float> y =
      gives_bf16 ? bf16_from(stream, device_y) : floats_from(stream, device_y);
  for (index_t row = 0; row < rows; ++row) {
    for (index_t channel = 0; channel < shape.out; ++channel) {
      auto sum = static_cast<double>(bias[static_cast<std::size_t>(channel)]);
      double size = std::abs(sum);
      for (index_t i = 0; i < shape.in; ++i) {
        const double product =
            static_cast<double>(x[static_cast<std::size_t>(row * shape.in + i)]) *
            static_cast<double>(weight[static_cast<std::size_t>(channel * shape.in + i)]);
        sum += product;
        size += std::abs(product);
      }
      double budget = 1e-6 * size + 1e-6;
      if (options.activation == Activation::kGeluTanh) {
        sum = gelu_tanh(sum);
        budget += 1e-3;  // cuBLASLt's tanh is the hardware's
      }
      if (gives_bf16) budget += 0x1p-8 * std::abs(sum);
      ASSERT_NEAR(static_cast<double>(y[static_cast<std::size_t>(row * shape.out + channel)]), sum,
                  budget)
          << shape.in << " -> " << shape.out << ", row " << row << " of " << rows << ", channel "
          << channel;
    }
  }
}

TEST_F(CudaLinear, ProductsAgreeWithDoubleForEveryTypeAndSize) {
  const DeviceStream stream;
  CublasLt library(stream);
  const std::vector<LinearOptions> kinds{
      {DType::kF32, DType::kF32, Activation::kNone},
      {DType::kF32, DType::kF32, Activation::kGeluTanh},
      {DType::kBF16, DType::kBF16, Activation::kNone},
      {DType::kBF16, DType::kBF16, Activation::kGeluTanh},
  };
  for (const LinearOptions& options : kinds) {
    for (const index_t rows : {1, 5, 60, 128}) {
      expect_product(library, stream, {48, 144}, options, rows);
      expect_product(library, stream, {200, 136}, options, rows);
      if (options.compute == DType::kF32) expect_product(library, stream, {18, 30}, options, rows);
    }
  }
}

TEST_F(CudaLinear, SizesThatDoNotFitAreNamed) {
  const DeviceStream stream;
  CublasLt library(stream);
  const std::vector<float> four(4);
  EXPECT_THAT(error_text(Status::kInvalidArgument,
                         [&] {
                           LinearCuda(library, {8, 4}, four, four, {});
                         }),
              ::testing::HasSubstr("weight has 4 values, bias 4; the layer has 8 inputs"));
}

}  // namespace
}  // namespace psa::engine
