// SPDX-License-Identifier: Apache-2.0
#pragma once

// pooled_lse (S-12) where pooled keys come as boxes (sm_90a). kernel.cuh says what probes, items
// and the slab are. A CTA takes an item of 64 rows, which meet the columns a tile of 128 at a time.
//
//   warps 0..7    consumers: two warpgroups take tiles in turns, so that one multiplies while the
//                 other reduces what it has multiplied to pieces in the slab and sums up its rows
//   warp 8        producer: starts the boxes of all tiles, one after the other, as slots empty
//   warps 9..15   makers: the means of item n + 1 while the consumers work on n; then the
//                 importance of item n - 1
//
// So the means and the importance of an item hide behind products, and no barrier holds the whole
// CTA. There are two buffers of rows and slabs; item n has those of n % 2.
//
// Bound, at 12 heads of 75,600 tokens (Wan 720p) in bf16: the tensor cores take 1536 cycles for a
// tile of three terms, .22 ms in all. It takes .39: a warpgroup multiplies for two fifths of the
// time, reduces for another three, and waits for makers and columns for the rest.
//
// Barriers:
//
//   arrived   of a slot: the producer's arrival and the bytes of a tile
//   emptied   of a slot: 4 arrivals, of the warps of the warpgroup that had the tile
//   made      of a buffer, by all makers: rows and their lists are there
//   stored    of a buffer, by all consumers: pieces and sums are there, rows are read
//   finished  of a buffer, by all makers: pieces and sums are read
//
// A row's bits do not depend on who is in its item: its tiles have fixed warpgroups, and hiding a
// column leaves the others alone.

#include <cstdint>

#include "cuda/device/barrier.cuh"
#include "cuda/device/wgmma.cuh"
#include "cuda/importance/operands.cuh"
#include "cuda/importance/params.cuh"
#include "cuda/importance/pieces.cuh"
#include "cuda/importance/probes.cuh"
#include "cuda/importance/shares_sm90.cuh"

namespace psa::cuda::estimation::means {

inline constexpr int kRows = tile_size(Shape::kMeans).rows;
static_assert(kRows == kWarpgroupRows);
inline constexpr int kBuffers = kMeansSlabs;
inline constexpr int kMostSlots = 4;

inline constexpr int kGroups = 2;  // of consumers
inline constexpr int kConsumers = kGroups * kWarpgroupThreads;
inline constexpr int kGroupWarps = kWarpgroupThreads / 32;
inline constexpr int kProducer = kConsumers / 32;  // warp
inline constexpr int kFirstMaker = kProducer + 1;
inline constexpr int kMakerWarps = 7;
inline constexpr int kMakers = kMakerWarps * 32;
inline constexpr int kThreads = (kFirstMaker + kMakerWarps) * 32;
inline constexpr int kConsumerRegisters = 160;
inline constexpr int kOtherRegisters = 96;
inline constexpr int kMakersBarrier = 1;
inline constexpr int kLoads = 16;  // of a maker's thread, under way at a time: a row's tokens

inline constexpr int kBoxBytes = kTileColumns * kRowBytes;  // of a chunk of columns

/// Of an item.
struct RowLists {
  ProbeRow rows[kRows];
  float scale_log2[kRows];  // what products are multiplied by
  int seen[kRows];          // columns that each row sees, from the first one on
  RowSum sums[kGroups][kRows];
  float references[kRows];  // what the pieces of each row are related to
};

/// What lies before the operands in shared memory.
struct alignas(kOperandAlignment) Lists {
  RowLists of[kBuffers];
  Barrier arrived[kMostSlots];
  Barrier emptied[kMostSlots];
  Barrier made[kBuffers];
  Barrier stored[kBuffers];
  Barrier finished[kBuffers];
};

struct Work {
  const Params& p;
  Lists& lists;
  std::uint32_t means;  // [kBuffers][kTerms, chunks, kRows, 64]
  int means_bytes;      // of a buffer
  std::uint32_t ring;   // [stages][chunks, 128, 64]
  float* slab;          // [kBuffers][kRows, slab_width]

  [[nodiscard]] __device__ std::uint32_t means_of(int buffer) const {
    return means + static_cast<std::uint32_t>(buffer * means_bytes);
  }
  [[nodiscard]] __device__ std::uint32_t columns(int slot) const {
    return ring + static_cast<std::uint32_t>(slot * p.chunks * kBoxBytes);
  }
  [[nodiscard]] __device__ float* slab_of(int buffer) const {
    return slab + static_cast<index_t>(buffer * kRows) * p.slab_width;
  }
};

/// The CTA's items, one after the other.
struct Items {
  const Params& p;

  [[nodiscard]] __device__ bool has(index_t round) const { return index(round) < p.items; }
  [[nodiscard]] __device__ Item at(index_t round) const { return item_at(p, index(round)); }

 private:
  [[nodiscard]] __device__ static index_t index(index_t round) {
    return item_index(round, blockIdx.x, gridDim.x);
  }
};

/// Parity of a barrier of item `round`'s buffer.
__device__ inline std::uint32_t parity_of(index_t round) {
  return static_cast<std::uint32_t>(round / kBuffers) & 1U;
}

// ---- producer -----------------------------------------------------------------------------------

/// One warp.
__device__ inline void produce(const Work& w) {
  const Params& p = w.p;
  const Items items{p};
  RingPlace at;
  for (index_t round = 0; items.has(round); ++round) {
    const Item item = items.at(round);
    for (int tile = 0; tile < item.tiles; ++tile) {
      wait(&w.lists.emptied[at.slot], at.parity ^ 1U);
      if (elect_one()) {
        Barrier* arrived = &w.lists.arrived[at.slot];
        expect_bytes(arrived, static_cast<std::uint32_t>(p.chunks * kBoxBytes));
        arrive(arrived);
        for (int chunk = 0; chunk < p.chunks; ++chunk) {
          p.boxes.columns.copy(w.columns(at.slot) + chunk * kBoxBytes, chunk * kChunkChannels, 0,
                               tile * kTileColumns, item.head_kv, item.batch, arrived);
        }
      }
      at.advance(p.stages);
    }
  }
}

// ---- consumers ----------------------------------------------------------------------------------

/// Products of an item's rows and a tile's columns.
template <typename Element>
class Products : public WarpgroupProducts<kTileColumns> {
  using WarpgroupProducts<kTileColumns>::c_;

 public:
  /// Of the item's, which each warpgroup has all of.
  [[nodiscard]] __device__ static int lane_row(int eighth) {
    return WarpgroupProducts<kTileColumns>::lane_row(warp_id() % kGroupWarps, eighth);
  }

  /// rows [kTerms, chunks, kRows, 64], columns [chunks, 128, 64].
  __device__ __forceinline__ void multiply(std::uint32_t rows, std::uint32_t columns, int chunks) {
    const Operand left = operand(rows, 16, kOperandAlignment);
    const Operand right = operand(columns, 16, kOperandAlignment);
    const int term_bytes = chunks * kRows * kRowBytes;
    begin_products();
    multiply_chunk(left, term_bytes, right, true);
    if (chunks > 1) {
      multiply_chunk(left.at(kRows * kRowBytes), term_bytes, right.at(kBoxBytes), false);
    }
    commit_products();
    wait_products<0>();
    pin(c_);
  }

 private:
  __device__ __forceinline__ void multiply_chunk(Operand rows, int term_bytes, Operand columns,
                                                 bool is_first) {
#pragma unroll
    for (int term = 0; term < Split<Element>::kTerms; ++term) {
#pragma unroll
      for (int step = 0; step < kChunkChannels / 16; ++step) {
        Wgmma<Element, kTileColumns>::shared_times_shared(
            c_, rows.at(term * term_bytes + step * 32), columns.at(step * 32),
            !is_first || term + step > 0);
      }
    }
  }
};

/// The last column of an item's keys if it stands for fewer tokens than the others.
struct ShortColumn {
  int column;  // -1: there is none
  float bias_log2;

  __device__ ShortColumn(const Params& p, const Item& item) : column(-1), bias_log2(0.0F) {
    const int tokens = item.key_count % p.group_tokens;
    if (tokens == 0) return;
    column = item.key_count / p.group_tokens;
    bias_log2 = p.bias_log2[tokens] - p.bias_log2[p.group_tokens];
  }
};

/// Selects -inf where a row does not see a column, so that what the column holds does not matter,
/// and adds the bias of the last column, in units of products. Others keep their bits, whoever else
/// is in the item.
template <typename Element>
__device__ __forceinline__ void hide_columns(const RowLists& rows, const ShortColumn& last,
                                             int tile, Products<Element>& products) {
  using Of = Products<Element>;
#pragma unroll
  for (int eighth = 0; eighth < Of::kEighths; ++eighth) {
    const int row = Of::lane_row(eighth);
    const int seen = rows.seen[row] - tile * kTileColumns;
    const int column_of_bias = last.column - tile * kTileColumns;
    const float bias = last.bias_log2 / rows.scale_log2[row];
#pragma unroll
    for (int strip = 0; strip < Of::kStrips; ++strip) {
#pragma unroll
      for (int i = 0; i < kLaneColumns; ++i) {
        const int column = Of::lane_column(strip, i);
        float& product = products.at(strip, eighth, i);
        if (column == column_of_bias) product += bias;
        if (column >= seen) product = -INFINITY;
      }
    }
  }
}

/// Tiles of an item, of which every other one is the warpgroup's. `at` goes on from item to item.
template <int kLog2Piece, typename Element>
__device__ __forceinline__ void consume_item(const Work& w, const Item& item, index_t round,
                                             int group, RingPlace& at) {
  using Of = Products<Element>;
  const auto buffer = static_cast<int>(round % kBuffers);
  RowLists& rows = w.lists.of[buffer];
  wait(&w.lists.made[buffer], parity_of(round));
  const SeenRange seen = seen_range(rows.seen);
  const ShortColumn last(w.p, item);
  const float scale_log2[2] = {rows.scale_log2[Of::lane_row(0)], rows.scale_log2[Of::lane_row(1)]};
  float* row_pieces = w.slab_of(buffer) + static_cast<index_t>(Of::lane_row(0)) * w.p.slab_width;
  const index_t to_other_row = index_t{8} * w.p.slab_width;
  RowSum totals[2];
  bool may_store = false;
  for (int tile = 0; tile < item.tiles; ++tile) {
    if (tile % kGroups == group) {
      wait(&w.lists.arrived[at.slot], at.parity);
      Of products;
      products.multiply(w.means_of(buffer), w.columns(at.slot), w.p.chunks);
      if (lane_id() == 0) arrive(&w.lists.emptied[at.slot]);
      const int end = (tile + 1) * kTileColumns;
      if (seen.fewest < end || (last.column >= 0 && last.column < end)) {
        hide_columns(rows, last, tile, products);
      }
      if (!may_store) wait(&w.lists.finished[buffer], parity_of(round) ^ 1U);
      may_store = true;
      float* pieces = row_pieces + (tile * kTileColumns >> kLog2Piece);
      reduce_rows<kLog2Piece, 2>(scale_log2, products, 0, Of::kStrips,
                                 {pieces, pieces + to_other_row}, totals);
    }
    at.advance(w.p.stages);
  }
  if (!may_store) wait(&w.lists.finished[buffer], parity_of(round) ^ 1U);
#pragma unroll
  for (int eighth = 0; eighth < 2; ++eighth) {
    totals[eighth].combine_lanes();
    if (lane_id() % 4 == 0) rows.sums[group][Of::lane_row(eighth)] = totals[eighth];
  }
  arrive(&w.lists.stored[buffer]);
}

template <int kLog2Piece, typename Element>
__device__ __forceinline__ void consume(const Work& w) {
  const int group = __shfl_sync(0xFFFFFFFFU, warp_id() / kGroupWarps, 0);  // a uniform register
  const Items items{w.p};
  RingPlace at;
  for (index_t round = 0; items.has(round); ++round) {
    consume_item<kLog2Piece, Element>(w, items.at(round), round, group, at);
  }
}

template <typename Element>
__device__ __forceinline__ void consume(const Work& w) {
  switch (w.p.log2_columns) {
    case 0:
      return consume<0, Element>(w);
    case 1:
      return consume<1, Element>(w);
    case 2:
      return consume<2, Element>(w);
    case 3:
      return consume<3, Element>(w);
    default:
      return consume<4, Element>(w);
  }
}

// ---- makers -------------------------------------------------------------------------------------

/// Columns that a row of the item sees.
__device__ inline int seen_columns(const Params& p, const Item& item, const ProbeRow& row) {
  if (!row.exists()) return 0;
  return semantics::visible_sub_blocks(p.is_causal, item.key_count, p.group_tokens, row.position);
}

template <typename Element>
__device__ inline void make_rows(const Work& w, const Item& item, int buffer) {
  const int thread = static_cast<int>(threadIdx.x) - kFirstMaker * 32;
  RowLists& rows = w.lists.of[buffer];
  if (thread < kRows) {
    const ProbeRow row = row_at(w.p, item, thread);
    rows.rows[thread] = row;
    rows.seen[thread] = seen_columns(w.p, item, row);
  }
  sync_named(kMakersBarrier, kMakers);
  store_means<Element, kRows, kMakers, kLoads, /*kIsAligned=*/true>(
      w.p, rows.rows, w.p.q.head(item.batch, item.head_q), thread, w.means_of(buffer),
      rows.scale_log2);
  fence_async_proxy();
  arrive(&w.lists.made[buffer]);
}

__device__ inline void finish_item(const Work& w, const Item& item, int buffer) {
  const int thread = static_cast<int>(threadIdx.x) - kFirstMaker * 32;
  RowLists& rows = w.lists.of[buffer];
  if (thread < kRows) {
    RowSum sum = rows.sums[0][thread];
    sum.add(rows.sums[1][thread].largest, rows.sums[1][thread].sum);
    rows.references[thread] = sum.reference();
  }
  sync_named(kMakersBarrier, kMakers);
  finish_blocks(w.p, {w.slab_of(buffer), rows.references}, item, warp_id() - kFirstMaker,
                kMakerWarps);
  arrive(&w.lists.finished[buffer]);
}

template <typename Element>
__device__ inline void make(const Work& w) {
  const Items items{w.p};
  for (index_t round = 0; round < kBuffers || items.has(round - kBuffers); ++round) {
    const auto buffer = static_cast<int>(round % kBuffers);
    const bool follows = round >= kBuffers;
    if (follows) wait(&w.lists.stored[buffer], parity_of(round - kBuffers));
    if (items.has(round)) make_rows<Element>(w, items.at(round), buffer);
    if (follows) finish_item(w, items.at(round - kBuffers), buffer);
  }
}

// ---- kernel -------------------------------------------------------------------------------------

template <typename Element>
[[nodiscard]] constexpr int means_bytes(int chunks) {
  return Split<Element>::kTerms * chunks * kRows * kRowBytes;
}

template <typename Element>
[[nodiscard]] constexpr int shared_bytes(int chunks, int stages) {
  return static_cast<int>(sizeof(Lists)) + kBuffers * means_bytes<Element>(chunks) +
         stages * chunks * kBoxBytes;
}

template <typename Element>
__global__ void __launch_bounds__(kThreads, 1) means_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(kOperandAlignment) std::byte shared[];
  const std::uint32_t operands = shared_address(shared) + static_cast<std::uint32_t>(sizeof(Lists));
  const int buffer_bytes = means_bytes<Element>(p.chunks);
  const Work work{
      .p = p,
      .lists = *reinterpret_cast<Lists*>(shared),
      .means = operands,
      .means_bytes = buffer_bytes,
      .ring = operands + static_cast<std::uint32_t>(kBuffers * buffer_bytes),
      .slab = p.slab + static_cast<index_t>(blockIdx.x) * kBuffers * kRows * p.slab_width};
  if (threadIdx.x < kMostSlots) {
    init_barrier(&work.lists.arrived[threadIdx.x], 1);
    init_barrier(&work.lists.emptied[threadIdx.x], kGroupWarps);
  }
  if (threadIdx.x < kBuffers) {
    init_barrier(&work.lists.made[threadIdx.x], kMakers);
    init_barrier(&work.lists.stored[threadIdx.x], kConsumers);
    init_barrier(&work.lists.finished[threadIdx.x], kMakers);
  }
  publish_barriers();
  __syncthreads();
  if (threadIdx.x < kConsumers) {
    take_registers<kConsumerRegisters>();
    consume<Element>(work);
  } else {
    give_up_registers<kOtherRegisters>();
    if (warp_id() == kProducer) {
      produce(work);
    } else {
      make<Element>(work);
    }
  }
}

}  // namespace psa::cuda::estimation::means
