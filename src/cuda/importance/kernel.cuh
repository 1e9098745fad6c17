// SPDX-License-Identifier: Apache-2.0
#pragma once

// The kernel that estimates importance (S-9 to S-12): all estimators compare probe rows of q with
// probe columns of k (probes.cuh), reduce the logits to one number per row and KV block
// (pieces.cuh), and those to the importance of a block.
//
// CTAs are persistent. One takes an item at a time: query blocks of one head, as many as fill its
// tile of rows, which meets tiles of 128 columns one after the other:
//
//   item    rows ──► for each tile of columns: products ──► pieces to the slab
//           barrier ──► each warp: references of its rows, from the slab
//           barrier ──► each warp: importance of its KV blocks, from the slab
//
// A group of CTAs shares items: its CTAs take tiles of columns in turns, and in the end query
// blocks. Elsewhere a group is one CTA; on sm_90 it is a cluster where slabs are large
// (sm90_group_ctas()), and where rows are streamed, so that all but one of its CTAs find them in
// L2, or get them from each other (stream_sm90.cuh). Without, 132 CTAs stream 132 MB of rows at a
// time, and DRAM was the bound.
//
// A tile is `parts` x `chunks` pieces of 64 channels. Chunks pass through a ring of stages in
// shared memory; all warps multiply. What they multiply with is a class of its own:
//
//   MultiplierSm80  mma.sync (multiply_sm80.cuh): products are there when multiply() returns
//   MultiplierSm90  wgmma (multiply_sm90.cuh): they come while the warps go on to the next chunk
//
// Where the probes follow each other in memory, as copies of sampled keys do, sm_90 copies a
// chunk's columns as a box (boxes.cuh): one thread starts it and a barrier tells of its end.
// Otherwise all threads copy row by row. Two estimators have kernels of their own there, whose
// warps have a task each: stream_sm90.cuh, where rows are streamed as boxes, too, and
// means_sm90.cuh. What follows is the one of this file.
//
// Chunk n, with s stages of which the products hold h (1 or 2: those of chunk n, and of n - 1):
//
//   wait for chunk n · barrier (nobody reads chunk n - h any more)
//   multiply chunk n
//   feed: start the copy of chunk n + s - h over chunk n - h; find the rows of the next chunk, if
//         it begins a part
//   wait for the products of chunk n - 1; list those rows
//
// and after the last chunk of a tile: wait for its products, list the rules of the next tile, hide
// columns, reduce, store pieces. Where rows stay and all columns come as boxes (kTokens on sm_90),
// slots hold whole tiles and a tile takes one barrier: sweep_boxes().
//
// Shapes, for both multipliers:
//   kTokens         128 rows, 2 CTAs per SM: one multiplies while the other reduces
//   kMeans          64 rows: an element of q is a sum of 2 or 3 (operands.cuh); 2 CTAs per SM. On
//                   sm_90 only where means_sm90.cuh cannot take it
//   kWideMeans      32 rows, for what fits in the same memory with D > 128
//   kStreamed       256 rows, 1 CTA per SM. Rows too long to stay (antidiagonal: t·D) are copied
//                   again for every tile, by each CTA of a group; 256 x 128 reads 48 KB per
//                   chunk, 5.6 GB from L2 for 28 heads of 32,768 tokens at t = 8, where 128 x 128
//                   would read 7.5, and stream_sm90.cuh reads 3.7
//   kStreamedSmall  128 rows, where 2 stages of kStreamed do not fit
//
// Cost: 2·terms·D flops per logit, one exponential per logit (kLogSum). L2: 128 x 64 x 2 bytes per
// chunk for all rows of the CTA; slab 4 bytes per row and block, written once, read twice.
//
// Deterministic: an item is computed by one group, in a fixed order, whoever takes it.

#include <cstdint>

#include "cuda/device/barrier.cuh"
#include "cuda/device/cluster.cuh"
#include "cuda/device/copy.cuh"
#include "cuda/importance/operands.cuh"
#include "cuda/importance/params.cuh"
#include "cuda/importance/pieces.cuh"
#include "cuda/importance/probes.cuh"
#include "cuda/importance/work.cuh"

namespace psa::cuda::estimation {

// ---- products -----------------------------------------------------------------------------------

template <typename V>
__device__ inline ChunkOperands operands_of(const Work<V>& w, const Cursor& at) {
  const std::uint32_t columns = w.stage(at.slot);
  constexpr auto kChunkBytes = static_cast<std::uint32_t>(SharedLayout<V>::kRowChunkBytes);
  const std::uint32_t rows = V::kStays
                                 ? w.resident + static_cast<std::uint32_t>(at.chunk) * kChunkBytes
                                 : columns + SharedLayout<V>::kColumnBytes;
  return {rows, static_cast<std::uint32_t>(w.p.chunks) * kChunkBytes, columns};
}

/// Lane's column i of the 64 that are reduced together.
__device__ inline int lane_column(int i) { return 8 * (i / 2) + 2 * (lane_id() % 4) + i % 2; }

/// Selects -inf where a row does not see a column, so that what the column holds does not matter.
template <typename V>
__device__ __forceinline__ void hide_columns(const Work<V>& w, const ColumnRule* rules,
                                             typename V::Products& products) {
  using Products = typename V::Products;
  int position[Products::kEighths];
#pragma unroll
  for (int eighth = 0; eighth < Products::kEighths; ++eighth) {
    position[eighth] = w.lists.rows[Products::lane_row(eighth)].position;
  }
#pragma unroll
  for (int half = 0; half < Products::kHalves; ++half) {
#pragma unroll
    for (int i = 0; i < kLaneColumns; ++i) {
      const ColumnRule rule = rules[Products::first_column(half) + lane_column(i)];
#pragma unroll
      for (int eighth = 0; eighth < Products::kEighths; ++eighth) {
        float& product = products.at(half, eighth, i);
        if (rule.hides_from(w.p.is_causal, position[eighth])) product = -INFINITY;
      }
      asm volatile("" ::: "memory");  // all rules at once would take too many registers
    }
  }
}

/// Reduces 64 columns of a tile's products to pieces in the slab.
template <typename V, int kLog2Piece>
__device__ __forceinline__ void reduce_half(const Work<V>& w, int tile, int half,
                                            const ColumnRule* rules,
                                            typename V::Products& products) {
  using Products = typename V::Products;
  const int first_column = Products::first_column(half);
  [[maybe_unused]] float bias[kLaneColumns];
  if constexpr (V::kReduction == Reduction::kLogSum) {
#pragma unroll
    for (int i = 0; i < kLaneColumns; ++i) {
      bias[i] = rules[first_column + lane_column(i)].bias_log2;
    }
  }
  const int first_piece = (tile * kTileColumns + first_column) >> kLog2Piece;
#pragma unroll
  for (int eighth = 0; eighth < Products::kEighths; ++eighth) {
    const int row = Products::lane_row(eighth);
    const float scale_log2 = V::kTakesMeans ? w.lists.row_scale_log2[row] : w.p.scale_log2;
    float v[kLaneColumns];
#pragma unroll
    for (int i = 0; i < kLaneColumns; ++i) v[i] = products.at(half, eighth, i);
    if constexpr (V::kReduction == Reduction::kMax) {
      take_maxima<kLog2Piece>(scale_log2, v);
    } else {
      take_log_sums<kLog2Piece>(scale_log2, bias, v);
    }
    store_pieces<kLog2Piece>(v, w.slab + static_cast<index_t>(row) * w.p.slab_width + first_piece);
  }
}

template <typename V, int kLog2Piece>
__device__ __forceinline__ void reduce_tile(const Work<V>& w, int tile, const ColumnRule* rules,
                                            typename V::Products& products) {
#pragma unroll
  for (int half = 0; half < V::Products::kHalves; ++half) {
    reduce_half<V, kLog2Piece>(w, tile, half, rules, products);
  }
}

template <typename V>
__device__ __forceinline__ void reduce_tile(const Work<V>& w, int tile, const ColumnRule* rules,
                                            typename V::Products& products) {
  switch (w.p.log2_columns) {
    case 0:
      return reduce_tile<V, 0>(w, tile, rules, products);
    case 1:
      return reduce_tile<V, 1>(w, tile, rules, products);
    case 2:
      return reduce_tile<V, 2>(w, tile, rules, products);
    case 3:
      return reduce_tile<V, 3>(w, tile, rules, products);
    case 4:
      return reduce_tile<V, 4>(w, tile, rules, products);
    case 5:
      return reduce_tile<V, 5>(w, tile, rules, products);
    default:
      return reduce_tile<V, kMaxLog2Piece>(w, tile, rules, products);
  }
}

// ---- an item ------------------------------------------------------------------------------------

/// Chunks that are under way while one is multiplied.
template <typename V>
__device__ inline int chunks_ahead(const Params& p) {
  return p.stages - V::Products::kHeldChunks;
}

/// Waits for the box that `slot` gets.
template <typename V>
__device__ inline void wait_box(Work<V>& w, int slot) {
  wait(&w.lists.arrived[slot], w.phases >> slot & 1U);
  w.phases ^= 1U << slot;
}

/// Waits for the chunk at `slot`, the oldest of the `ahead` under way.
template <typename V>
__device__ inline void wait_chunk(Work<V>& w, int slot, int ahead) {
  if (takes_boxes<V>(w.p)) {
    wait_box(w, slot);
  } else if (ahead == 1) {
    wait_copies<0>();
  } else if (ahead == 2) {
    wait_copies<1>();
  } else {
    wait_copies<2>();
  }
}

/// Starts the copies of the first `ahead` chunks, and lists the rows of the one after.
template <typename V>
__device__ inline void fill_ring(const Work<V>& w, int chunks, int ahead, Cursor& load) {
  const bool by_row = !takes_boxes<V>(w.p);
  for (int n = 0; n <= ahead; ++n) {
    if (by_row && load.begins_part()) list_data(w, load.side(w.p), find_data(w, load));
    if (n == ahead) break;
    __syncthreads();
    if (n < chunks) copy_chunk(w, load);
    commit_copies();
    load.advance(w.p);
  }
}

/// Pieces of all rows and of the CTA's tiles.
template <typename V>
__device__ __forceinline__ void sweep_tiles(Work<V>& w) {
  const Params& p = w.p;
  const int tiles = w.tiles();
  const int tile_chunks = p.parts * p.chunks;
  const int ahead = chunks_ahead<V>(p);
  const bool by_row = !takes_boxes<V>(p);
  int left = tiles * tile_chunks;  // chunks whose copies have not been started
  Cursor load;
  fetch_rows(w);
  fill_ring(w, left, ahead, load);
  left -= ahead;
  const int alike = tiles_alike(p, w.lists.item);
  bool may_hide = list_rules(w, 0);
  Cursor at;
  for (int tile = 0; tile < tiles; ++tile) {
    bool has_hidden = false;
    typename V::Products products;
    for (int n = 0; n < tile_chunks; ++n) {
      wait_chunk(w, at.slot, ahead);
      if (by_row || tile + n == 0) V::Products::publish_operands();
      const bool any = __syncthreads_or(may_hide) != 0;
      if (n == 0) has_hidden = any;
      PartData next;
      const auto feed = [&] {
        if (left-- > 0) copy_chunk(w, load);
        commit_copies();
        load.advance(p);
        if (by_row && load.begins_part()) next = find_data(w, load);
      };
      if (V::Products::feeds_first()) feed();
      products.multiply(operands_of(w, at), n == 0);
      if (!V::Products::feeds_first()) feed();
      products.await_earlier();
      if (by_row && load.begins_part()) list_data(w, load.side(p), next);
      at.advance(p);
    }
    products.await_all();
    if (tile + 1 < tiles) may_hide = renew_rules(w, tile + 1, alike);
    const ColumnRule* rules = w.lists.rules[tile % 2];
    if (has_hidden) hide_columns<V>(w, rules, products);
    reduce_tile<V>(w, w.tile_at(tile), rules, products);
  }
  wait_copies<0>();
}

/// The same where all columns come as boxes: a barrier for each tile, behind which the next boxes
/// may come.
template <typename V>
__device__ __forceinline__ void sweep_boxes(Work<V>& w) {
  static_assert(V::kStays && V::Products::kBoxes == Boxes::kAlways);
  const Params& p = w.p;
  const int tiles = w.tiles();
  const int ahead = p.stages / p.chunks;  // tiles
  const auto copy_tile = [&](int tile, int slot) {
    if (warp_id() != 0 || tile >= tiles || !elect_one()) return;
    for (int chunk = 0; chunk < p.chunks; ++chunk) {
      copy_boxes(w, {.tile = tile, .part = 0, .chunk = chunk, .slot = slot + chunk});
    }
  };
  for (int tile = 0; tile < ahead; ++tile) copy_tile(tile, tile * p.chunks);
  fetch_rows(w);
  commit_copies();
  wait_copies<0>();
  V::Products::publish_operands();
  __syncthreads();
  const int alike = tiles_alike(p, w.lists.item);
  bool may_hide = list_rules(w, 0);
  int slot = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    typename V::Products products;
    for (int chunk = 0; chunk < p.chunks; ++chunk) {
      const int of_ring = slot + chunk;
      wait_box(w, of_ring);
      products.multiply(operands_of(w, {.tile = tile, .part = 0, .chunk = chunk, .slot = of_ring}),
                        chunk == 0);
    }
    products.await_all();
    const bool has_hidden = __syncthreads_or(may_hide) != 0;
    copy_tile(tile + ahead, slot);
    slot = slot + 2 * p.chunks > p.stages ? 0 : slot + p.chunks;
    if (tile + 1 < tiles) may_hide = renew_rules(w, tile + 1, alike);
    const ColumnRule* rules = w.lists.rules[tile % 2];
    if (has_hidden) hide_columns<V>(w, rules, products);
    reduce_tile<V>(w, w.tile_at(tile), rules, products);
  }
}

template <typename V>
__device__ __forceinline__ void sweep(Work<V>& w) {
  if constexpr (V::Products::kBoxes == Boxes::kAlways) {
    sweep_boxes(w);
  } else {
    sweep_tiles(w);
  }
}

/// Query blocks of the item that the CTA writes the importance of.
template <typename V>
__device__ inline Range own_blocks(const Work<V>& w) {
  return semantics::block_range(w.rank, semantics::ceil_div(w.lists.item.blocks, V::kGroupCtas),
                                w.lists.item.blocks);
}

/// Lists what the pieces of each row of these blocks are related to. The warps take turns.
template <typename V>
__device__ inline void list_references(const Work<V>& w, Range blocks) {
  static_assert(V::kRows % kWarpRowsAtOnce == 0);
  const auto begin = static_cast<int>(blocks.begin) * w.p.rows_per_block;
  const auto end = static_cast<int>(blocks.end) * w.p.rows_per_block;
  const int pieces = (w.lists.item.tiles * kTileColumns) >> min(w.p.log2_columns, kMaxLog2Piece);
  for (int first = begin / kWarpRowsAtOnce * kWarpRowsAtOnce + warp_id() * kWarpRowsAtOnce;
       first < end; first += V::kThreads / 32 * kWarpRowsAtOnce) {
    float references[kWarpRowsAtOnce];
    find_references<V::kReduction>(w.p, w.slab + static_cast<index_t>(first) * w.p.slab_width,
                                   pieces, references);
#pragma unroll
    for (int r = 0; r < kWarpRowsAtOnce; ++r) {
      const bool exists = w.lists.rows[first + r].exists();
      if (lane_id() == 0) w.lists.row_references[first + r] = exists ? references[r] : kLeftOut;
    }
  }
}

/// The importance of these query blocks, from the pieces of their rows. A warp takes kWarpBlocks KV
/// blocks of a query block at a time.
template <typename V>
__device__ inline void store_importance(const Work<V>& w, Range blocks) {
  const Params& p = w.p;
  const Item& item = w.lists.item;
  const index_t chunk_blocks = p.q_block_end - p.q_block_begin;
  const int groups = (p.num_kv_blocks + kWarpBlocks - 1) / kWarpBlocks;
  for (int i = warp_id(); i < blocks.size() * groups; i += V::kThreads / 32) {
    const int block = static_cast<int>(blocks.begin) + i / groups;
    const int q_block = item.first_block + block;
    const int visible = visible_blocks(p, item, block_queries(p, q_block));
    const int first_row = block * p.rows_per_block;
    float* importance =
        p.importance + (item.head * chunk_blocks + q_block - p.q_block_begin) * p.num_kv_blocks;
    store_blocks<V::kReduction>(p, w.slab + static_cast<index_t>(first_row) * p.slab_width,
                                w.lists.row_references + first_row, i % groups * kWarpBlocks,
                                visible, importance);
  }
}

/// All threads of the group.
template <typename V>
__device__ inline void sync_group() {
  if constexpr (V::kGroupCtas > 1) {
    sync_cluster();
  } else {
    __syncthreads();
  }
}

template <typename V>
__global__ void __launch_bounds__(V::kThreads, V::kCtasPerSm)
    estimate_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(kOperandAlignment) std::byte shared_bytes[];
  const std::uint32_t resident =
      shared_address(shared_bytes) + static_cast<std::uint32_t>(sizeof(Lists<V>));
  const unsigned groups = gridDim.x / V::kGroupCtas;
  const unsigned group = blockIdx.x / V::kGroupCtas;
  Work<V> work{.p = p,
               .lists = *reinterpret_cast<Lists<V>*>(shared_bytes),
               .resident = resident,
               .ring = resident + SharedLayout<V>::resident_bytes(p.chunks),
               .slab = p.slab + static_cast<index_t>(group) * V::kRows * p.slab_width,
               .rank = static_cast<int>(blockIdx.x % V::kGroupCtas),
               .phases = 0};
  if (takes_boxes<V>(p)) {
    if (threadIdx.x < p.stages) init_barrier(&work.lists.arrived[threadIdx.x], 1);
    publish_barriers();
    __syncthreads();
  }
  // Back and forth: with a causal rule items get shorter, and who got the longest of one round gets
  // the shortest of the next.
  for (index_t round = 0; round * groups < p.items; ++round) {
    const index_t index = round * groups + (round % 2 == 0 ? group : groups - 1 - group);
    if (index >= p.items) break;
    if (threadIdx.x == 0) {
      const Item item = item_at(p, index);
      work.lists.item = item;
      work.lists.q = p.q.head(item.batch, item.head_q);
      work.lists.k = p.k.head(item.batch, item.head_kv);
    }
    __syncthreads();
    list_rows(work);
    __syncthreads();
    if (work.tiles() > 0) sweep(work);
    sync_group<V>();  // all pieces are in the slab
    const Range blocks = own_blocks(work);
    list_references(work, blocks);
    __syncthreads();
    store_importance(work, blocks);
    sync_group<V>();  // nobody reads the slab or the lists any more
  }
}

}  // namespace psa::cuda::estimation
