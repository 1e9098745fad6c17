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

}  // namespace psa::cuda
