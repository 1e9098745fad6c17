// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the kernels of the importance stage are given, by value. Strides are in elements.

#include <cstddef>
#include <cstdint>

#include "core/backend.hpp"
#include "cuda/device/kv_rows.cuh"
#include "cuda/importance/boxes.cuh"
#include "psa/config.hpp"

namespace psa::cuda::estimation {

/// An element of q or k as it lies in memory, f16 or bf16.
using Bits = std::uint16_t;

inline constexpr int kTileColumns = 128;   ///< probe columns of k that meet the rows at a time
inline constexpr int kBoxRows = 128;       ///< streamed rows of a box
inline constexpr int kChunkChannels = 64;  ///< channels that are copied at a time: 128 bytes a row
inline constexpr int kMaxBlock = 128;      ///< largest block_q and block_kv
inline constexpr int kMaxHeadDim = 256;
inline constexpr int kMostStages = 5;    ///< chunks in shared memory
inline constexpr int kMaxLog2Piece = 6;  ///< largest piece of a tile's row (pieces.cuh): 64 columns

/// Variants of the estimate's kernel (kernel.cuh).
enum class Shape : std::uint8_t {
  kTokens,         ///< rows are tokens and stay in shared memory: D <= 128
  kMeans,          ///< rows are means of tokens and stay in shared memory: D <= 128
  kWideMeans,      ///< the same for D <= 256
  kStreamed,       ///< rows are copied again for every tile: dot products of any length
  kStreamedSmall,  ///< the same for devices with little shared memory
};

/// What a CTA takes at a time beside kTileColumns, and how many CTAs an SM runs at most. That is
/// all that slabs depend on, so it is the same for all multipliers (kernel.cuh).
struct TileSize {
  int rows;
  int ctas_per_sm;
};

[[nodiscard]] constexpr TileSize tile_size(Shape shape) {
  switch (shape) {
    case Shape::kTokens:
      return {.rows = 128, .ctas_per_sm = 2};
    case Shape::kMeans:
      return {.rows = 64, .ctas_per_sm = 2};
    case Shape::kWideMeans:
      return {.rows = 32, .ctas_per_sm = 2};
    case Shape::kStreamed:
      return {.rows = 256, .ctas_per_sm = 1};
    case Shape::kStreamedSmall:
      break;
  }
  return {.rows = 128, .ctas_per_sm = 1};
}

/// CTAs that share an item and its slab on sm_90 (kernel.cuh). Slabs of kTokens are large: with
/// 12 heads of 75,600 tokens in blocks of 32 a CTA of its own slab would leave half of the SMs
/// idle.
[[nodiscard]] constexpr int sm90_group_ctas(Shape shape) {
  if (shape == Shape::kTokens) return 4;
  return shape == Shape::kStreamed ? 2 : 1;
}

/// Slabs of a CTA of means_sm90.cuh: of the item that it works on and of the one before.
inline constexpr int kMeansSlabs = 2;

/// Whether chunks of columns come as boxes (boxes.cuh).
enum class Boxes : std::uint8_t { kNever, kWhereInUse, kAlways };

[[nodiscard]] constexpr bool takes_means(Shape shape) {
  return shape == Shape::kMeans || shape == Shape::kWideMeans;
}

/// Whether rows stay in shared memory for all tiles of columns.
[[nodiscard]] constexpr bool rows_stay(Shape shape) {
  return shape != Shape::kStreamed && shape != Shape::kStreamedSmall;
}

/// One launch: the query blocks of a chunk, for heads of its batch elements.
struct Params {
  KvRows<Bits> q;  // [B, Hq, Lq, D]
  KvRows<Bits> k;  // [B, Hkv, Lk, D]; pooled_lse: the rows of its level, [B, Hkv, rows, D]
  bool has_aligned_rows;

  Importance estimator;
  bool is_causal;
  int batch_begin;        // first element of the chunk
  int first_head, heads;  // query heads of the launch, among those of all elements of the chunk
  int heads_q, heads_per_kv;
  int len_q, len_kv, head_dim;
  int block_q, block_kv, num_kv_blocks;
  int q_block_begin, q_block_end;
  const std::int32_t* kv_lengths;  // [B] or null

  // Probes: rows of q, columns of k (probes.cuh).
  int group_tokens;                // S-11, S-12; 1 for samples
  const std::uint8_t* q_offsets;   // S-9: [batch elements, Hq, kMaxBlock] or null
  const std::uint8_t* kv_offsets;  // [batch elements, Hkv, kMaxBlock] or null
  Bits* sampled_keys;     // [KV heads of the launch, Nk << log2_columns, D] where they are copied
  int rows_per_block;     // of q
  int columns_per_block;  // of k
  int log2_columns;       // the same, rounded up to a power of two
  float scale_log2;       // logits are taken in log2 units
  float bias_log2[kMaxBlock + 1];  // of a column that stands for so many tokens

  // The dot products: `parts` tokens of head_dim channels, each in `chunks` pieces.
  int parts;
  int chunks;
  int stages;  // chunks in shared memory, 2 to kMostStages
  ProbeBoxes boxes;

  // The work.
  int blocks_per_item;  // query blocks of one head that a CTA takes at a time
  int items_per_head;
  index_t items;
  float* slab;        // [groups of CTAs, rows, slab_width]
  int slab_width;     // pieces (pieces.cuh) of all column tiles
  float* importance;  // [heads, q_block_end - q_block_begin, Nk]

  [[nodiscard]] PSA_HD bool takes_samples() const {
    return estimator == Importance::kSampledMax || estimator == Importance::kSampledMass;
  }
  [[nodiscard]] PSA_HD int blocks_per_tile() const { return kTileColumns >> log2_columns; }
};

}  // namespace psa::cuda::estimation
