// SPDX-License-Identifier: Apache-2.0
#pragma once

// The stages of the CUDA backend: host functions that launch kernels on context.stream. Every
// pointer of their parameters is a device pointer. They allocate nothing, wait for nothing and read
// nothing back, so that a call can be captured in a CUDA graph; a failed launch throws Error.
// context.scratch is one piece of device memory (context.executor is not used).

#include <cstddef>

#include "core/backend.hpp"

namespace psa::cuda {

using core::StageContext;

void pyramid(const StageContext& context, const core::PyramidParams& params);
void similarity(const StageContext& context, const core::SimilarityParams& params);
/// Products by wgmma, for sm_90a; head_dim <= 128.
void value_weights(const StageContext& context, const core::ValueWeightsParams& params);
void importance_sm90(const StageContext& context, const core::ImportanceParams& params);
/// Products by mma.sync, for every device from sm_80 on and every head_dim.
void importance_sm80(const StageContext& context, const core::ImportanceParams& params);
void levels(const StageContext& context, const core::LevelsParams& params);
/// What `levels` does where the query blocks of a head share its budget.
void head_levels(const StageContext& context, const core::LevelsParams& params);
/// wgmma kernel for sm_90a; head_dim <= 128 and a multiple of 8, rows aligned to 16 bytes.
void attention_sm90(const StageContext& context, const core::AttentionParams& params);
/// mma.sync kernel, for every device from sm_80 on and every head_dim.
void attention_sm80(const StageContext& context, const core::AttentionParams& params);

// Bytes of scratch that a stage needs; multiples of 64.
[[nodiscard]] std::size_t importance_scratch_sm90(const core::Geometry& geometry);
[[nodiscard]] std::size_t importance_scratch_sm80(const core::Geometry& geometry);
[[nodiscard]] std::size_t value_weights_scratch(const core::Geometry& geometry);
[[nodiscard]] std::size_t levels_scratch(const core::Geometry& geometry);
[[nodiscard]] std::size_t head_levels_scratch(const core::Geometry& geometry);
[[nodiscard]] std::size_t attention_scratch(const core::Geometry& geometry);

}  // namespace psa::cuda
