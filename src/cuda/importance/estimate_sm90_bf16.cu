// SPDX-License-Identifier: Apache-2.0
#include "cuda/importance/launch.cuh"
#include "cuda/importance/multiply_sm90.cuh"

namespace psa::cuda::estimation {

void estimate_sm90_bf16(Shape shape, const DeviceLimits& limits, const Params& params,
                        unsigned int groups, cudaStream_t stream) {
  launch_estimate<__nv_bfloat16, MultiplierSm90>(shape, limits, params, groups, stream);
}

}  // namespace psa::cuda::estimation
