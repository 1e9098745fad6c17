// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "engine/blocks/tensor_source.hpp"
#include "engine/blocks/wan_transformer.hpp"

namespace psa::engine {

/// The Wan transformer on CUDA device 0, in bf16. Reads all weights; `source` is not needed
/// afterwards. Throws as WanTransformer::load(): kUnsupported for another compute type, in a build
/// without CUDA, without a device or cuBLASLt, and for layers whose rows are no multiple of 16
/// bytes.
[[nodiscard]] std::unique_ptr<WanTransformer> make_wan_cuda(const WanConfig& config,
                                                            const TensorSource& source,
                                                            const EngineOptions& options);

}  // namespace psa::engine
