// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "psa/types.hpp"

namespace psa::engine {

/// What follows the bias in a Linear.
enum class Activation : std::uint8_t {
  kNone,
  kGeluTanh,  ///< x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
};

struct LinearShape {
  index_t in = 0;   ///< channels of an input row; >= 1
  index_t out = 0;  ///< channels of an output row; >= 1
};

struct LinearOptions {
  DType compute = DType::kF32;  ///< of input and weight, kF32 or kBF16; sums are float either way
  DType out = DType::kF32;      ///< of the result: kF32, or `compute`
  Activation activation = Activation::kNone;
};

/// Whether this processor multiplies bf16 matrices faster than float ones (AVX512_BF16 or AMX).
[[nodiscard]] bool has_bf16_products();

/// A fully connected layer, y = activation(x W^T + b), as one oneDNN primitive per row count. The
/// weight is converted and brought into oneDNN's own order once, here.
class Linear {
 public:
  Linear();  ///< of no use but to be assigned to
  /// `weight` [out, in] row-major and `bias` [out] are copied. Throws Error: kInvalidArgument when
  /// their sizes do not fit `shape` or a type is not allowed, kUnsupported when oneDNN has no such
  /// product for this processor.
  Linear(const LinearShape& shape, std::span<const float> weight, std::span<const float> bias,
         const LinearOptions& options);
  Linear(Linear&&) noexcept;
  Linear& operator=(Linear&&) noexcept;
  ~Linear();

  [[nodiscard]] const LinearShape& shape() const;
  [[nodiscard]] const LinearOptions& options() const;

  /// x [rows, in] of options().compute -> y [rows, out] of options().out, both contiguous. Runs on
  /// the calling thread alone; any number of threads may call at once. The first call for a row
  /// count makes its primitive (about 0.1 ms), which is kept. `rows` 0 does nothing.
  void run(const void* x, index_t rows, void* y) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace psa::engine
