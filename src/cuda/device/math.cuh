// SPDX-License-Identifier: Apache-2.0
#pragma once

// Small arithmetic that kernels share.

namespace psa::cuda {

__device__ inline float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Over the lanes of a warp, in all of them.
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(0xFFFFFFFFU, x, lanes);
  return x;
}

}  // namespace psa::cuda
