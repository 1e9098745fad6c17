// SPDX-License-Identifier: Apache-2.0
#pragma once

// Tensor maps: how the copy engine (TMA, sm_90) sees a tensor. Made on the host, passed by value to
// kernels, used by device/tensor_map.cuh.

#include <cuda.h>

#include <array>
#include <cstdint>

#include "psa/types.hpp"

namespace psa::cuda {

/// Five dimensions of 16-bit elements, the first contiguous.
struct TensorMapView {
  const void* data;
  std::array<cuuint64_t, 5> sizes;
  std::array<cuuint64_t, 4> stride_bytes;  ///< of all dimensions but the first; multiples of 16
  std::array<cuuint32_t, 5> box;           ///< 64 elements in the first dimension
};

/// Boxes land as lines of 128 bytes in the 128-byte swizzle; what lies outside the sizes reads as
/// 0. False, and no map, where the hardware's rules on addresses, strides and sizes do not allow
/// the view.
[[nodiscard]] bool encode_tensor_map(const TensorMapView& view, DType dtype, CUtensorMap& map);

}  // namespace psa::cuda
