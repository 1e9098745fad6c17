// SPDX-License-Identifier: Apache-2.0
#include "cuda/importance/launch.cuh"

namespace psa::cuda::estimation {

void estimate_f16(Shape shape, const DeviceLimits& limits, const Params& params, unsigned int ctas,
                  cudaStream_t stream) {
  launch_estimate<__half>(shape, limits, params, ctas, stream);
}

}  // namespace psa::cuda::estimation
