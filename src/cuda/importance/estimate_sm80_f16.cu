// SPDX-License-Identifier: Apache-2.0
#include "cuda/importance/launch.cuh"
#include "cuda/importance/multiply_sm80.cuh"

namespace psa::cuda::estimation {

void estimate_sm80_f16(Shape shape, const DeviceLimits& limits, const Params& params,
                       unsigned int groups, cudaStream_t stream) {
  launch_estimate<__half, MultiplierSm80>(shape, limits, params, groups, stream);
}

}  // namespace psa::cuda::estimation
