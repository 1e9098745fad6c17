// SPDX-License-Identifier: Apache-2.0

// What a build without CUDA (PSA_CUDA) has in place of wan_cuda.cpp.

#include "engine/blocks/wan_cuda.hpp"
#include "psa/error.hpp"

namespace psa::engine {

std::unique_ptr<WanTransformer> make_wan_cuda(const WanConfig& /*config*/,
                                              const TensorSource& /*source*/,
                                              const EngineOptions& /*options*/) {
  throw Error(Status::kUnsupported, "this build has no CUDA backend; configure with -DPSA_CUDA=ON");
}

}  // namespace psa::engine
