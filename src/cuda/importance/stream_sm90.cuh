// SPDX-License-Identifier: Apache-2.0
#pragma once

// The estimate's kernel where streamed rows come as boxes (sm_90a). Items, tiles, pieces and what
// becomes of them are those of kernel.cuh; here is what brings and multiplies chunks.
//
// Bound: L2. A chunk of 64 channels is 32 KB of rows and 16 KB of columns, and the tensor cores
// multiply it in 1024 cycles: 48 bytes per cycle and SM, of which L2 gives about half. The two CTAs
// of a cluster have the same rows and tiles of columns side by side, so each fetches half of the
// rows, as a box that is written to both, and its own columns: 32 KB.
//
//   ring            4 slots of 48 KB where D is 128 or less: one or two are multiplied, the others
//                   are under way
//   warps 0..7      consumers: two warpgroups of 128 rows
//   warp 8          producer: starts the boxes of all items, one after the other, as slots empty,
//                   so the first chunks of an item come during the end of the one before
//   warps 9..11     leave their registers to the consumers
//
// Barriers, one of each per slot and CTA:
//
//   arrived   1 arrival, of the producer, and 48 KB, whoever fetched them: chunk is there
//   emptied   16 arrivals, of every consumer warp of both CTAs: both producers may write to it
//
// Consumer warpgroups share nothing but the ring, so one multiplies while the other reduces; in
// step both would leave the tensor cores idle at the end of every tile. One that sees nothing of a
// tile (causal: keys behind all of its rows) leaves the tile's slots as they arrive.

#include <cstdint>

#include "cuda/device/barrier.cuh"
#include "cuda/device/cluster.cuh"
#include "cuda/importance/kernel.cuh"

namespace psa::cuda::estimation {

inline constexpr int kWarpgroupThreads = 128;
inline constexpr int kProducerThreads = kWarpgroupThreads;  // registers move by warpgroup
inline constexpr int kProducerRegisters = 40;
inline constexpr int kConsumerRegisters = 232;

/// A RingIndex of as many slots as fit, which goes on from item to item.
struct RingPlace {
  int slot = 0;
  std::uint32_t parity = 0;  // of the round

  __device__ void advance(int stages) {
    if (++slot < stages) return;
    slot = 0;
    parity ^= 1U;
  }
};

/// Tiles that each CTA of the cluster goes through. The last one may lie behind the item's: its
/// CTA still fetches rows for the other.
template <typename V>
__device__ inline int tile_steps(const Item& item) {
  return (item.tiles + V::kGroupCtas - 1) / V::kGroupCtas;
}

// ---- producer -----------------------------------------------------------------------------------

template <typename V>
__device__ inline void fetch_chunk(const Work<V>& w, const Item& item, int tile, int part,
                                   int chunk, int slot) {
  static_assert(V::kRows == V::kGroupCtas * kBoxRows);
  constexpr std::uint16_t kAllCtas = (1U << V::kGroupCtas) - 1;
  const Params& p = w.p;
  const int channel = chunk * kChunkChannels;
  const std::uint32_t columns = w.stage(slot);
  const std::uint32_t rows = columns + SharedLayout<V>::kColumnBytes;
  Barrier* arrived = &w.lists.arrived[slot];
  expect_bytes(arrived, static_cast<std::uint32_t>(SharedLayout<V>::kStageBytes));
  arrive(arrived);
  p.boxes.columns.copy(columns, channel, part, tile * kTileColumns, item.head_kv, p.batch, arrived);
  const auto token = static_cast<int>(semantics::antidiagonal_query_offset(part, p.parts));
  const int first_row = w.rank * kBoxRows;
  p.boxes.rows.multicast(kAllCtas, rows + first_row * kRowBytes, channel, token,
                         item.first_block * p.rows_per_block + first_row, item.head_q, p.batch,
                         arrived);
}

/// Starts all boxes of an item. One warp.
template <typename V>
__device__ inline void fetch_item(const Work<V>& w, const Item& item, RingPlace& at) {
  const Params& p = w.p;
  const int steps = tile_steps<V>(item);
  for (int step = 0; step < steps; ++step) {
    for (int part = 0; part < p.parts; ++part) {
      for (int chunk = 0; chunk < p.chunks; ++chunk) {
        wait(&w.lists.emptied[at.slot], at.parity ^ 1U);
        if (elect_one()) fetch_chunk(w, item, w.tile_at(step), part, chunk, at.slot);
        at.advance(p.stages);
      }
    }
  }
}

// ---- consumers ----------------------------------------------------------------------------------

// Named barriers: the CTA's consumers, and behind it one for each warpgroup.
inline constexpr int kConsumersBarrier = 1;
inline constexpr int kFirstWarpgroupBarrier = 2;

template <typename V>
__device__ inline void sync_consumers() {
  sync_named(kConsumersBarrier, V::kThreads);
}

/// Waits for the consumers of all CTAs of the cluster. What they wrote before, to global memory
/// too, is visible behind it.
template <typename V>
__device__ inline void sync_cluster_consumers(const Work<V>& w, std::uint32_t& parity) {
  sync_consumers<V>();
  if (threadIdx.x < V::kGroupCtas) {
    __threadfence();
    arrive_at(&w.lists.consumers_met, static_cast<int>(threadIdx.x));
  }
  wait_for_cluster(&w.lists.consumers_met, parity);
  parity ^= 1U;
}

/// The warp does not read the slot any more.
template <typename V>
__device__ inline void leave_slot(const Work<V>& w, int slot) {
  if (lane_id() < V::kGroupCtas) arrive_at(&w.lists.emptied[slot], lane_id());
}

/// What a warpgroup sees of a tile.
struct Sight {
  bool sees_any;    // some row sees some column
  bool has_hidden;  // some row may not see some column
};

/// Lists the warpgroup's rules of a tile. Each of its threads has a column, and a row.
template <typename V>
__device__ inline Sight list_warpgroup_rules(const Work<V>& w, int warpgroup, int tile) {
  static_assert(kWarpgroupThreads == kTileColumns);
  const Params& p = w.p;
  const auto thread = static_cast<int>(threadIdx.x) % kWarpgroupThreads;
  const int barrier = kFirstWarpgroupBarrier + warpgroup;
  const ProbeRow* rows = w.lists.rows + warpgroup * kWarpgroupThreads;
  const ColumnRule first = column_rule(p, w.lists.item, tile * kTileColumns);
  const ColumnRule own = column_rule(p, w.lists.item, tile * kTileColumns + thread);
  const ProbeRow row = rows[thread];
  const bool sees = row.exists() && !first.hides_from(p.is_causal, row.position);
  Sight sight{};
  // Behind this nobody reads the rules of the tile before, and all rows are listed.
  sight.sees_any = any_named(barrier, kWarpgroupThreads, sees);
  w.lists.rules[warpgroup][thread] = own;
  sight.has_hidden =
      any_named(barrier, kWarpgroupThreads, own.hides_from(p.is_causal, rows[0].position));
  return sight;
}

/// Pieces of the warpgroup's rows and of the CTA's tiles.
template <typename V>
__device__ __forceinline__ void sweep_boxes(const Work<V>& w, RingPlace& at) {
  const Params& p = w.p;
  const int warpgroup = __shfl_sync(0xFFFFFFFFU, warp_id() / 4, 0);  // in a uniform register
  const int steps = tile_steps<V>(w.lists.item);
  const int tile_chunks = p.parts * p.chunks;
  for (int step = 0; step < steps; ++step) {
    const int tile = w.tile_at(step);
    const Sight sight = list_warpgroup_rules(w, warpgroup, tile);
    typename V::Products products;
    if (!sight.sees_any) products.fill(-INFINITY);
    int before = 0;  // slot of the chunk before
    for (int n = 0; n < tile_chunks; ++n) {
      wait(&w.lists.arrived[at.slot], at.parity);
      if (sight.sees_any) {
        const std::uint32_t columns = w.stage(at.slot);
        products.multiply({columns + SharedLayout<V>::kColumnBytes, 0, columns}, n == 0);
        products.await_earlier();
      } else {
        __syncwarp();  // all lanes have seen the chunk arrive
      }
      if (n > 0) leave_slot(w, before);
      before = at.slot;
      at.advance(p.stages);
    }
    products.await_all();
    leave_slot(w, before);
    if (tile >= w.lists.item.tiles) break;
    const ColumnRule* rules = w.lists.rules[warpgroup];
    if (sight.sees_any && sight.has_hidden) hide_columns<V>(w, rules, products);
    reduce_tile<V>(w, tile, rules, products);
  }
}

// ---- all items ----------------------------------------------------------------------------------

// work_of() and item_index() repeat lines of estimate_kernel: shared, they change how ptxas
// allocates its registers, and pooled_lse took 4 to 8 % longer in such forms.

/// The CTA's, in its dynamic shared memory.
template <typename V>
__device__ inline Work<V> work_of(const Params& p, std::byte* shared_bytes) {
  const std::uint32_t resident =
      shared_address(shared_bytes) + static_cast<std::uint32_t>(sizeof(Lists<V>));
  const unsigned group = blockIdx.x / V::kGroupCtas;
  return {.p = p,
          .lists = *reinterpret_cast<Lists<V>*>(shared_bytes),
          .resident = resident,
          .ring = resident + SharedLayout<V>::resident_bytes(p.chunks),
          .slab = p.slab + static_cast<index_t>(group) * V::kRows * p.slab_width,
          .rank = static_cast<int>(blockIdx.x % V::kGroupCtas),
          .phases = 0};
}

/// What the CTA's cluster takes in a round, as in estimate_kernel.
template <typename V>
__device__ inline index_t item_index(index_t round) {
  const unsigned groups = gridDim.x / V::kGroupCtas;
  const unsigned group = blockIdx.x / V::kGroupCtas;
  return round * groups + (round % 2 == 0 ? group : groups - 1 - group);
}

template <typename V>
__device__ inline void produce(const Work<V>& w) {
  const Params& p = w.p;
  RingPlace at;
  for (index_t round = 0;; ++round) {
    const index_t index = item_index<V>(round);
    if (index >= p.items) break;
    fetch_item(w, item_at(p, index), at);
  }
}

template <typename V>
__device__ __forceinline__ void consume(const Work<V>& w) {
  const Params& p = w.p;
  RingPlace at;
  std::uint32_t meeting = 0;
  for (index_t round = 0;; ++round) {
    const index_t index = item_index<V>(round);
    if (index >= p.items) break;
    if (threadIdx.x == 0) w.lists.item = item_at(p, index);
    sync_consumers<V>();
    list_rows(w);
    sweep_boxes(w, at);
    sync_cluster_consumers(w, meeting);  // all pieces are in the slab
    const Range blocks = own_blocks(w);
    list_references(w, blocks);
    sync_consumers<V>();
    store_importance(w, blocks);
    sync_cluster_consumers(w, meeting);  // nobody reads the slab or the lists any more
  }
}

template <typename V>
__global__ void __launch_bounds__(V::kThreads + kProducerThreads, V::kCtasPerSm)
    stream_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(kOperandAlignment) std::byte shared_bytes[];
  const Work<V> work = work_of<V>(p, shared_bytes);
  if (threadIdx.x < p.stages) {
    init_barrier(&work.lists.arrived[threadIdx.x], 1);
    init_barrier(&work.lists.emptied[threadIdx.x], V::kGroupCtas * V::kThreads / 32);
  }
  if (threadIdx.x == 0) init_barrier(&work.lists.consumers_met, V::kGroupCtas);
  publish_barriers();
  sync_cluster();
  if (threadIdx.x < V::kThreads) {
    take_registers<kConsumerRegisters>();
    consume(work);
  } else {
    give_up_registers<kProducerRegisters>();
    if (warp_id() == V::kThreads / 32) produce(work);
  }
  sync_cluster();  // nobody writes to a CTA that has left
}

}  // namespace psa::cuda::estimation
