// SPDX-License-Identifier: Apache-2.0
#pragma once

// Access to the elements of a TensorView on the host, and small index arithmetic.

#include <cstddef>
#include <cstdint>

#include "psa/half.hpp"
#include "psa/types.hpp"

namespace psa::core {

/// Address of the first channel of token `token`.
[[nodiscard]] inline std::byte* row_address(const TensorView& t, index_t b, index_t h,
                                            index_t token) {
  const index_t element = b * t.stride[0] + h * t.stride[1] + token * t.stride[2];
  return static_cast<std::byte*>(t.data) + element * static_cast<index_t>(size_of(t.dtype));
}

[[nodiscard]] inline float load_element(const void* row, DType dtype, index_t channel) {
  switch (dtype) {
    case DType::kF32:
      return static_cast<const float*>(row)[channel];
    case DType::kF16:
      return float_from_f16(static_cast<const std::uint16_t*>(row)[channel]);
    case DType::kBF16:
      return float_from_bf16(static_cast<const std::uint16_t*>(row)[channel]);
  }
  return 0.0F;
}

inline void store_element(void* row, DType dtype, index_t channel, float value) {
  switch (dtype) {
    case DType::kF32:
      static_cast<float*>(row)[channel] = value;
      break;
    case DType::kF16:
      static_cast<std::uint16_t*>(row)[channel] = f16_from_float(value);
      break;
    case DType::kBF16:
      static_cast<std::uint16_t*>(row)[channel] = bf16_from_float(value);
      break;
  }
}

}  // namespace psa::core
