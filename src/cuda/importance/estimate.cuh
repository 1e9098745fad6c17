// SPDX-License-Identifier: Apache-2.0
#pragma once

// Launches of the importance stage (importance.cu), each in a file of its own.

#include <cuda_runtime.h>

#include "core/backend.hpp"
#include "cuda/importance/params.cuh"

namespace psa::cuda::estimation {

/// What decides how many CTAs run at the same time.
struct DeviceLimits {
  int sms;
  int shared_bytes_per_cta;
  int shared_bytes_per_sm;
  int reserved_bytes_per_cta;  ///< of shared memory, beside what a kernel asks for
};

/// S-9. Offsets of the samples in every block, by query head (q_offsets) and KV head (kv_offsets)
/// of the chunk's batch elements, in rising order.
void draw_samples(const core::Geometry& geometry, const core::RowChunk& chunk,
                  std::uint8_t* q_offsets, std::uint8_t* kv_offsets, cudaStream_t stream);

/// Copies the sampled keys of the launch's heads to params.sampled_keys, zeros where there is none.
void copy_sampled_keys(const Params& params, cudaStream_t stream);

/// S-9 to S-12 with `groups` groups of CTAs (kernel.cuh). Elements are those of q and k, f16 or
/// bf16. Products by mma.sync.
void estimate_sm80_f16(Shape shape, const DeviceLimits& limits, const Params& params,
                       unsigned int groups, cudaStream_t stream);
void estimate_sm80_bf16(Shape shape, const DeviceLimits& limits, const Params& params,
                        unsigned int groups, cudaStream_t stream);

/// The same by wgmma, for compute capability 9.0 and head_dim <= 128.
void estimate_sm90_f16(Shape shape, const DeviceLimits& limits, const Params& params,
                       unsigned int groups, cudaStream_t stream);
void estimate_sm90_bf16(Shape shape, const DeviceLimits& limits, const Params& params,
                        unsigned int groups, cudaStream_t stream);

/// S-8. The caller's scores of hidden blocks become 0.
void hide_scores(const core::Geometry& geometry, const core::ImportanceParams& params,
                 cudaStream_t stream);

/// S-13. The heads of a KV group get the mean of their normalised rows.
void share_scores(const core::Geometry& geometry, const core::RowChunk& chunk, float* importance,
                  cudaStream_t stream);

}  // namespace psa::cuda::estimation
