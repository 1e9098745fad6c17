// SPDX-License-Identifier: Apache-2.0
#include <cudaTypedefs.h>

#include "cuda/launch.cuh"
#include "cuda/tensor_map.cuh"

namespace psa::cuda {
namespace {

/// The driver's function, found at run time so that nothing links libcuda.
PFN_cuTensorMapEncodeTiled_v12000 encode_function() {
  static const auto kFunction = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                cudaEnableDefault, &found),
               "cuTensorMapEncodeTiled");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return kFunction;
}

}  // namespace

bool encode_tensor_map(const TensorMapView& view, DType dtype, CUtensorMap& map) {
  constexpr cuuint32_t kSteps[] = {1, 1, 1, 1, 1};
  return encode_function()(
             &map,
             dtype == DType::kF16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                  : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
             5, const_cast<void*>(view.data), view.sizes.data(), view.stride_bytes.data(),
             view.box.data(), kSteps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace psa::cuda
