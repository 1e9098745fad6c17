// SPDX-License-Identifier: Apache-2.0
#pragma once

// Bulk copies of tensor boxes from global to shared memory (TMA, sm_90).

#include <cuda.h>

#include <cstdint>

#include "cuda/device/barrier.cuh"

namespace psa::cuda {

/// True in one lane of a converged warp, in a way that lets the compiler issue the guarded
/// instructions once (a test of the lane number costs twice the time per copy).
__device__ inline bool elect_one() {
  std::uint32_t elected = 0;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "elect.sync _|p, 0xFFFFFFFF;\n"
      "selp.b32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(elected));
  return elected != 0;
}

__device__ inline void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/// The current phase also waits for `bytes` bytes of bulk copies.
__device__ inline void expect_bytes(Barrier* barrier, std::uint32_t bytes) {
  asm volatile(
      "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

/// Copies the box at coordinates {c0, .., c4}; its bytes count towards `full`.
__device__ inline void copy_box(std::uint32_t shared, const CUtensorMap* map, int c0, int c1,
                                int c2, int c3, int c4, Barrier* full) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, "
      "{%3, %4, %5, %6, %7}], [%2];" ::"r"(shared),
      "l"(map), "r"(shared_address(full)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}

/// The same into every CTA of the cluster that has a bit in `ctas`, at the same place; each CTA's
/// bytes count towards its own `full`.
__device__ inline void multicast_box(std::uint16_t ctas, std::uint32_t shared,
                                     const CUtensorMap* map, int c0, int c1, int c2, int c3, int c4,
                                     Barrier* full) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(shared),
      "l"(map), "r"(shared_address(full)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4), "h"(ctas)
      : "memory");
}

}  // namespace psa::cuda
