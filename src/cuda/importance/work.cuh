// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the kernel of kernel.cuh is made for and works on: a variant, its shared memory, the lists
// of an item's rows and of its tiles' columns, and the copies of their chunks.

#include <cstdint>

#include "cuda/device/barrier.cuh"
#include "cuda/device/copy.cuh"
#include "cuda/importance/boxes.cuh"
#include "cuda/importance/operands.cuh"
#include "cuda/importance/params.cuh"
#include "cuda/importance/pieces.cuh"
#include "cuda/importance/probes.cuh"

namespace psa::cuda::estimation {

/// What a Multiplier::Products<Element, kShape> has: one tile's dot products, unscaled, of which a
/// lane holds parts of rows. 8 rows ("eighth") and 64 columns ("half") of them are reduced at a
/// time.
///
///   kThreads, kHalves, kEighths
///   kGroupCtas             CTAs that share an item, as a cluster if more than one
///   kBoxes                 whether chunks come as boxes (then streamed rows go to stream_sm90.cuh,
///                          and means to means_sm90.cuh)
///   kHeldChunks            slots of the ring that are still read when a chunk has been multiplied
///   lane_row(eighth)       the lane's row; first_column(half)
///   at(half, eighth, i)    product with column 8·(i / 2) + 2·(lane % 4) + i % 2 of the half
///   publish_operands()     by each thread before the barrier behind which operands are multiplied
///   feeds_first()          whether this warp copies before it multiplies
///   multiply(operands, begins_tile)   products += rows · columnsᵀ, or = if a tile begins
///   await_earlier()        waits for all chunks but the last
///   await_all()            before products are read
template <typename ElementType, Shape kShapeValue, Reduction kReductionValue, typename Multiplier>
struct Variant {
  using Element = ElementType;
  using Products = typename Multiplier::template Products<Element, kShapeValue>;
  static constexpr Reduction kReduction = kReductionValue;
  static constexpr bool kTakesMeans = takes_means(kShapeValue);
  static constexpr bool kStays = rows_stay(kShapeValue);
  static constexpr int kTerms = kRowTerms<Element, kShapeValue>;
  static constexpr int kRows = tile_size(kShapeValue).rows;
  static constexpr int kThreads = Products::kThreads;
  static constexpr int kCtasPerSm = tile_size(kShapeValue).ctas_per_sm;
  static constexpr int kGroupCtas = Products::kGroupCtas;
  static_assert(kThreads >= kTileColumns && kThreads >= kRows);
};

/// What lies before the operands in shared memory.
template <typename V>
struct alignas(kOperandAlignment) Lists {
  Item item;
  KvHead<Bits> q;
  KvHead<Bits> k;
  const Bits* row_data[2][V::kRows];         // first channels, of part n: [n % 2]
  const Bits* column_data[2][kTileColumns];  // the same
  ColumnRule rules[2][kTileColumns];         // of the CTA's tile n: [n % 2]
  ProbeRow rows[V::kRows];
  float row_scale_log2[V::kRows];  // kTakesMeans: what products are multiplied by
  float row_references[V::kRows];
  Barrier arrived[kMostStages];  // of the chunk in each slot, where chunks come as boxes
};

template <typename V>
struct SharedLayout {
  static constexpr int kColumnBytes = kTileColumns * kRowBytes;  // of a chunk
  static constexpr int kRowChunkBytes = V::kRows * kRowBytes;
  static constexpr int kStageBytes = kColumnBytes + (V::kStays ? 0 : kRowChunkBytes);
  static_assert(kColumnBytes % kOperandAlignment == 0 && kRowChunkBytes % kOperandAlignment == 0);

  /// Rows that stay.
  [[nodiscard]] static constexpr int resident_bytes(int chunks) {
    return V::kStays ? V::kTerms * chunks * kRowChunkBytes : 0;
  }
  [[nodiscard]] static constexpr int bytes(int chunks, int stages) {
    return static_cast<int>(sizeof(Lists<V>)) + resident_bytes(chunks) + stages * kStageBytes;
  }
};

/// Where a CTA works. Its item is in shared memory: registers are for products.
template <typename V>
struct Work {
  const Params& p;
  Lists<V>& lists;
  std::uint32_t resident;  // [kTerms, chunks, kRows, 64]
  std::uint32_t ring;      // [stages]: columns [128, 64], then rows that do not stay [kRows, 64]
  float* slab;             // [kRows, slab_width], the group's
  int rank;                // in the group
  std::uint32_t phases;    // bit s: parity of the box that slot s waits for

  /// The CTA's tile n, and how many it has.
  [[nodiscard]] __device__ int tile_at(int n) const { return n * V::kGroupCtas + rank; }
  [[nodiscard]] __device__ int tiles() const {
    return (lists.item.tiles - rank + V::kGroupCtas - 1) / V::kGroupCtas;
  }
  [[nodiscard]] __device__ std::uint32_t stage(int slot) const {
    return ring + static_cast<std::uint32_t>(slot * SharedLayout<V>::kStageBytes);
  }
};

template <typename V>
__device__ inline bool takes_boxes(const Params& p) {
  return V::Products::kBoxes == Boxes::kAlways ||
         (V::Products::kBoxes == Boxes::kWhereInUse && p.boxes.in_use);
}

/// Place of a chunk in the sweep over the CTA's tiles.
struct Cursor {
  int tile = 0;  // tile_at()
  int part = 0;
  int chunk = 0;
  int slot = 0;  // of the ring

  [[nodiscard]] __device__ bool begins_part() const { return chunk == 0; }
  /// Of the lists of the chunk's part.
  [[nodiscard]] __device__ int side(const Params& p) const { return (tile * p.parts + part) % 2; }
  __device__ void advance(const Params& p) {
    slot = slot + 1 == p.stages ? 0 : slot + 1;
    if (++chunk < p.chunks) return;
    chunk = 0;
    if (++part < p.parts) return;
    part = 0;
    ++tile;
  }
};

// ---- lists --------------------------------------------------------------------------------------

/// One thread's entries of the lists of a part. Found a chunk ahead, and as addresses, so that a
/// copy costs little more than its own instruction.
struct PartData {
  const Bits* row = nullptr;
  const Bits* column = nullptr;
};

template <typename V>
__device__ inline PartData find_data(const Work<V>& w, const Cursor& at) {
  const auto thread = static_cast<int>(threadIdx.x);
  PartData data;
  if (thread < kTileColumns) {
    const int column = w.tile_at(at.tile) * kTileColumns + thread;
    data.column =
        token_data(w.lists.k, column_token(w.p, w.lists.k, w.lists.item, column, at.part));
  }
  if constexpr (!V::kStays) {
    if (thread < V::kRows) {
      data.row = token_data(w.lists.q, row_token(w.p, w.lists.q, w.lists.rows[thread], at.part));
    }
  }
  return data;
}

template <typename V>
__device__ inline void list_data(const Work<V>& w, int side, const PartData& data) {
  const auto thread = static_cast<int>(threadIdx.x);
  if (thread < kTileColumns) w.lists.column_data[side][thread] = data.column;
  if constexpr (!V::kStays) {
    if (thread < V::kRows) w.lists.row_data[side][thread] = data.row;
  }
}

/// Lists the rules of the CTA's tile n. Whether this thread's column may be hidden from some row.
template <typename V>
__device__ inline bool list_rules(const Work<V>& w, int n) {
  const auto thread = static_cast<int>(threadIdx.x);
  if (thread >= kTileColumns) return false;
  const ColumnRule rule = column_rule(w.p, w.lists.item, w.tile_at(n) * kTileColumns + thread);
  w.lists.rules[n % 2][thread] = rule;
  return rule.hides_from(w.p.is_causal, w.lists.item.first_position);
}

/// The same where the rules differ from those that the list has: both lists have been written, and
/// tiles before `alike` have the same rules.
template <typename V>
__device__ inline bool renew_rules(const Work<V>& w, int n, int alike) {
  return (n < 2 || w.tile_at(n) >= alike) && list_rules(w, n);
}

/// Lists the item's rows.
template <typename V>
__device__ inline void list_rows(const Work<V>& w) {
  const auto thread = static_cast<int>(threadIdx.x);
  if (thread >= V::kRows) return;
  const ProbeRow row = row_at(w.p, w.lists.item, thread);
  w.lists.rows[thread] = row;
  if constexpr (V::kStays && !V::kTakesMeans) {
    w.lists.row_data[0][thread] = token_data(w.lists.q, row_token(w.p, w.lists.q, row, 0));
  }
}

/// Fetches the rows that stay; their copies join the ring's first chunk.
template <typename V>
__device__ inline void fetch_rows(const Work<V>& w) {
  if constexpr (V::kTakesMeans) {
    store_means<typename V::Element, V::kRows, V::kThreads, /*kLoads=*/8, /*kIsAligned=*/false>(
        w.p, w.lists.rows, w.lists.q, static_cast<int>(threadIdx.x), w.resident,
        w.lists.row_scale_log2);
  } else if constexpr (V::kStays) {
    for (int chunk = 0; chunk < w.p.chunks; ++chunk) {
      copy_rows<V::kRows, V::kThreads>(
          w.p, w.lists.row_data[0], chunk * kChunkChannels,
          w.resident + static_cast<std::uint32_t>(chunk * SharedLayout<V>::kRowChunkBytes));
    }
  }
}

/// Rows that are streamed never come this way: launch_variant() has stream_kernel take them. The
/// path stays because without it the registers of kStreamed's row by row path spill.
template <typename V>
__device__ inline void copy_boxes(const Work<V>& w, const Cursor& at) {
  const Params& p = w.p;
  const Item& item = w.lists.item;
  const int channel = at.chunk * kChunkChannels;
  // Sampled keys lie by head of the launch.
  const bool is_sampled = V::kStays && !V::kTakesMeans;
  const int head = is_sampled ? (item.head - p.first_head) / p.heads_per_kv : item.head_kv;
  const int batch = is_sampled ? 0 : item.batch;
  Barrier* arrived = &w.lists.arrived[at.slot];
  expect_bytes(arrived, static_cast<std::uint32_t>(SharedLayout<V>::kStageBytes));
  arrive(arrived);
  p.boxes.columns.copy(w.stage(at.slot), channel, at.part, w.tile_at(at.tile) * kTileColumns, head,
                       batch, arrived);
  if constexpr (!V::kStays) {
    const auto token = static_cast<int>(semantics::antidiagonal_query_offset(at.part, p.parts));
    p.boxes.rows.copy(w.stage(at.slot) + SharedLayout<V>::kColumnBytes, channel, token,
                      item.first_block * p.rows_per_block, item.head_q, item.batch, arrived);
  }
}

template <typename V>
__device__ inline void copy_chunk(const Work<V>& w, const Cursor& at) {
  if (takes_boxes<V>(w.p)) {
    if (warp_id() == 0 && elect_one()) copy_boxes(w, at);
    return;
  }
  const int side = at.side(w.p);
  const int channel = at.chunk * kChunkChannels;
  copy_rows<kTileColumns, V::kThreads>(w.p, w.lists.column_data[side], channel, w.stage(at.slot));
  if constexpr (!V::kStays) {
    copy_rows<V::kRows, V::kThreads>(w.p, w.lists.row_data[side], channel,
                                     w.stage(at.slot) + SharedLayout<V>::kColumnBytes);
  }
}

}  // namespace psa::cuda::estimation
