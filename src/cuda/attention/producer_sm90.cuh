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

/// A tile is copied in one of three ways, which TilePlan tells ahead. As boxes: keys by warp 0,
/// values by warp 1, while the others pass on. Row by row: warp w copies rows 2w and 2w + 1 of
/// every granule. Where all rows of a tile are plain (of one level, there, and with nothing to note
/// one by one), the plan has them; otherwise each lane looks up one of the warp's 32 rows (row e is
/// stream row row_of_entry(e)) and the others learn by shuffle, in many more instructions.
template <typename Traits>
struct Producer {
  using Storage = SharedStorage<Traits>;
  using Notes = TileNotes<Traits::kTileKv>;
  static constexpr int kElementBytes = sizeof(typename Traits::Element);
  static constexpr int kLanesPerRow = Traits::kHeadDim / 8;  // 16 bytes each
  static constexpr int kRowsPerCopy = 32 / kLanesPerRow;     // of one warp
  static constexpr int kGranulesPerCopy = kRowsPerCopy / 2;
  static constexpr int kCopies = TilePlan::kTileGranules / kGranulesPerCopy;
  static constexpr int kKeyWarp = 0;
  static constexpr int kValueWarp = 1;
  static_assert(Traits::kTileKv == 128 && kQueryRows == 128, "a lane looks up one row of a tile");
  static_assert(TilePlan::kTiles * TilePlan::kTileGranules == kWarpgroup);

  /// A tile as a lane knows it.
  struct Tile {
    std::uint32_t begins;        // TilePlan
    std::uint32_t box;           // as boxes and plain: of granule lane % 16
    const TilePlan::Rows* rows;  // plain: where the plan has them; else null
    KvRow row;                   // else: the lane's row, looked up before the slot is empty
    KvAddress address;
  };

  const AttentionParams& p;
  const KvMaps& maps;
  Storage& shared;
  int warp, lane;
  bool can_be_plain;  // no causal notes; strides, in bytes, are factors of 32 bits
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
        lane(static_cast<int>(threadIdx.x) % 32),
        can_be_plain(!p.is_causal && is_factor(p.k.token_stride) && is_factor(p.v.token_stride)) {}

  static __device__ bool is_factor(index_t token_stride) {
    return token_stride >= 0 && token_stride * kElementBytes < index_t{1} << 32;
  }

  __device__ int row_of_entry(int e) const { return e / 2 * 8 + 2 * warp + e % 2; }

  /// Where the lane copies to in the first of a warp's copies of a tile.
  __device__ std::uint32_t first_copy(const std::byte* tile) const {
    const int chunk = lane % kLanesPerRow;
    const int row_in_copy = lane / kLanesPerRow;
    const int line = 2 * warp + row_in_copy % 2;  // of the granule
    return shared_address(tile) +
           static_cast<std::uint32_t>(row_in_copy / 2 * Storage::kGranuleBytes) +
           static_cast<std::uint32_t>(chunk / 8) * kHalfBytes +
           static_cast<std::uint32_t>(line) * kLineBytes +
           static_cast<std::uint32_t>((chunk % 8) ^ line) * 16U;
  }

  /// Copies this warp's rows of a tile; `address` is that of the lane's own row. Addresses are
  /// learnt kBatch at a time, ahead of the copies, so that the shuffles overlap.
  __device__ void copy_rows(std::byte* tile, const std::byte* address) const {
    constexpr int kBatch = 8;
    const int chunk = lane % kLanesPerRow;
    const int row_in_copy = lane / kLanesPerRow;
    const bool has_chunk = chunk * 8 < p.head_dim;
    const auto own = reinterpret_cast<std::uint64_t>(address);
    const auto own_low = static_cast<std::uint32_t>(own);
    const auto own_high = static_cast<std::uint32_t>(own >> 32);
    std::uint32_t to = first_copy(tile);
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

  /// Place of a granule in TilePlan::Rows: the granules of a lane's copies follow each other.
  static __device__ int place_of(int granule) {
    return granule % kGranulesPerCopy * kCopies + granule / kGranulesPerCopy;
  }

  /// Copies this warp's rows of a plain tile from `source`, the first row of its level.
  __device__ void copy_plain(std::byte* tile, const TilePlan::Rows& rows, const std::byte* source,
                             index_t stride) const {
    const int chunk = lane % kLanesPerRow;
    const int row_in_copy = lane / kLanesPerRow;
    if (chunk * 8 >= p.head_dim) return;
    const auto* own = reinterpret_cast<const uint4*>(
        &rows[2 * warp + row_in_copy % 2][place_of(row_in_copy / 2)]);
    const std::byte* from = source + chunk * 16;
    const auto row_bytes = static_cast<std::uint32_t>(stride);
    std::uint32_t to = first_copy(tile);
#pragma unroll
    for (int four = 0; four < kCopies / 4; ++four) {
      const uint4 row = own[four];
      const std::uint32_t each[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        copy_async_16(to + static_cast<std::uint32_t>((4 * four + i) * kGranulesPerCopy *
                                                      Storage::kGranuleBytes),
                      from + static_cast<std::uint64_t>(each[i]) * row_bytes);
      }
    }
  }

  /// Copies a tile's boxes. One warp.
  __device__ void copy_boxes(std::byte* slot, const Tile& tile, const CUtensorMap* map,
                             const HeadCoordinates& finest, const QueryBlock& q,
                             Barrier* full) const {
    const std::uint32_t base = shared_address(slot);
    const int finest_c2 = finest.c2_head * q.head_kv;
    const int finest_c4 = finest.c4_head * q.head_kv + finest.c4_batch * q.batch - finest.c4_first;
    const int pooled_c4 = q.batch * p.heads_kv + q.head_kv;
    if (elect_one()) expect_bytes(full, Storage::kTileBytes);
    std::uint32_t left = tile.begins;
    int granule = __ffs(static_cast<int>(left)) - 1;
    std::uint32_t box = __shfl_sync(0xFFFFFFFFU, tile.box, granule);
    while (left != 0) {  // one shuffle ahead of the copies
      left &= left - 1U;
      const int next_granule = left != 0 ? __ffs(static_cast<int>(left)) - 1 : 0;
      const std::uint32_t next = __shfl_sync(0xFFFFFFFFU, tile.box, next_granule);
      const bool is_finest = box >> TilePlan::kGroupBits == semantics::kFinestLevel;
      if (elect_one()) {
        copy_box(base + static_cast<std::uint32_t>(granule * Storage::kGranuleBytes),
                 &map[(box >> TilePlan::kGroupBits) - 1U], 0, 0, is_finest ? finest_c2 : 0,
                 static_cast<int>(box & TilePlan::kNoGroup), is_finest ? finest_c4 : pooled_c4,
                 full);
      }
      granule = next_granule;
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

  /// Level code whose boxes pad a tile: the smallest; 0 where they would not fit.
  __device__ int padding_code(const KvStream& stream) const {
    const int code = 31 - __clz(static_cast<int>(maps.mapped_codes));
    if (code < semantics::kFinestLevel) return 0;
    return stream.rows() % (p.block_kv >> (code - 1)) == 0 ? code : 0;
  }

  /// Plans kTiles tiles from `first` on: a thread looks up a granule.
  __device__ void plan_tiles(const QueryBlock& q, const KvStream& stream, int first) {
    TilePlan& plan = shared.plans[first / TilePlan::kTiles % 2];
    const int tile = static_cast<int>(threadIdx.x) / TilePlan::kTileGranules;
    const int granule = static_cast<int>(threadIdx.x) % TilePlan::kTileGranules;
    const int at = (first + tile) * Traits::kTileKv + granule * 8;
    const KvRow row = stream.at(p, q, shared.window, at);
    const int padding = padding_code(stream);
    const bool is_padding = at >= stream.rows() && padding != 0;
    const int code = is_padding ? padding : row.code;
    const auto group = is_padding ? TilePlan::kNoGroup : static_cast<std::uint32_t>(row.row / 8);
    // Boxes hold whole groups of rows that all exist: the block must end before the valid keys do.
    const bool is_boxed =
        is_padding || (row.is_real && ((maps.mapped_codes >> row.code) & 1U) != 0 &&
                       (row.block + 1) * p.block_kv <= q.len_kv);
    const bool begins = (granule * 8 & (p.block_kv >> (code - 1)) - 1) == 0;
    const unsigned all_begins = __ballot_sync(0xFFFFFFFFU, begins);
    const unsigned all_boxed = __ballot_sync(0xFFFFFFFFU, is_boxed);
    constexpr unsigned kAll = (1U << TilePlan::kTileGranules) - 1U;
    const int shift = tile % 2 * TilePlan::kTileGranules;
    const bool is_all_boxed = ((all_boxed >> shift) & kAll) == kAll;
    plan.box[tile][granule] = static_cast<std::uint32_t>(code) << TilePlan::kGroupBits | group;
    if (granule == 0) plan.begins[tile] = is_all_boxed ? (all_begins >> shift) & kAll : 0;
    const int first_code = __shfl_sync(0xFFFFFFFFU, row.code, shift);
    const bool is_plain = !is_all_boxed && row.code == first_code &&
                          plan_rows(q, stream, at, row, place_of(granule), plan.rows[tile]);
    const unsigned all_plain = __ballot_sync(0xFFFFFFFFU, is_plain);
    if (granule == 0) plan.is_plain[tile] = ((all_plain >> shift) & kAll) == kAll;
  }

  /// Lists the rows of the granule at stream row `at`, whose first is `first`; false if one of them
  /// is not plain.
  __device__ bool plan_rows(const QueryBlock& q, const KvStream& stream, int at, const KvRow& first,
                            int place, TilePlan::Rows& rows) {
    if (!can_be_plain || !first.is_real) return false;
    if (Traits::kHasFirstOrder && first.code == semantics::kBlockMeanCode) return false;
    const int factor = static_cast<int>(semantics::pool_factor(first.code, p.block_kv));
    const bool is_one_piece = p.block_kv / factor >= 8;
    int row[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      row[i] = first.row + i;
      if (!is_one_piece) {
        const KvRow other = stream.at(p, q, shared.window, at + i);
        if (other.weight != factor) return false;
        row[i] = other.row;
      }
    }
    if ((row[7] + 1) * factor > q.len_kv) return false;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      rows[i][place] = static_cast<std::uint32_t>(source_row(p, q, first.code, row[i]));
    }
    return true;
  }

  __device__ Tile look_up(const QueryBlock& q, const KvStream& stream, int index) const {
    const TilePlan& plan = shared.plans[index / TilePlan::kTiles % 2];
    Tile tile{};
    tile.begins = plan.begins[index % TilePlan::kTiles];
    if (tile.begins != 0) {
      tile.box = plan.box[index % TilePlan::kTiles][lane % TilePlan::kTileGranules];
      return tile;
    }
    if (plan.is_plain[index % TilePlan::kTiles]) {
      tile.box = plan.box[index % TilePlan::kTiles][0];
      tile.rows = &plan.rows[index % TilePlan::kTiles];
      return tile;
    }
    tile.row = stream.at(p, q, shared.window, index * Traits::kTileKv + row_of_entry(lane));
    tile.address = {zero_row(), zero_row()};
    if (tile.row.is_real) tile.address = address_of(p, q, tile.row, kElementBytes);
    return tile;
  }

  /// What all notes of a tile say. One thread.
  __device__ void note_place(int item, bool is_last, int rest_granule) {
    shared.notes[note_slot].item = item;
    shared.notes[note_slot].is_last = is_last;
    if constexpr (Traits::kHasFirstOrder) shared.notes[note_slot].rest_granule = rest_granule;
  }

  /// Of the lane's box.
  static __device__ int code_of(const Tile& tile) {
    return static_cast<int>(tile.box >> TilePlan::kGroupBits);
  }

  /// Notes of a tile of boxes. One warp.
  __device__ void note_boxes(const QueryBlock& q, const Tile& tile) {
    Notes& notes = shared.notes[note_slot];
    const int code = code_of(tile);
    const std::uint32_t group = tile.box & TilePlan::kNoGroup;
    const bool is_padding = group == TilePlan::kNoGroup;
    const int log2_factor = log2_factor_of(code);
    if (lane < TilePlan::kTileGranules) notes.bias[lane] = static_cast<float>(log2_factor);
    const int first = is_padding ? 0 : static_cast<int>(group) * 8;
    const int last = ((first + 8) << log2_factor) - 1;
    const bool is_masked = is_padding || (p.is_causal && last > q.first_position);
    const bool any_masked = __any_sync(0xFFFFFFFFU, is_masked);
    if (lane < 4) notes.is_masked[lane] = any_masked;
    if (!any_masked) return;
    // Lane l notes half of granule l / 2.
    const int half_first = __shfl_sync(0xFFFFFFFFU, first, lane / 2) + lane % 2 * 4;
    const int half_log2 = __shfl_sync(0xFFFFFFFFU, log2_factor, lane / 2);
    const bool is_half_padding = __shfl_sync(0xFFFFFFFFU, is_padding, lane / 2);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      notes.last[lane * 4 + i] = ((half_first + i + 1) << half_log2) - 1;
      notes.adjust[lane * 4 + i] = is_half_padding ? -INFINITY : 0.0F;
    }
  }

  /// Notes of a plain tile. One warp.
  __device__ void note_plain(int code) {
    Notes& notes = shared.notes[note_slot];
    if (lane < TilePlan::kTileGranules) notes.bias[lane] = static_cast<float>(log2_factor_of(code));
    if (lane < 4) notes.is_masked[lane] = 0;
  }

  __device__ int log2_factor_of(int code) const {
    return 31 - __clz(static_cast<int>(semantics::pool_factor(code, p.block_kv)));
  }

  /// Notes of a tile that is copied row by row. All warps.
  __device__ void note_rows(const QueryBlock& q, const KvRow& row) {
    Notes& notes = shared.notes[note_slot];
    const int index = row_of_entry(lane);
    const int log2_factor = log2_factor_of(row.code);
    const auto bias = static_cast<float>(log2_factor);
    float adjust = 0.0F;
    if (!row.is_real) {
      adjust = -INFINITY;
    } else {
      const float more = log2_weight(row.weight) - bias + log2_rest_mass(p, q, row);
      if (more != 0.0F) adjust = more / p.scale_log2;
    }
    if (index % 8 == 0) notes.bias[index / 8] = bias;
    notes.last[index] = row.last;
    notes.adjust[index] = adjust;
    const bool is_masked = adjust != 0.0F || (p.is_causal && row.last > q.first_position);
    const bool any_masked = __any_sync(0xFFFFFFFFU, is_masked);
    if (lane == 0) notes.is_masked[warp] = any_masked;
  }

  // All warps wait for every slot: one that ran ahead of a slot by two rounds would take its parity
  // for that of the round before.

  __device__ void load_keys(const QueryBlock& q, const Tile& tile, int item, bool is_last,
                            int rest_granule) {
    wait(&shared.k_empty[k_ring.slot], k_ring.parity ^ 1U);
    Barrier* full = &shared.k_full[k_ring.slot];
    if (threadIdx.x == 0) note_place(item, is_last, rest_granule);
    if (tile.rows != nullptr) {
      const KvSource source = source_of(p, q, code_of(tile), kElementBytes);
      if (warp == kKeyWarp) note_plain(code_of(tile));
      copy_plain(shared.k[k_ring.slot], *tile.rows, source.k, source.k_stride);
      finish_rows(full);
    } else if (tile.begins == 0) {
      note_rows(q, tile.row);
      copy_rows(shared.k[k_ring.slot], tile.address.k);
      finish_rows(full);
    } else if (warp == kKeyWarp) {
      note_boxes(q, tile);
      copy_boxes(shared.k[k_ring.slot], tile, maps.k, maps.k_head, q, full);
      arrive(full);  // each lane for its own notes
      finish_boxes(full, kFillers - 32);
    }
    advance_keys();
  }

  __device__ void advance_keys() {
    k_ring.advance();
    note_slot = note_slot + 1 == Storage::kNoteSlots ? 0 : note_slot + 1;
  }

  /// The query block's map (first_order.hpp) as the last tile of its keys; it has no values.
  __device__ void load_map(const QueryBlock& q, int item) {
    wait(&shared.k_empty[k_ring.slot], k_ring.parity ^ 1U);
    if (threadIdx.x == 0) {
      note_place(item, /*is_last=*/true, 0);
      shared.notes[note_slot].map_factor = p.map_factor[first_order_block_of(p, q)];
    }
    const int row = row_of_entry(lane);
    copy_rows(shared.k[k_ring.slot],
              row < p.head_dim ? first_order_row(p, q, row, kElementBytes) : zero_row());
    finish_rows(&shared.k_full[k_ring.slot]);
    advance_keys();
  }

  __device__ void load_values(const QueryBlock& q, const Tile& tile) {
    wait(&shared.v_empty[v_ring.slot], v_ring.parity ^ 1U);
    Barrier* full = &shared.v_full[v_ring.slot];
    if (tile.rows != nullptr) {
      const KvSource source = source_of(p, q, code_of(tile), kElementBytes);
      copy_plain(shared.v[v_ring.slot], *tile.rows, source.v, source.v_stride);
      finish_rows(full);
    } else if (tile.begins == 0) {
      copy_rows(shared.v[v_ring.slot], tile.address.v);
      finish_rows(full);
    } else if (warp == kValueWarp) {
      copy_boxes(shared.v[v_ring.slot], tile, maps.v, maps.v_head, q, full);
      finish_boxes(full, kFillers);
    }
    v_ring.advance();
  }

  /// A slot is full once its boxes' bytes have arrived and the notes are written. One warp, for all
  /// fillers that have not arrived.
  __device__ void finish_boxes(Barrier* full, int fillers) const {
    if (elect_one()) arrive(full, fillers);
  }

  /// ... or once every thread's copies have landed and each warp's notes are written. All warps.
  __device__ void finish_rows(Barrier* full) const {
    arrive_after_copies(full);
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
  /// look-ups ahead of keys, so that their latency passes while slots are awaited.
  __device__ void load_window(const QueryBlock& q, int item, bool is_last_window) {
    const KvStream stream(p, shared.window);
    // A query block has at least one tile, if only of padding, to carry its notes.
    const int rows = max(stream.rows(), is_last_window ? 1 : 0);
    const int tiles = (rows + Traits::kTileKv - 1) / Traits::kTileKv;
    Tile before{};
    for (int index = 0; index < tiles; ++index) {
      if (index % TilePlan::kTiles == 0) {
        plan_tiles(q, stream, index);
        sync_named(kProducerBarrier, kWarpgroup);  // also: all have read the plan before the last
      }
      const Tile tile = look_up(q, stream, index);
      const bool is_last = is_last_window && index + 1 == tiles;
      load_keys(q, tile, item, is_last && !Traits::kHasFirstOrder, rest_granule(stream, index));
      if (index > 0) load_values(q, before);
      before = tile;
    }
    if (Traits::kHasFirstOrder && is_last_window) load_map(q, item);
    if (tiles > 0) load_values(q, before);
  }

  /// First granule of a tile that block means stand in; may lie before or behind the tile.
  __device__ int rest_granule(const KvStream& stream, int tile) const {
    return (stream.begin[semantics::kBlockMeanCode] - tile * Traits::kTileKv) / 8;
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
    finish_rows(&shared.k_full[k_ring.slot]);
  }
};

}  // namespace psa::cuda::sm90
