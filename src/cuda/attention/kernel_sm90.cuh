// SPDX-License-Identifier: Apache-2.0
#pragma once

// Attention over lists of KV pieces on the tensor cores of sm_90a (S-5 to S-8).
//
// A persistent CTA per SM takes query blocks from a counter. Three warpgroups:
//
//   producer   lists the KV pieces of a query block (kv_stream.cuh) and copies q, then K and V
//              tiles of kTileKv stream rows: pieces that lie in memory as they are read as boxes
//              (TMA, kv_maps.cuh), all others row by row (cp.async): any level, order and stride
//   consumers  64 query rows each: S = q·Kᵀ, online soft-max, out += P·V, P in registers
//
//   producer    K0 K1 V0 K2 V1 K3 ...                    (each waits for its slot to be empty)
//   consumer    S0 = qK0 | soft-max 0 | S1 = qK1, out += P0·V0 | soft-max 1 | S2, out += P1·V1 ...
//
// The products of a step run while the soft-max of the same step's S waits only for S, so that the
// tensor cores always have P·V of the step before to work on; a pair of named barriers makes the
// two consumers take turns, one multiplying while the other exponentiates.
//
// A granule of 8 columns has one level, hence one weight: e^(s + ln c) = 2^(s·scale + log2 c). The
// weight is folded into the constant of the exponent that every logit gets anyway. Rows that need
// more (padding, the sequence's last pooled row, the causal diagonal) mark their tile as masked.

#include <cstddef>
#include <cstdint>

#include "cuda/attention/consumer_sm90.cuh"
#include "cuda/attention/producer_sm90.cuh"
#include "cuda/attention/storage_sm90.cuh"

namespace psa::cuda::sm90 {

template <typename Traits>
__device__ void clear(SharedStorage<Traits>& shared) {
  constexpr auto kBytes = sizeof(shared.q) + sizeof(shared.k) + sizeof(shared.v);
  auto* words = reinterpret_cast<uint4*>(shared.q);  // q, k and v lie one behind the other
  for (auto i = threadIdx.x; i < kBytes / sizeof(uint4); i += kThreads) words[i] = uint4{};
  fence_async_proxy();
}

template <typename Traits>
__global__ void __launch_bounds__(kThreads, 1)
    attention_kernel(const __grid_constant__ AttentionParams p, const __grid_constant__ KvMaps maps,
                     int items) {
  extern __shared__ std::byte dynamic[];
  const std::uint32_t misaligned = shared_address(dynamic) % 1024U;
  auto& shared = *reinterpret_cast<SharedStorage<Traits>*>(
      dynamic + (misaligned == 0 ? 0U : 1024U - misaligned));
  constexpr int kConsumerWarps = 8;
  if (threadIdx.x == 0) {
    init_barrier(&shared.q_full, kWarpgroup);
    init_barrier(&shared.q_empty, kConsumerWarps);
    for (int i = 0; i < Traits::kKeyStages; ++i) {
      init_barrier(&shared.k_full[i], kFillers);
      init_barrier(&shared.k_empty[i], kConsumerWarps);
    }
    for (int i = 0; i < Traits::kValueStages; ++i) {
      init_barrier(&shared.v_full[i], kFillers);
      init_barrier(&shared.v_empty[i], kConsumerWarps);
    }
    publish_barriers();
  }
  // Columns behind head_dim are never copied.
  if (p.head_dim < Traits::kHeadDim) clear(shared);
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    give_up_registers<kProducerRegisters>();
    Producer<Traits>(p, maps, shared).run(items);
  } else {
    take_registers<kConsumerRegisters>();
    Consumer<Traits>(p, shared).run();
  }
}

/// Dynamic shared memory of the kernel, alignment included.
template <typename Traits>
constexpr std::size_t shared_bytes() {
  return sizeof(SharedStorage<Traits>) + 1024;
}

}  // namespace psa::cuda::sm90
