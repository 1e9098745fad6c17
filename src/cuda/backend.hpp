// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "core/backend.hpp"

namespace psa::cuda {

/// sm_90a and sm_80, in this order; without a backend where no device of this machine runs it, or
/// psa was built without CUDA (no_cuda.cpp). The first call asks the driver.
[[nodiscard]] const std::vector<core::BackendEntry>& entries();

/// The tables themselves, whether or not a device here runs them; not in builds without CUDA.
extern const core::Backend kSm90a;
extern const core::Backend kSm80;

}  // namespace psa::cuda
