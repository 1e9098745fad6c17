// SPDX-License-Identifier: Apache-2.0
#pragma once

// The antidiagonal (S-11) where q and k come as boxes (sm_90a). kernel.cuh says what probes, items
// and the slab are. A cluster of two CTAs takes an item, each CTA 128 of its rows, which meet all
// columns, 256 of them at a time: a step, whose products are pieces once all channels have been
// multiplied, in chunks of 64.
//
// Bound: L2. The tensor cores multiply a chunk in 1024 cycles, in which they read 80 KB of shared
// memory and 48 KB are written to it, at 128 bytes a cycle. Each CTA fetches half of the columns,
// as a box that is written to both, and its own rows: 32 KB, of which L2 gives 24 bytes a cycle to
// each SM. While rows are reduced the ring fills again.
//
//   ring            4 slots of 48 KB where D is 128 or less: one or two are multiplied, the others
//                   are under way
//   warps 0..7      consumers: two warpgroups of 64 rows multiply, reduce a step's logits to pieces
//                   in the slab, and sum up their rows
//   warp 8          producer: starts the boxes of all items, one after the other, as slots empty,
//                   so the first chunks of an item come during the end of the one before
//   warps 9..11     finishers: from pieces to importance, while the consumers multiply the first
//                   step of the next item. Consumers lost an eighth of their time with it
//
// Barriers, in each CTA:
//
//   arrived   of a slot: 1 arrival, the producer's, and 48 KB, whoever fetched them: the chunk
//             is there
//   emptied   of a slot: 16 arrivals, of every consumer warp of both CTAs: both producers may
//             write to it
//   stored    256 arrivals, of the consumers' threads: the item's pieces and references are there
//   finished  96 arrivals, of the finishers' threads: nobody reads them any more
//
// It is a kernel of its own because those of the other estimators lose by any change to the loop
// that they share.

#include <cstdint>

#include "cuda/device/barrier.cuh"
#include "cuda/device/cluster.cuh"
#include "cuda/device/wgmma.cuh"
#include "cuda/importance/operands.cuh"
#include "cuda/importance/params.cuh"
#include "cuda/importance/pieces.cuh"
#include "cuda/importance/probes.cuh"
#include "cuda/importance/shares_sm90.cuh"

namespace psa::cuda::estimation::stream {

inline constexpr int kClusterCtas = 2;
inline constexpr int kRows = kBoxRows;  // of a CTA
inline constexpr int kColumns = kClusterCtas * kTileColumns;
inline constexpr int kHeldChunks = 2;  // slots that are still read when a chunk has been multiplied

inline constexpr int kConsumers = kRows / kWarpgroupRows * kWarpgroupThreads;
inline constexpr int kConsumerWarps = kConsumers / 32;
inline constexpr int kThreads = kConsumers + kWarpgroupThreads;  // registers move by warpgroup
inline constexpr int kFirstFinisher = kConsumerWarps + 1;
inline constexpr int kFinishers = kThreads / 32 - kFirstFinisher;
inline constexpr int kConsumerRegisters = 200;
inline constexpr int kOtherRegisters = 104;

inline constexpr int kColumnBytes = kColumns * kRowBytes;  // of a chunk
inline constexpr int kSlotBytes = kColumnBytes + kRows * kRowBytes;

/// What lies before the ring in shared memory.
struct alignas(kOperandAlignment) Lists {
  int seen[kRows];          // columns that each row sees, from the first one on
  float references[kRows];  // what the pieces of each row are related to
  Barrier arrived[kMostStages];
  Barrier emptied[kMostStages];
  Barrier stored;
  Barrier finished;
};

struct Work {
  const Params& p;
  Lists& lists;
  std::uint32_t ring;  // [stages]: columns [256, 64], rows [128, 64]
  float* slab;         // [kRows, slab_width], the CTA's
  int rank;            // in the cluster

  [[nodiscard]] __device__ std::uint32_t columns(int slot) const {
    return ring + static_cast<std::uint32_t>(slot * kSlotBytes);
  }
  [[nodiscard]] __device__ std::uint32_t rows(int slot) const {
    return columns(slot) + kColumnBytes;
  }
};

// ---- items --------------------------------------------------------------------------------------

/// What the cluster takes in a round.
__device__ inline index_t item_index(index_t round) {
  return estimation::item_index(round, blockIdx.x / kClusterCtas, gridDim.x / kClusterCtas);
}

/// The CTA's blocks of an item, and all of its tiles.
__device__ inline Item own_item(const Work& w, index_t index) {
  Item item = item_at(w.p, index);
  const int most = kRows / w.p.rows_per_block;
  const int before = w.rank * most;
  item.first_block += before;
  item.blocks = max(0, min(most, item.blocks - before));
  return item;
}

__device__ inline int column_steps(const Item& item) {
  return semantics::ceil_div(item.tiles, kColumns / kTileColumns);
}

// ---- producer -----------------------------------------------------------------------------------

__device__ inline void fetch_chunk(const Work& w, const Item& item, int step, int part, int chunk,
                                   int slot) {
  constexpr std::uint16_t kAllCtas = (1U << kClusterCtas) - 1;
  const Params& p = w.p;
  const int channel = chunk * kChunkChannels;
  Barrier* arrived = &w.lists.arrived[slot];
  expect_bytes(arrived, static_cast<std::uint32_t>(kSlotBytes));
  arrive(arrived);
  const auto token = static_cast<int>(semantics::antidiagonal_query_offset(part, p.parts));
  p.boxes.rows.copy(w.rows(slot), channel, token, item.first_block * p.rows_per_block, item.head_q,
                    item.batch, arrived);
  const int first_column = w.rank * kTileColumns;
  p.boxes.columns.multicast(kAllCtas, w.columns(slot) + first_column * kRowBytes, channel, part,
                            step * kColumns + first_column, item.head_kv, item.batch, arrived);
}

/// Starts all boxes of all items. One warp.
__device__ inline void produce(const Work& w) {
  const Params& p = w.p;
  RingPlace at;
  for (index_t round = 0;; ++round) {
    const index_t index = item_index(round);
    if (index >= p.items) break;
    const Item item = own_item(w, index);
    const int steps = column_steps(item);
    for (int step = 0; step < steps; ++step) {
      for (int part = 0; part < p.parts; ++part) {
        for (int chunk = 0; chunk < p.chunks; ++chunk) {
          wait(&w.lists.emptied[at.slot], at.parity ^ 1U);
          if (elect_one()) fetch_chunk(w, item, step, part, chunk, at.slot);
          at.advance(p.stages);
        }
      }
    }
  }
}

// ---- consumers: products ------------------------------------------------------------------------

/// Products of a warpgroup's rows and a step's columns.
template <typename Element>
class Products : public WarpgroupProducts<kColumns> {
  using WarpgroupProducts<kColumns>::c_;

 public:
  /// Of the CTA's: its warpgroups' rows follow each other.
  [[nodiscard]] __device__ static int lane_row(int eighth) {
    return WarpgroupProducts<kColumns>::lane_row(warp_id(), eighth);
  }

  /// Starts the products of a chunk.
  __device__ __forceinline__ void multiply(Operand rows, Operand columns, bool begins_step) {
    begin_products();
#pragma unroll
    for (int step = 0; step < kChunkChannels / 16; ++step) {
      Wgmma<Element, kColumns>::shared_times_shared(c_, rows.at(step * 32), columns.at(step * 32),
                                                    step > 0 || !begins_step);
    }
    commit_products();
  }
  /// Waits for all chunks but the last one.
  __device__ __forceinline__ void await_earlier() { wait_products<1>(); }
  __device__ __forceinline__ void await_all() {
    wait_products<0>();
    pin(c_);
  }
};

/// The warp does not read the slot any more.
__device__ inline void leave_slot(const Work& w, int slot) {
  if (lane_id() < kClusterCtas) arrive_at(&w.lists.emptied[slot], lane_id());
}

template <typename Element>
__device__ __forceinline__ void multiply_step(const Work& w, int warpgroup, RingPlace& at,
                                              Products<Element>& products) {
  const int chunks = w.p.parts * w.p.chunks;
  int before = 0;  // slot of the chunk before
  for (int n = 0; n < chunks; ++n) {
    wait(&w.lists.arrived[at.slot], at.parity);
    const std::uint32_t rows = w.rows(at.slot) + warpgroup * kWarpgroupRows * kRowBytes;
    products.multiply(operand(rows, 16, kOperandAlignment),
                      operand(w.columns(at.slot), 16, kOperandAlignment), n == 0);
    products.await_earlier();
    if (n > 0) leave_slot(w, before);
    before = at.slot;
    at.advance(w.p.stages);
  }
  products.await_all();
  leave_slot(w, before);
}

/// Leaves the slots of a step as they arrive.
__device__ inline void pass_step(const Work& w, RingPlace& at) {
  const int chunks = w.p.parts * w.p.chunks;
  for (int n = 0; n < chunks; ++n) {
    wait(&w.lists.arrived[at.slot], at.parity);
    __syncwarp();  // all lanes have seen the chunk arrive
    leave_slot(w, at.slot);
    at.advance(w.p.stages);
  }
}

// ---- consumers: what rows see -------------------------------------------------------------------

/// Columns that a row of the item sees. All columns that have a key are in a row, for blocks are
/// powers of two; a row that does not exist sees none.
__device__ inline int seen_columns(const Params& p, const Item& item, int row) {
  const ProbeRow probe = row_at(p, item, row);
  if (!probe.exists()) return 0;
  const int columns = semantics::ceil_div(item.key_count, p.group_tokens);
  return semantics::visible_groups(p.is_causal, columns, p.group_tokens, probe.position);
}

/// Selects -inf where a row does not see a column, so that what the column holds does not matter.
template <typename Element>
__device__ __forceinline__ void hide_columns(const Work& w, int step, Products<Element>& products) {
  using Of = Products<Element>;
#pragma unroll
  for (int eighth = 0; eighth < Of::kEighths; ++eighth) {
    const int seen = w.lists.seen[Of::lane_row(eighth)] - step * kColumns;
#pragma unroll
    for (int strip = 0; strip < Of::kStrips; ++strip) {
#pragma unroll
      for (int i = 0; i < kLaneColumns; ++i) {
        if (Of::lane_column(strip, i) >= seen) products.at(strip, eighth, i) = -INFINITY;
      }
    }
  }
}

// ---- consumers: pieces --------------------------------------------------------------------------

template <int kLog2Piece, typename Element>
__device__ __forceinline__ void reduce_step(const Work& w, const Item& item, int step,
                                            Products<Element>& products, RowSum (&totals)[2]) {
  const int strips = (item.tiles * kTileColumns - step * kColumns) / kWarpColumns;
#pragma unroll
  for (int eighth = 0; eighth < Products<Element>::kEighths; ++eighth) {
    const int row = Products<Element>::lane_row(eighth);
    float* pieces =
        w.slab + static_cast<index_t>(row) * w.p.slab_width + (step * kColumns >> kLog2Piece);
    reduce_rows<kLog2Piece, 1>({w.p.scale_log2}, products, eighth, strips, {pieces},
                               totals + eighth);
  }
}

template <typename Element>
__device__ __forceinline__ void reduce_step(const Work& w, const Item& item, int step,
                                            Products<Element>& products, RowSum (&totals)[2]) {
  switch (w.p.log2_columns) {
    case 0:
      return reduce_step<0>(w, item, step, products, totals);
    case 1:
      return reduce_step<1>(w, item, step, products, totals);
    case 2:
      return reduce_step<2>(w, item, step, products, totals);
    case 3:
      return reduce_step<3>(w, item, step, products, totals);
    case 4:
      return reduce_step<4>(w, item, step, products, totals);
    default:
      return reduce_step<5>(w, item, step, products, totals);
  }
}

/// Pieces of a step of which the warp's rows see nothing.
__device__ inline void store_hidden(const Work& w, const Item& item, int step) {
  constexpr int kWarpRows = kRows / kConsumerWarps;
  const int log2_piece = w.p.log2_columns;
  const int begin = step * kColumns >> log2_piece;
  const int end = min(item.tiles * kTileColumns, (step + 1) * kColumns) >> log2_piece;
  for (int row = warp_id() * kWarpRows; row < (warp_id() + 1) * kWarpRows; ++row) {
    float* pieces = w.slab + static_cast<index_t>(row) * w.p.slab_width;
    for (int piece = begin + lane_id(); piece < end; piece += 32) __stcg(pieces + piece, -INFINITY);
  }
}

// ---- consumers: items ---------------------------------------------------------------------------

inline constexpr int kConsumersBarrier = 1;

template <typename Element>
__device__ __forceinline__ void consume_item(const Work& w, const Item& item, std::uint32_t parity,
                                             RingPlace& at) {
  const int warpgroup = __shfl_sync(0xFFFFFFFFU, warp_id() / 4, 0);  // in a uniform register
  const SeenRange seen = seen_range(w.lists.seen + warpgroup * kWarpgroupRows);
  const int steps = column_steps(item);
  RowSum totals[2];
  for (int step = 0; step < steps; ++step) {
    const bool sees = seen.most > step * kColumns;
    Products<Element> products;
    if (sees) {
      multiply_step(w, warpgroup, at, products);
      if (seen.fewest < (step + 1) * kColumns) hide_columns(w, step, products);
    } else {
      pass_step(w, at);
    }
    if (step == 0) wait(&w.lists.finished, parity ^ 1U);
    if (sees) {
      reduce_step(w, item, step, products, totals);
    } else {
      store_hidden(w, item, step);
    }
  }
  if (steps == 0) wait(&w.lists.finished, parity ^ 1U);
#pragma unroll
  for (int eighth = 0; eighth < 2; ++eighth) {
    const int row = Products<Element>::lane_row(eighth);
    totals[eighth].combine_lanes();
    const float reference = totals[eighth].reference();
    if (lane_id() % 4 == 0) w.lists.references[row] = reference;
  }
  arrive(&w.lists.stored);
}

template <typename Element>
__device__ __forceinline__ void consume(const Work& w) {
  RingPlace at;
  std::uint32_t parity = 0;
  for (index_t round = 0;; ++round) {
    const index_t index = item_index(round);
    if (index >= w.p.items) break;
    const Item item = own_item(w, index);
    sync_named(kConsumersBarrier, kConsumers);  // nobody reads the lists of the item before
    if (threadIdx.x < kRows) {
      w.lists.seen[threadIdx.x] = seen_columns(w.p, item, static_cast<int>(threadIdx.x));
    }
    sync_named(kConsumersBarrier, kConsumers);
    consume_item<Element>(w, item, parity, at);
    parity ^= 1U;
  }
}

// ---- finishers ----------------------------------------------------------------------------------

__device__ inline void finish(const Work& w) {
  std::uint32_t parity = 0;
  for (index_t round = 0;; ++round) {
    const index_t index = item_index(round);
    if (index >= w.p.items) break;
    wait(&w.lists.stored, parity);
    finish_blocks(w.p, {w.slab, w.lists.references}, own_item(w, index), warp_id() - kFirstFinisher,
                  kFinishers);
    arrive(&w.lists.finished);
    parity ^= 1U;
  }
}

// ---- kernel -------------------------------------------------------------------------------------

[[nodiscard]] constexpr int shared_bytes(int stages) {
  return static_cast<int>(sizeof(Lists)) + stages * kSlotBytes;
}

template <typename Element>
__global__ void __launch_bounds__(kThreads, 1) stream_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(kOperandAlignment) std::byte shared[];
  const Work work{.p = p,
                  .lists = *reinterpret_cast<Lists*>(shared),
                  .ring = shared_address(shared) + static_cast<std::uint32_t>(sizeof(Lists)),
                  .slab = p.slab + static_cast<index_t>(blockIdx.x) * kRows * p.slab_width,
                  .rank = static_cast<int>(blockIdx.x % kClusterCtas)};
  if (threadIdx.x < p.stages) {
    init_barrier(&work.lists.arrived[threadIdx.x], 1);
    init_barrier(&work.lists.emptied[threadIdx.x], kClusterCtas * kConsumerWarps);
  }
  if (threadIdx.x == 0) {
    init_barrier(&work.lists.stored, kConsumers);
    init_barrier(&work.lists.finished, kFinishers * 32);
  }
  publish_barriers();
  sync_cluster();
  if (threadIdx.x < kConsumers) {
    take_registers<kConsumerRegisters>();
    consume<Element>(work);
  } else {
    give_up_registers<kOtherRegisters>();
    if (warp_id() >= kFirstFinisher) {
      finish(work);
    } else {
      produce(work);
    }
  }
  sync_cluster();  // nobody writes to a CTA that has left
}

}  // namespace psa::cuda::estimation::stream
