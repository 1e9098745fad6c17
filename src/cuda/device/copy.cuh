// SPDX-License-Identifier: Apache-2.0
#pragma once

// Asynchronous copies from global to shared memory, and shared-memory addresses.

#include <cstdint>

namespace psa::cuda {

__device__ inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Copies 16 bytes past L1. Both sides aligned to 16 bytes.
__device__ inline void copy_async_16(std::uint32_t shared, const void* source) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared), "l"(source)
               : "memory");
}

/// The same, or writes 16 zeros without reading `source` (which must still be a valid address).
__device__ inline void copy_async_16(std::uint32_t shared, const void* source, bool is_real) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(shared), "l"(source),
               "r"(is_real ? 16 : 0)
               : "memory");
}

__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most `kPending` of this thread's last groups are still under way.
template <int kPending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace psa::cuda
