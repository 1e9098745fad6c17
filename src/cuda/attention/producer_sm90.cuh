// SPDX-License-Identifier: Apache-2.0
#pragma once

// The producer warpgroup of the sm_90a attention kernel (kernel_sm90.cuh): lists what a query block
// reads and fills the slots.

#include <cstdint>

#include "cuda/attention/kv_maps.cuh"
#include "cuda/attention/kv_stream.cuh"
#include "cuda/attention/storage_sm90.cuh"
#include "cuda/device/barrier.cuh"
#include "cuda/device/copy.cuh"
#include "cuda/device/tensor_map.cuh"

namespace psa::cuda::sm90 {

/// What rows that do not exist are copied from: as long as the longest row.
const __device__ uint4 kZeroRow[kQueryRows * 2 / 16] = {};
__device__ inline const std::byte* zero_row() {
  return reinterpret_cast<const std::byte*>(kZeroRow);
}

/// Warp w copies rows 2w and 2w + 1 of every granule of a tile: 32 rows, of which each lane looks
/// up one (row e of the warp is stream row row_of_entry(e)) and the others learn by shuffle.
template <typename Traits>
struct Producer {
  using Storage = SharedStorage<Traits>;
  using Notes = TileNotes<Traits::kTileKv>;
  static constexpr int kElementBytes = sizeof(typename Traits::Element);
  static constexpr int kLanesPerRow = Traits::kHeadDim / 8;  // 16 bytes each
  static constexpr int kRowsPerCopy = 32 / kLanesPerRow;     // of one warp
  static constexpr int kGroupBits = 28;  // groups of 8 rows of a level: 2^28 and more tokens
  static_assert(Traits::kTileKv == 128 && kQueryRows == 128, "a lane looks up one row of a tile");

  /// A lane's row of a tile, looked up ahead of the tile's slot becoming empty.
  struct LaneRow {
    KvRow row;
    KvAddress address;
    std::uint32_t box;        // level code << kGroupBits | group of 8 rows
    std::uint32_t box_lanes;  // lanes whose row begins a piece, if the tile is all boxes; else 0
  };

  const AttentionParams& p;
  const KvMaps& maps;
  Storage& shared;
  int warp, lane;
  RingIndex<Traits::kKeyStages> k_ring;
  RingIndex<Traits::kValueStages> v_ring;
  int note_slot = 0;
  std::uint32_t q_parity = 0;
  int counted_item = 0;  // of thread 0: the query block after the current one

  __device__ Producer(const AttentionParams& params, const KvMaps& kv_maps, Storage& storage)
      : p(params),
        maps(kv_maps),
        shared(storage),
        warp(uniform(static_cast<int>(threadIdx.x) / 32)),
        lane(static_cast<int>(threadIdx.x) % 32) {}

  __device__ int row_of_entry(int e) const { return e / 2 * 8 + 2 * warp + e % 2; }

  /// Copies this warp's rows of a tile; `address` is that of the lane's own row. Addresses are
  /// learnt kBatch at a time, ahead of the copies, so that the shuffles overlap.
  __device__ void copy_rows(std::byte* tile, const std::byte* address) const {
    constexpr int kBatch = 8;
    const int chunk = lane % kLanesPerRow;
    const int row_in_copy = lane / kLanesPerRow;
    const int line = 2 * warp + row_in_copy % 2;  // of the granule
    const bool has_chunk = chunk * 8 < p.head_dim;
    const auto own = reinterpret_cast<std::uint64_t>(address);
    const auto own_low = static_cast<std::uint32_t>(own);
    const auto own_high = static_cast<std::uint32_t>(own >> 32);
    std::uint32_t to = shared_address(tile) +
                       static_cast<std::uint32_t>(row_in_copy / 2 * Storage::kGranuleBytes) +
                       static_cast<std::uint32_t>(chunk / 8) * kHalfBytes +
                       static_cast<std::uint32_t>(line) * kLineBytes +
                       static_cast<std::uint32_t>((chunk % 8) ^ line) * 16U;
#pragma unroll 1
    for (int first = 0; first < 32; first += kBatch * kRowsPerCopy) {
      std::uint64_t from[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int e = first + i * kRowsPerCopy + row_in_copy;
        const std::uint64_t low = __shfl_sync(0xFFFFFFFFU, own_low, e);
        const std::uint64_t high = __shfl_sync(0xFFFFFFFFU, own_high, e);
        from[i] = (high << 32 | low) + static_cast<std::uint64_t>(chunk * 16);
      }
      if (has_chunk) {
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          copy_async_16(
              to + static_cast<std::uint32_t>(i * (kRowsPerCopy / 2) * Storage::kGranuleBytes),
              reinterpret_cast<const std::byte*>(from[i]));
        }
      }
      to += static_cast<std::uint32_t>(kBatch * (kRowsPerCopy / 2) * Storage::kGranuleBytes);
    }
  }

  /// Copies a tile's pieces; even lanes hold a row of each granule.
  __device__ void copy_boxes(std::byte* tile, const LaneRow& row, const CUtensorMap* map,
                             const HeadCoordinates& finest, const QueryBlock& q,
                             Barrier* full) const {
    const std::uint32_t base = shared_address(tile);
    const int finest_c2 = finest.c2_head * q.head_kv;
    const int finest_c4 = finest.c4_head * q.head_kv + finest.c4_batch * q.batch;
    const int pooled_c4 = q.batch * p.heads_kv + q.head_kv;
    if (elect_one()) expect_bytes(full, Storage::kTileBytes);
    std::uint32_t left = row.box_lanes;
    int holder = __ffs(static_cast<int>(left)) - 1;
    std::uint32_t box = __shfl_sync(0xFFFFFFFFU, row.box, holder);
    while (left != 0) {  // one shuffle ahead of the copies
      left &= left - 1U;
      const int next_holder = left != 0 ? __ffs(static_cast<int>(left)) - 1 : 0;
      const std::uint32_t next = __shfl_sync(0xFFFFFFFFU, row.box, next_holder);
      const bool is_finest = box >> kGroupBits == semantics::kFinestLevel;
      if (elect_one()) {
        copy_box(base + static_cast<std::uint32_t>(holder / 2 * Storage::kGranuleBytes),
                 &map[(box >> kGroupBits) - 1U], is_finest ? finest_c2 : 0,
                 static_cast<int>(box & ((1U << kGroupBits) - 1U)),
                 is_finest ? finest_c4 : pooled_c4, full);
      }
      holder = next_holder;
      box = next;
    }
  }

  __device__ void load_queries(const QueryBlock& q) {
    wait(&shared.q_empty, q_parity ^ 1U);
    q_parity ^= 1U;
    const int row = row_of_entry(lane);
    const std::byte* address = zero_row();
    if (row < q.q_rows) {
      address = p.q.data + (q.batch * p.q.batch_stride + q.head * p.q.head_stride +
                            query_token(p, q, q.q_begin + row) * p.q.token_stride) *
                               kElementBytes;
    }
    copy_rows(shared.q, address);
    arrive_after_copies(&shared.q_full);
  }

  __device__ LaneRow look_up(const QueryBlock& q, const KvStream& stream, int first) const {
    LaneRow lane_row{};
    const KvRow row = stream.at(p, q, shared.window, first + row_of_entry(lane));
    lane_row.row = row;
    lane_row.address = {zero_row(), zero_row()};
    if (row.is_real) lane_row.address = address_of(p, q, row, kElementBytes);
    lane_row.box = static_cast<std::uint32_t>(row.code) << kGroupBits |
                   static_cast<std::uint32_t>(row.row / 8);
    // Boxes hold whole groups of rows that all exist: the block must end before the valid keys do.
    const bool is_boxed = row.is_real && ((maps.mapped_codes >> row.code) & 1U) != 0 &&
                          (row.block + 1) * p.block_kv <= q.len_kv;
    // Seen from row 0 of a granule, which is warp 0's in even lanes; a piece of at least 8 rows
    // begins there or not for all rows of the granule.
    const int granule_row = row.row & ~7;
    const bool begins = lane % 2 == 0 && (granule_row & (p.block_kv >> (row.code - 1)) - 1) == 0;
    lane_row.box_lanes = __ballot_sync(0xFFFFFFFFU, begins);
    if (!__all_sync(0xFFFFFFFFU, is_boxed)) lane_row.box_lanes = 0;
    return lane_row;
  }

  __device__ void note_tile(const QueryBlock& q, const KvRow& row, int item, bool is_last) {
    Notes& notes = shared.notes[note_slot];
    const int index = row_of_entry(lane);
    const int factor = static_cast<int>(semantics::pool_factor(row.code, p.block_kv));
    const auto bias = static_cast<float>(31 - __clz(factor));
    float adjust = 0.0F;
    if (!row.is_real) {
      adjust = -INFINITY;
    } else if (row.weight != factor) {
      adjust = (log2f(static_cast<float>(row.weight)) - bias) / p.scale_log2;
    }
    if (index % 8 == 0) notes.bias[index / 8] = bias;
    notes.last[index] = row.last;
    notes.adjust[index] = adjust;
    const bool is_masked = adjust != 0.0F || (p.is_causal && row.last > q.first_position);
    const bool any_masked = __any_sync(0xFFFFFFFFU, is_masked);
    if (lane != 0) return;
    notes.is_masked[warp] = any_masked;
    if (warp == 0) {
      notes.item = item;
      notes.is_last = is_last;
    }
  }

  __device__ void load_keys(const QueryBlock& q, const LaneRow& row, int item, bool is_last) {
    wait(&shared.k_empty[k_ring.slot], k_ring.parity ^ 1U);
    Barrier* full = &shared.k_full[k_ring.slot];
    note_tile(q, row.row, item, is_last);
    if (row.box_lanes == 0) {
      copy_rows(shared.k[k_ring.slot], row.address.k);
    } else if (warp == 0) {
      copy_boxes(shared.k[k_ring.slot], row, maps.k, maps.k_head, q, full);
    }
    finish_slot(full, row.box_lanes != 0);
    k_ring.advance();
    note_slot = note_slot + 1 == Storage::kNoteSlots ? 0 : note_slot + 1;
  }

  __device__ void load_values(const QueryBlock& q, const LaneRow& row) {
    wait(&shared.v_empty[v_ring.slot], v_ring.parity ^ 1U);
    Barrier* full = &shared.v_full[v_ring.slot];
    if (row.box_lanes == 0) {
      copy_rows(shared.v[v_ring.slot], row.address.v);
    } else if (warp == 1) {
      copy_boxes(shared.v[v_ring.slot], row, maps.v, maps.v_head, q, full);
    }
    finish_slot(full, row.box_lanes != 0);
    v_ring.advance();
  }

  /// A slot is full once every thread's copies have landed, the boxes' bytes have arrived, and each
  /// warp's notes are written.
  __device__ void finish_slot(Barrier* full, bool is_boxed) const {
    if (is_boxed) {
      arrive(full);
    } else {
      arrive_after_copies(full);
    }
    __syncwarp();
    if (lane == 0) arrive(full);
  }

  /// Takes the next query block; the same in every producer thread. The counter is read an item
  /// ahead, so that its latency does not show.
  __device__ int take_item() {
    sync_named(kProducerBarrier, kWarpgroup);
    if (threadIdx.x == 0) {
      shared.next_item = counted_item;
      counted_item = count_item();
    }
    sync_named(kProducerBarrier, kWarpgroup);
    return shared.next_item;
  }

  __device__ int count_item() const {
    return static_cast<int>(gridDim.x) + atomicAdd(p.next_item, 1);
  }

  /// The tiles of one window. Keys run a tile ahead of values, as the consumers need them, and
  /// look-ups a tile ahead of keys, so that their latency passes while slots are awaited.
  __device__ void load_window(const QueryBlock& q, int item, bool is_last_window) {
    const KvStream stream(p, shared.window);
    // A query block has at least one tile, if only of padding, to carry its notes.
    const int rows = max(stream.rows(), is_last_window ? 1 : 0);
    if (rows == 0) return;
    LaneRow row = look_up(q, stream, 0);
    load_keys(q, row, item, is_last_window && Traits::kTileKv >= rows);
    for (int first = Traits::kTileKv; first < rows; first += Traits::kTileKv) {
      const LaneRow next = look_up(q, stream, first);
      load_keys(q, next, item, is_last_window && first + Traits::kTileKv >= rows);
      load_values(q, row);
      row = next;
    }
    load_values(q, row);
  }

  __device__ void load_query_block(int item) {
    const QueryBlock q = query_block_of(p, item);
    const int end_block = readable_blocks(p, q);
    int first_block = 0;
    do {
      sync_named(kProducerBarrier, kWarpgroup);  // nobody reads the last window any more
      list_window(p, q, first_block, end_block, shared.window, warp, 4);
      sync_named(kProducerBarrier, kWarpgroup);
      if (first_block == 0) load_queries(q);
      first_block += kWindowBlocks;
      load_window(q, item, first_block >= end_block);
    } while (first_block < end_block);
  }

  __device__ void run(int items) {
    if (threadIdx.x == 0) counted_item = count_item();
    int item = static_cast<int>(blockIdx.x);
    for (; item < items; item = take_item()) load_query_block(item);
    wait(&shared.k_empty[k_ring.slot], k_ring.parity ^ 1U);
    if (threadIdx.x == 0) shared.notes[note_slot].item = kNoItem;
    finish_slot(&shared.k_full[k_ring.slot], false);
  }
};

}  // namespace psa::cuda::sm90
