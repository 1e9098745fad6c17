// SPDX-License-Identifier: Apache-2.0
#pragma once

// Barriers in shared memory (mbarrier), named barriers and register budgets of warpgroups (sm_90a).

#include <cstdint>

#include "cuda/device/copy.cuh"

namespace psa::cuda {

using Barrier = std::uint64_t;  // in shared memory, 8-byte aligned

__device__ inline void init_barrier(Barrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}

/// Makes initialised barriers visible to the copy engine; before the first __syncthreads().
__device__ inline void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void arrive(Barrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

/// Arrives `times` times.
__device__ inline void arrive(Barrier* barrier, int times) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(times)
               : "memory");
}

/// Arrives at the barrier in the same place of CTA `rank` of the cluster. That says that this
/// thread has read; for what it wrote to be visible there it takes a __threadfence() before (not
/// part of this: it takes about as long as a chunk of products).
__device__ inline void arrive_at(Barrier* barrier, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(rank)
      : "memory");
}

/// Arrives once this thread's earlier copy_async_16 have landed.
__device__ inline void arrive_after_copies(Barrier* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

/// Waits until the phase of the given parity (0, 1, 0, ...) is complete.
__device__ inline void wait(Barrier* barrier, std::uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

/// The same where threads of other CTAs of the cluster arrive: what they wrote before their fence
/// is visible.
__device__ inline void wait_for_cluster(Barrier* barrier, std::uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

/// Ordinary writes to shared memory that this thread made or has synchronised with become visible
/// to the tensor cores and the copy engine.
__device__ inline void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Position in a ring of slots whose barriers complete once per round.
template <int kSlots>
struct RingIndex {
  int slot = 0;
  std::uint32_t parity = 0;
  __device__ void advance() {
    if (++slot < kSlots) return;
    slot = 0;
    parity ^= 1U;
  }
};

/// Named barrier 1..15 of `threads` threads: wait for all, or only be counted.
__device__ inline void sync_named(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void arrive_named(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// The same as sync_named(): whether `own` is true in any of the threads.
__device__ inline bool any_named(int id, int threads, bool own) {
  int any = 0;
  asm volatile(
      "{\n"
      ".reg .pred own, any;\n"
      "setp.ne.b32 own, %3, 0;\n"
      "bar.red.or.pred any, %1, %2, own;\n"
      "selp.b32 %0, 1, 0, any;\n"
      "}\n"
      : "=r"(any)
      : "r"(id), "r"(threads), "r"(static_cast<int>(own))
      : "memory");
  return any != 0;
}

/// Registers per thread of the calling warpgroup; the CTA's sum must not grow.
template <int kRegisters>
__device__ inline void give_up_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace psa::cuda
