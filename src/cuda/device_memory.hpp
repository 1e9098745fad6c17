// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/device_memory.hpp"

namespace psa::cuda {

/// Memory of the current CUDA device; streams are cudaStream_t.
extern const core::DeviceMemory kDeviceMemory;

}  // namespace psa::cuda
