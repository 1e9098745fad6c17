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
// A tile is `parts` x `chunks` pieces of 64 channels. Chunks pass through a ring of 2 to 4 stages
// in shared memory; all threads copy and all warps multiply. Chunk n, with s stages:
//
//   wait for chunk n · barrier (nobody reads chunk n - 1 any more)
//   feed: start the copy of chunk n + s - 1 over chunk n - 1; find the tokens of chunk n + s, if it
//         begins a part
//   multiply chunk n; last chunk of a tile: hide columns, reduce, store pieces
//   list those tokens, and the rules of the next tile
//
// Shapes. A warp multiplies 64 rows with 64 columns: 8 ldmatrix for 32 mma, by arithmetic 79 of the
// 128 bytes per cycle that shared memory has on an H100. With 32 rows it would be 119, and no room
// for copies. Two warps stand side by side.
//   kTokens         128 rows, 2 CTAs per SM: one multiplies while the other reduces
//   kMeans          64 rows of 32 a warp: an element of q is a sum of 2 or 3 (operands.cuh), which
//                   share the fragments of k
//   kWideMeans      32 rows, for what fits in the same memory with D > 128
//   kStreamed       256 rows, 1 CTA per SM. Rows too long to stay (antidiagonal: t·D) are copied
//                   again for every tile; 256 x 128 reads 48 KB per chunk, 5.6 GB from L2 for 28
//                   heads of 32,768 tokens at t = 8, where 128 x 128 would read 7.5
//   kStreamedSmall  128 rows, where 2 stages of kStreamed do not fit
//
// Cost: 2·terms·D flops per logit, one exponential per logit (kLogSum). L2: 128 x 64 x 2 bytes per
// chunk for all rows of the CTA; slab 4 bytes per row and block, written once, read twice.
//
// Deterministic: an item is computed by one CTA, in a fixed order, whoever takes it.

#include <cstdint>

#include "cuda/device/copy.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/importance/operands.cuh"
#include "cuda/importance/params.cuh"
#include "cuda/importance/pieces.cuh"
#include "cuda/importance/probes.cuh"

namespace psa::cuda::estimation {

template <typename ElementType, Shape kShapeValue, Reduction kReductionValue>
struct Variant {
  using Element = ElementType;
  static constexpr Reduction kReduction = kReductionValue;
  static constexpr TileSize kSize = tile_size(kShapeValue);
  static constexpr bool kTakesMeans =
      kShapeValue == Shape::kMeans || kShapeValue == Shape::kWideMeans;
  static constexpr bool kStays =
      kShapeValue != Shape::kStreamed && kShapeValue != Shape::kStreamedSmall;
  static constexpr int kTerms = kTakesMeans ? Split<Element>::kTerms : 1;
  static constexpr int kRowTiles = kSize.row_tiles;
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kRows = kSize.rows();
  static constexpr int kThreads = kSize.threads();
  static constexpr int kCtasPerSm = kSize.ctas_per_sm;
  static_assert(kTileColumns == 2 * kWarpColumns && kThreads >= kTileColumns && kThreads >= kRows);
};

/// Dot products of a warp tile, unscaled: [m16][n8][as mma leaves them].
template <typename V>
using Products = float[V::kRowTiles][kWarpColumns / 8][4];

/// What lies before the operands in shared memory.
template <typename V>
struct alignas(128) Lists {
  Item item;
  KvHead<Bits> q;
  KvHead<Bits> k;
  int row_tokens[2][V::kRows];         // of part n: [n % 2]
  int column_tokens[2][kTileColumns];  // of part n: [n % 2]
  ColumnRule rules[2][kTileColumns];   // of tile n: [n % 2]
  ProbeRow rows[V::kRows];
  float row_scale_log2[V::kRows];  // kTakesMeans: what products are multiplied by
  float row_references[V::kRows];
};

template <typename V>
struct SharedLayout {
  static constexpr int kColumnBytes = kTileColumns * kRowBytes;  // of a chunk
  static constexpr int kRowChunkBytes = V::kRows * kRowBytes;
  static constexpr int kStageBytes = kColumnBytes + (V::kStays ? 0 : kRowChunkBytes);

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
  float* slab;             // [kRows, slab_width]

  [[nodiscard]] __device__ std::uint32_t stage(int slot) const {
    return ring + static_cast<std::uint32_t>(slot * SharedLayout<V>::kStageBytes);
  }
};

/// Place of a chunk in the sweep over all tiles.
struct Cursor {
  int tile = 0;
  int part = 0;
  int chunk = 0;
  int slot = 0;  // of the ring

  [[nodiscard]] __device__ bool begins_part() const { return chunk == 0; }
  [[nodiscard]] __device__ bool begins_tile() const { return chunk == 0 && part == 0; }
  [[nodiscard]] __device__ bool ends_tile(const Params& p) const {
    return chunk + 1 == p.chunks && part + 1 == p.parts;
  }
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

/// One thread's entries of the lists of a part.
struct PartTokens {
  int row = kNoToken;
  int column = kNoToken;
};

template <typename V>
__device__ inline PartTokens find_tokens(const Work<V>& w, const Cursor& at) {
  const auto thread = static_cast<int>(threadIdx.x);
  PartTokens tokens;
  if (thread < kTileColumns) {
    tokens.column =
        column_token(w.p, w.lists.k, w.lists.item, at.tile * kTileColumns + thread, at.part);
  }
  if constexpr (!V::kStays) {
    if (thread < V::kRows) {
      tokens.row = row_token(w.p, w.lists.q, w.lists.rows[thread], at.part);
    }
  }
  return tokens;
}

template <typename V>
__device__ inline void list_tokens(const Work<V>& w, int side, const PartTokens& tokens) {
  const auto thread = static_cast<int>(threadIdx.x);
  if (thread < kTileColumns) w.lists.column_tokens[side][thread] = tokens.column;
  if constexpr (!V::kStays) {
    if (thread < V::kRows) w.lists.row_tokens[side][thread] = tokens.row;
  }
}

/// Lists the rules of a tile. Whether this thread's column may be hidden from some row.
template <typename V>
__device__ inline bool list_rules(const Work<V>& w, int tile) {
  const auto thread = static_cast<int>(threadIdx.x);
  if (thread >= kTileColumns) return false;
  const ColumnRule rule = column_rule(w.p, w.lists.item, tile * kTileColumns + thread);
  w.lists.rules[tile % 2][thread] = rule;
  return rule.hides_from(w.p.is_causal, w.lists.item.first_position);
}

/// Lists the item's rows.
template <typename V>
__device__ inline void list_rows(const Work<V>& w) {
  const auto thread = static_cast<int>(threadIdx.x);
  if (thread >= V::kRows) return;
  const ProbeRow row = row_at(w.p, w.lists.item, thread);
  w.lists.rows[thread] = row;
  if constexpr (V::kStays && !V::kTakesMeans) {
    w.lists.row_tokens[0][thread] = row_token(w.p, w.lists.q, row, 0);
  }
}

/// Fetches the rows that stay; their copies join the ring's first chunk.
template <typename V>
__device__ inline void fetch_rows(const Work<V>& w) {
  if constexpr (V::kTakesMeans) {
    store_means<typename V::Element, V::kRows, V::kThreads>(w.p, w.lists.rows, w.lists.q,
                                                            w.resident, w.lists.row_scale_log2);
  } else if constexpr (V::kStays) {
    for (int chunk = 0; chunk < w.p.chunks; ++chunk) {
      copy_rows<V::kRows, V::kThreads>(
          w.p, w.lists.q, w.lists.row_tokens[0], chunk * kChunkChannels,
          w.resident + static_cast<std::uint32_t>(chunk * SharedLayout<V>::kRowChunkBytes));
    }
  }
}

template <typename V>
__device__ inline void copy_chunk(const Work<V>& w, const Cursor& at) {
  const int side = at.side(w.p);
  const int channel = at.chunk * kChunkChannels;
  copy_rows<kTileColumns, V::kThreads>(w.p, w.lists.k, w.lists.column_tokens[side], channel,
                                       w.stage(at.slot));
  if constexpr (!V::kStays) {
    copy_rows<V::kRows, V::kThreads>(w.p, w.lists.q, w.lists.row_tokens[side], channel,
                                     w.stage(at.slot) + SharedLayout<V>::kColumnBytes);
  }
}

// ---- products -----------------------------------------------------------------------------------

/// products += rows · columnsᵀ over 64 channels. Fragments are loaded one step ahead. `rows` is the
/// chunk of the first term, the others follow at `term_bytes`.
template <typename V>
__device__ __forceinline__ void multiply_chunk(std::uint32_t rows, std::uint32_t term_bytes,
                                               std::uint32_t columns, Products<V>& products) {
  constexpr int kSteps = kChunkChannels / 16;
  constexpr int kPairs = kWarpColumns / 16;
  const int lane = lane_id();
  const int first_row = warp_id() / 2 * V::kWarpRows;
  const int first_column = warp_id() % 2 * kWarpColumns;
  // Step s is two pieces further, which flips bits 5 and 6 of a swizzled address.
  const std::uint32_t row_lane = rows + piece_offset(first_row + lane % 16, lane / 16);
  const std::uint32_t column_lane =
      columns + piece_offset(first_column + lane / 16 * 8 + lane % 8, lane / 8 % 2);
  std::uint32_t a[2][V::kRowTiles][4];
  std::uint32_t b[2][kPairs][4];
  const auto load_rows = [&](int i) {
    const std::uint32_t from = (row_lane ^ static_cast<std::uint32_t>(i / V::kTerms * 32)) +
                               static_cast<std::uint32_t>(i % V::kTerms) * term_bytes;
#pragma unroll
    for (int m = 0; m < V::kRowTiles; ++m) load_matrices(a[i % 2][m], from + m * 16 * kRowBytes);
  };
  const auto load_columns = [&](int step) {
    const std::uint32_t from = column_lane ^ static_cast<std::uint32_t>(step * 32);
#pragma unroll
    for (int n = 0; n < kPairs; ++n) load_matrices(b[step % 2][n], from + n * 16 * kRowBytes);
  };
  load_columns(0);
  load_rows(0);
#pragma unroll
  for (int i = 0; i < kSteps * V::kTerms; ++i) {
    const int step = i / V::kTerms;
    if (i + 1 < kSteps * V::kTerms) load_rows(i + 1);
    if (i % V::kTerms == 0 && step + 1 < kSteps) load_columns(step + 1);
#pragma unroll
    for (int n = 0; n < kPairs; ++n) {
#pragma unroll
      for (int m = 0; m < V::kRowTiles; ++m) {
        const std::uint32_t(&pair)[4] = b[step % 2][n];
        mma_16x8x16<typename V::Element>(products[m][2 * n], a[i % 2][m], pair[0], pair[1]);
        mma_16x8x16<typename V::Element>(products[m][2 * n + 1], a[i % 2][m], pair[2], pair[3]);
      }
    }
  }
}

template <typename V>
__device__ __forceinline__ void clear(Products<V>& products) {
#pragma unroll
  for (int m = 0; m < V::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kWarpColumns / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) products[m][n][i] = 0.0F;
    }
  }
}

/// This lane's rows: eighth 0 and 1 in the first m16 tile of the warp, 2 and 3 in the second, ...
template <typename V>
__device__ inline int lane_row(int eighth) {
  return warp_id() / 2 * V::kWarpRows + 8 * eighth + lane_id() / 4;
}

/// This lane's columns: 2·(lane % 4) and the next of n8 tile `n`.
__device__ inline int lane_column(int n) {
  return warp_id() % 2 * kWarpColumns + 8 * n + 2 * (lane_id() % 4);
}

/// Selects -inf where a row does not see a column, so that what the column holds does not matter.
template <typename V>
__device__ __forceinline__ void hide_columns(const Work<V>& w, const ColumnRule* rules,
                                             Products<V>& products) {
#pragma unroll
  for (int n = 0; n < kWarpColumns / 8; ++n) {
    const ColumnRule* own = rules + lane_column(n);
#pragma unroll
    for (int eighth = 0; eighth < 2 * V::kRowTiles; ++eighth) {
      const int position = w.lists.rows[lane_row<V>(eighth)].position;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& product = products[eighth / 2][n][eighth % 2 * 2 + i];
        if (own[i].hides_from(w.p.is_causal, position)) product = -INFINITY;
      }
    }
  }
}

/// Reduces a tile's products to pieces in the slab.
template <typename V, int kLog2Piece>
__device__ __forceinline__ void reduce_tile(const Work<V>& w, int tile, const ColumnRule* rules,
                                            const Products<V>& products) {
  [[maybe_unused]] float bias[kLaneColumns];
  if constexpr (V::kReduction == Reduction::kLogSum) {
#pragma unroll
    for (int c = 0; c < kLaneColumns; ++c) bias[c] = rules[lane_column(c / 2) + c % 2].bias_log2;
  }
  const int first_piece = (tile * kTileColumns + warp_id() % 2 * kWarpColumns) >> kLog2Piece;
#pragma unroll
  for (int eighth = 0; eighth < 2 * V::kRowTiles; ++eighth) {
    const int row = lane_row<V>(eighth);
    const float scale_log2 = V::kTakesMeans ? w.lists.row_scale_log2[row] : w.p.scale_log2;
    float v[kLaneColumns];
#pragma unroll
    for (int c = 0; c < kLaneColumns; ++c) {
      v[c] = products[eighth / 2][c / 2][eighth % 2 * 2 + c % 2];
    }
    if constexpr (V::kReduction == Reduction::kMax) {
      take_maxima<kLog2Piece>(scale_log2, v);
    } else {
      take_log_sums<kLog2Piece>(scale_log2, bias, v);
    }
    store_pieces<kLog2Piece>(v, w.slab + static_cast<index_t>(row) * w.p.slab_width + first_piece);
  }
}

template <typename V>
__device__ __forceinline__ void reduce_tile(const Work<V>& w, int tile, const ColumnRule* rules,
                                            const Products<V>& products) {
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

/// Waits for the oldest of the chunks under way.
__device__ inline void wait_chunk(int stages) {
  if (stages == 2) {
    wait_copies<0>();
  } else if (stages == 3) {
    wait_copies<1>();
  } else {
    wait_copies<2>();
  }
}

/// Of two warps that share a scheduler in a CTA of eight, one copies before it multiplies and the
/// other one afterwards, so that the tensor cores have work meanwhile. CTAs of four have each
/// other.
template <typename V>
__device__ inline bool feeds_first() {
  return V::kThreads <= 128 || warp_id() < 4;
}

/// Starts the copies of the first stages - 1 chunks, and lists the tokens of the one after.
template <typename V>
__device__ inline void fill_ring(const Work<V>& w, int chunks, Cursor& load) {
  for (int n = 0; n < w.p.stages; ++n) {
    if (load.begins_part()) list_tokens(w, load.side(w.p), find_tokens(w, load));
    if (n + 1 == w.p.stages) break;
    __syncthreads();
    if (n < chunks) copy_chunk(w, load);
    commit_copies();
    load.advance(w.p);
  }
}

/// Pieces of all rows and tiles.
template <typename V>
__device__ __forceinline__ void sweep_tiles(const Work<V>& w) {
  const Params& p = w.p;
  const int chunks = w.lists.item.tiles * p.parts * p.chunks;
  Cursor load;
  fetch_rows(w);
  fill_ring(w, chunks, load);
  bool may_hide = list_rules(w, 0);
  bool has_hidden = false;
  Products<V> products;
  Cursor at;
  for (int n = 0; n < chunks; ++n) {
    wait_chunk(p.stages);
    const bool any = __syncthreads_or(may_hide) != 0;
    if (at.begins_tile()) {
      has_hidden = any;
      clear<V>(products);
    }
    PartTokens next;
    const auto feed = [&] {
      if (n + p.stages - 1 < chunks) copy_chunk(w, load);
      commit_copies();
      load.advance(p);
      if (load.begins_part()) next = find_tokens(w, load);
    };
    if (feeds_first<V>()) feed();
    const std::uint32_t columns = w.stage(at.slot);
    std::uint32_t rows = columns + SharedLayout<V>::kColumnBytes;
    if constexpr (V::kStays) {
      rows = w.resident + static_cast<std::uint32_t>(at.chunk * SharedLayout<V>::kRowChunkBytes);
    }
    const auto term_bytes = static_cast<std::uint32_t>(p.chunks * SharedLayout<V>::kRowChunkBytes);
    multiply_chunk<V>(rows, term_bytes, columns, products);
    if (!feeds_first<V>()) feed();
    if (at.ends_tile(p)) {
      const ColumnRule* rules = w.lists.rules[at.tile % 2];
      if (has_hidden) hide_columns<V>(w, rules, products);
      reduce_tile<V>(w, at.tile, rules, products);
    }
    at.advance(p);
    if (load.begins_part()) list_tokens(w, load.side(p), next);
    if (at.begins_tile()) may_hide = list_rules(w, at.tile);
  }
  wait_copies<0>();
}

/// Lists what the pieces of each row are related to. The warps take turns.
template <typename V>
__device__ inline void list_references(const Work<V>& w) {
  static_assert(V::kRows % kWarpRowsAtOnce == 0);
  const int pieces = (w.lists.item.tiles * kTileColumns) >> min(w.p.log2_columns, kMaxLog2Piece);
  for (int first = warp_id() * kWarpRowsAtOnce; first < V::kRows;
       first += V::kThreads / 32 * kWarpRowsAtOnce) {
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

/// The importance of the item's query blocks, from the pieces of their rows. A warp takes
/// kWarpBlocks KV blocks of a query block at a time.
template <typename V>
__device__ inline void store_importance(const Work<V>& w) {
  const Params& p = w.p;
  const Item& item = w.lists.item;
  const index_t chunk_blocks = p.q_block_end - p.q_block_begin;
  const int groups = (p.num_kv_blocks + kWarpBlocks - 1) / kWarpBlocks;
  for (int i = warp_id(); i < item.blocks * groups; i += V::kThreads / 32) {
    const int block = i / groups;
    const int q_block = item.first_block + block;
    const int visible = visible_blocks(p, item, block_queries(p, q_block));
    const int first_row = block * p.rows_per_block;
    float* importance =
        p.importance + (item.head_q * chunk_blocks + q_block - p.q_block_begin) * p.num_kv_blocks;
    store_blocks<V::kReduction>(p, w.slab + static_cast<index_t>(first_row) * p.slab_width,
                                w.lists.row_references + first_row, i % groups * kWarpBlocks,
                                visible, importance);
  }
}

template <typename V>
__global__ void __launch_bounds__(V::kThreads, V::kCtasPerSm)
    estimate_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(128) std::byte shared_bytes[];
  const std::uint32_t resident =
      shared_address(shared_bytes) + static_cast<std::uint32_t>(sizeof(Lists<V>));
  const index_t cta_floats = static_cast<index_t>(V::kRows) * p.slab_width;
  const Work<V> work{.p = p,
                     .lists = *reinterpret_cast<Lists<V>*>(shared_bytes),
                     .resident = resident,
                     .ring = resident + SharedLayout<V>::resident_bytes(p.chunks),
                     .slab = p.slab + blockIdx.x * cta_floats};
  // Back and forth: with a causal rule items get shorter, and who got the longest of one round gets
  // the shortest of the next.
  for (index_t round = 0; round * gridDim.x < p.items; ++round) {
    const index_t turn = round % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x;
    const index_t index = round * gridDim.x + turn;
    if (index >= p.items) break;
    if (threadIdx.x == 0) {
      const Item item = item_at(p, index);
      work.lists.item = item;
      work.lists.q = p.q.head(p.batch, item.head_q);
      work.lists.k = p.k.head(p.batch, item.head_kv);
    }
    __syncthreads();
    list_rows(work);
    __syncthreads();
    if (work.lists.item.tiles > 0) sweep_tiles(work);
    __syncthreads();  // all pieces are in the slab
    list_references(work);
    __syncthreads();
    store_importance(work);
    __syncthreads();  // nobody reads the lists any more
  }
}

}  // namespace psa::cuda::estimation
