// SPDX-License-Identifier: Apache-2.0
#pragma once

// Launch of the estimate's kernel: the variant, and what of shared memory it gets.

#include <algorithm>

#include "cuda/importance/estimate.cuh"
#include "cuda/importance/kernel.cuh"
#include "cuda/importance/stream_sm90.cuh"
#include "cuda/launch.cuh"
#include "psa/error.hpp"

namespace psa::cuda::estimation {

inline constexpr int kMostAhead = 3;  ///< wait_chunk()
static_assert(kMostAhead + 2 <= kMostStages);

/// Stages of the ring: as many as leave room for all CTAs of an SM, or for one if that is too few.
template <typename V>
[[nodiscard]] int stages_for(const DeviceLimits& limits, int chunks) {
  constexpr int kHeld = V::Products::kHeldChunks;
  for (int ctas = V::kCtasPerSm; ctas >= 1; --ctas) {
    const int share = limits.shared_bytes_per_sm / ctas - limits.reserved_bytes_per_cta;
    const int room = std::min(share, limits.shared_bytes_per_cta);
    const int stages = (room - SharedLayout<V>::bytes(chunks, 0)) / SharedLayout<V>::kStageBytes;
    if (stages > kHeld) return std::min(stages, kHeld + kMostAhead);
  }
  throw Error(Status::kInternal, "the importance kernel does not fit in shared memory");
}

/// `groups` have a slab.
template <typename V>
void launch_variant(const DeviceLimits& limits, Params params, unsigned int groups,
                    cudaStream_t stream) {
  params.stages = stages_for<V>(limits, params.chunks);
  const auto bytes = static_cast<std::size_t>(SharedLayout<V>::bytes(params.chunks, params.stages));
  if constexpr (V::Products::kTakesBoxes && !V::kStays) {
    if (params.boxes.in_use) {
      allow_shared_memory(stream_kernel<V>, bytes);
      launch_clusters(stream_kernel<V>, V::kGroupCtas, groups, V::kThreads + kProducerThreads,
                      bytes, stream, params);
      return;
    }
  }
  allow_shared_memory(estimate_kernel<V>, bytes);
  if constexpr (V::kGroupCtas == 1) {
    estimate_kernel<V><<<groups, V::kThreads, bytes, stream>>>(params);
    check_launch("estimate_kernel");
  } else {
    launch_clusters(estimate_kernel<V>, V::kGroupCtas, groups, V::kThreads, bytes, stream, params);
  }
}

template <typename Element, typename Multiplier>
void launch_estimate(Shape shape, const DeviceLimits& limits, const Params& params,
                     unsigned int groups, cudaStream_t stream) {
  using enum Shape;
  using enum Reduction;
  const bool takes_max = params.estimator == Importance::kSampledMax;
  const auto launch = [&]<Shape kShape, Reduction kReduction>() {
    if constexpr (Multiplier::serves(kShape, kReduction)) {
      using Chosen = Variant<Element, kShape, kReduction, Multiplier>;
      launch_variant<Chosen>(limits, params, groups, stream);
    } else {
      throw Error(Status::kInternal, "the importance kernel does not exist in this shape");
    }
  };
  switch (shape) {
    case kTokens:
      return takes_max ? launch.template operator()<kTokens, kMax>()
                       : launch.template operator()<kTokens, kLogSum>();
    case kMeans:
      return launch.template operator()<kMeans, kLogSum>();
    case kWideMeans:
      return launch.template operator()<kWideMeans, kLogSum>();
    case kStreamed:
      return takes_max ? launch.template operator()<kStreamed, kMax>()
                       : launch.template operator()<kStreamed, kLogSum>();
    case kStreamedSmall:
      return takes_max ? launch.template operator()<kStreamedSmall, kMax>()
                       : launch.template operator()<kStreamedSmall, kLogSum>();
  }
}

}  // namespace psa::cuda::estimation
