// SPDX-License-Identifier: Apache-2.0
#pragma once

// What every launcher needs: streams, checks of CUDA calls, and the launch itself.

#include <cuda_runtime.h>

#include <cstddef>
#include <string>

#include "psa/error.hpp"
#include "psa/types.hpp"

namespace psa::cuda {

inline cudaStream_t stream_of(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

/// Throws for a failed CUDA call; `what` says what was tried.
inline void check_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // a launch error that is not sticky must not reach the caller's calls
  throw Error(error == cudaErrorMemoryAllocation ? Status::kOutOfMemory : Status::kInternal,
              std::string(what) + ": CUDA says " + cudaGetErrorName(error) + " (" +
                  cudaGetErrorString(error) + ")");
}

/// Call right after `kernel<<<...>>>(...)`.
inline void check_launch(const char* kernel) { check_cuda(cudaGetLastError(), kernel); }

/// Lets `kernel` use more than 48 KB of dynamic shared memory.
template <typename Kernel>
void allow_shared_memory(Kernel* kernel, std::size_t bytes) {
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(bytes)),
             "cudaFuncSetAttribute");
}

/// Of the current device.
inline int multiprocessors() {
  int device = 0;
  int count = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
             "cudaDeviceGetAttribute");
  return count;
}

/// Launches clusters of `cluster_ctas` CTAs, at most as many as the device runs at the same time.
template <typename Kernel, typename Params>
void launch_clusters(Kernel* kernel, unsigned int cluster_ctas, unsigned int clusters,
                     unsigned int threads, std::size_t shared_bytes, cudaStream_t stream,
                     const Params& params) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = cluster_ctas;
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(clusters * cluster_ctas);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int running = 0;
  check_cuda(cudaOccupancyMaxActiveClusters(&running, kernel, &config),
             "cudaOccupancyMaxActiveClusters");
  const auto most = static_cast<unsigned int>(running > 1 ? running : 1);
  config.gridDim = dim3((clusters < most ? clusters : most) * cluster_ctas);
  check_cuda(cudaLaunchKernelEx(&config, kernel, params), "cudaLaunchKernelEx");
}

}  // namespace psa::cuda
