// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "psa/error.hpp"

namespace psa::engine {

/// Throws for a failed CUDA call; `what` says what was tried.
inline void check_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // a launch error must not reach later calls
  throw Error(error == cudaErrorMemoryAllocation ? Status::kOutOfMemory : Status::kInternal,
              std::string(what) + ": CUDA says " + cudaGetErrorName(error) + " (" +
                  cudaGetErrorString(error) + ")");
}

}  // namespace psa::engine
