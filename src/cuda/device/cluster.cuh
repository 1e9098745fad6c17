// SPDX-License-Identifier: Apache-2.0
#pragma once

// Clusters: CTAs that run at the same time and can wait for each other (sm_90).

namespace psa::cuda {

/// Place of the CTA in its cluster.
__device__ inline int cluster_rank() {
  int rank = 0;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/// Waits for all threads of the cluster. What they wrote before, to global memory too, is visible
/// behind it.
__device__ inline void sync_cluster() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

}  // namespace psa::cuda
