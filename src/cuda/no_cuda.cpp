// SPDX-License-Identifier: Apache-2.0

// What a build without CUDA (PSA_CUDA) has in place of backend.cu.

#include "cuda/backend.hpp"

namespace psa::cuda {

const std::vector<core::BackendEntry>& entries() {
  static constexpr const char* kReason = "psa was built without CUDA (PSA_CUDA)";
  static const std::vector<core::BackendEntry> none{{nullptr, "cuda", "sm_90a", kReason},
                                                    {nullptr, "cuda", "sm_80", kReason}};
  return none;
}

}  // namespace psa::cuda
