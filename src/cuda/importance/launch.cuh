// SPDX-License-Identifier: Apache-2.0
#pragma once

// Launch of the estimate's kernel: the variant, and what of shared memory it gets.

#include <algorithm>

#include "cuda/importance/estimate.cuh"
#include "cuda/importance/kernel.cuh"
#include "cuda/importance/means_sm90.cuh"
#include "cuda/importance/stream_sm90.cuh"
#include "cuda/launch.cuh"
#include "psa/error.hpp"

namespace psa::cuda::estimation {

inline constexpr int kMostAhead = 3;  ///< wait_chunk()
static_assert(kMostAhead + 2 <= kMostStages);

/// Stages of a ring that holds `held` chunks while one is multiplied: as many as leave room for
/// `most_ctas` on an SM, or for fewer if that is too few.
[[nodiscard]] inline int stages_for(const DeviceLimits& limits, int most_ctas, int held,
                                    int other_bytes, int stage_bytes) {
  for (int ctas = most_ctas; ctas >= 1; --ctas) {
    const int share = limits.shared_bytes_per_sm / ctas - limits.reserved_bytes_per_cta;
    const int room = std::min(share, limits.shared_bytes_per_cta);
    const int stages = (room - other_bytes) / stage_bytes;
    if (stages > held) return std::min(stages, held + kMostAhead);
  }
  throw Error(Status::kInternal, "the importance kernel does not fit in shared memory");
}

/// Rows and columns as boxes. `groups` have a slab.
template <typename Element>
void launch_stream(const DeviceLimits& limits, Params params, unsigned int groups,
                   cudaStream_t stream) {
  params.stages =
      stages_for(limits, 1, stream::kHeldChunks, stream::shared_bytes(0), stream::kSlotBytes);
  const auto bytes = static_cast<std::size_t>(stream::shared_bytes(params.stages));
  allow_shared_memory(stream::stream_kernel<Element>, bytes);
  launch_clusters(stream::stream_kernel<Element>, stream::kClusterCtas, groups, stream::kThreads,
                  bytes, stream, params);
}

/// Means of queries, and columns as boxes. `ctas` have kMeansSlabs slabs.
template <typename Element>
void launch_means(const DeviceLimits& limits, Params params, unsigned int ctas,
                  cudaStream_t stream) {
  const int chunks = params.chunks;
  const int room = limits.shared_bytes_per_cta - means::shared_bytes<Element>(chunks, 0);
  params.stages = std::min(room / (chunks * means::kBoxBytes), means::kMostSlots);
  const auto bytes = static_cast<std::size_t>(means::shared_bytes<Element>(chunks, params.stages));
  allow_shared_memory(means::means_kernel<Element>, bytes);
  means::means_kernel<Element><<<ctas, means::kThreads, bytes, stream>>>(params);
  check_launch("means_kernel");
}

/// `groups` have a slab.
template <typename V>
void launch_variant(const DeviceLimits& limits, Params params, unsigned int groups,
                    cudaStream_t stream) {
  if constexpr (V::Products::kBoxes == Boxes::kWhereInUse && !V::kStays) {
    if (params.boxes.in_use) {
      return launch_stream<typename V::Element>(limits, params, groups, stream);
    }
  }
  if constexpr (V::Products::kBoxes == Boxes::kWhereInUse && V::kTakesMeans) {
    if (params.boxes.in_use && params.has_aligned_rows) {
      return launch_means<typename V::Element>(limits, params, groups, stream);
    }
    groups *= kMeansSlabs;
  }
  params.stages =
      stages_for(limits, V::kCtasPerSm, V::Products::kHeldChunks,
                 SharedLayout<V>::bytes(params.chunks, 0), SharedLayout<V>::kStageBytes);
  const auto bytes = static_cast<std::size_t>(SharedLayout<V>::bytes(params.chunks, params.stages));
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
