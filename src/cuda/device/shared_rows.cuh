// SPDX-License-Identifier: Apache-2.0
#pragma once

// Rows of 16-bit elements in shared memory, laid out for the matrix loads of mma.cuh: pieces of 16
// bytes, of which a row's piece i lies at place i ^ (row % 8) of its 128 bytes, so that 8 rows of
// one column touch every bank once. Rows are 128 bytes or a multiple, tiles aligned to 128 bytes.
// Rows of 64 bytes share 128 bytes by pairs: piece i of a row lies at place i ^ (row / 2 % 4).

#include <cstddef>
#include <cstdint>

#include "cuda/device/copy.cuh"

namespace psa::cuda {

template <int kRowBytes>
__device__ inline std::uint32_t piece_address(const std::byte* tile, int row, int piece) {
  const int place = kRowBytes == 64 ? piece ^ row / 2 % 4 : piece / 8 * 8 + (piece % 8 ^ row % 8);
  return shared_address(tile) + static_cast<std::uint32_t>(row * kRowBytes + place * 16);
}

/// From the address of (row, piece) to that of (row + rows, piece + pieces). `rows` is a multiple
/// of 8, and so is `pieces`; from piece 0 or 1 it may also be even. Constants make it one
/// instruction.
template <int kRowBytes>
__device__ inline std::uint32_t advance(std::uint32_t address, int rows, int pieces) {
  return (address ^ static_cast<std::uint32_t>(pieces % 8 * 16)) +
         static_cast<std::uint32_t>(rows * kRowBytes + pieces / 8 * 128);
}

/// From the address of (row, piece), `row` a multiple of 8, to that of (row + rows, piece). Rows
/// are of 128 bytes or a multiple.
template <int kRowBytes>
__device__ inline std::uint32_t down(std::uint32_t address, int rows) {
  return (address ^ static_cast<std::uint32_t>(rows % 8 * 16)) +
         static_cast<std::uint32_t>(rows * kRowBytes);
}

__device__ inline void store_shared(std::uint32_t address, const uint4& x) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(x.x), "r"(x.y), "r"(x.z),
               "r"(x.w)
               : "memory");
}

__device__ inline void store_shared(std::uint32_t address, std::uint32_t x) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}

__device__ inline uint4 load_shared(std::uint32_t address) {
  uint4 x;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(address)
               : "memory");
  return x;
}

}  // namespace psa::cuda
