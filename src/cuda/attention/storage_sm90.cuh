// SPDX-License-Identifier: Apache-2.0
#pragma once

// Shared memory of the sm_90a attention kernel: slots for tiles, their barriers, and notes.

#include <cstddef>
#include <cstdint>

#include "cuda/attention/kv_stream.cuh"
#include "cuda/device/barrier.cuh"
#include "cuda/device/wgmma.cuh"

namespace psa::cuda::sm90 {

inline constexpr int kWarpgroup = 128;
inline constexpr int kThreads = 3 * kWarpgroup;
inline constexpr int kQueryRows = 128;
inline constexpr int kProducerRegisters = 88;
inline constexpr int kConsumerRegisters = 208;

enum NamedBarrier : int { kProducerBarrier = 1, kTurnBarrier = 2 };  // kTurnBarrier + consumer

/// What the consumers must know of a tile beside its numbers.
template <int kRows>
struct TileNotes {
  float bias[kRows / 8];  // log2 of the weight of a granule's rows
  // Of masked tiles, by column: what is added to its logits (-inf: no such row), and the last
  // position that it stands for. Read in pairs.
  alignas(8) float adjust[kRows];
  alignas(8) int last[kRows];
  std::uint8_t is_masked[4];  // by producer warp
  int item;                   // query block; kNoItem: no work is left
  bool is_last;               // of its query block
  // Of first-order kernels: the first granule of block means, before or behind the tile too. The
  // last tile is the map of the query block, of which only the factor counts.
  int rest_granule;
  float map_factor;
};
inline constexpr int kNoItem = -1;

/// Arrivals at a full slot: of each producer warp its copying threads, and one for its notes.
inline constexpr int kFillers = 4 * (32 + 1);

/// How the tiles ahead are copied. A granule's box: level code << kGroupBits | group of 8 rows of
/// that level, kNoGroup for padding.
struct TilePlan {
  static constexpr int kTiles = 8;
  static constexpr int kTileGranules = 16;
  static constexpr int kGroupBits = 28;  // groups of 8 rows of a level: 2^28 and more tokens
  static constexpr std::uint32_t kNoGroup = (1U << kGroupBits) - 1U;

  /// Rows of one tile in memory, by line of the granule, then by granule in the order in which the
  /// lanes of a warp need them.
  using Rows = std::uint32_t[8][kTileGranules];

  std::uint32_t box[kTiles][kTileGranules];
  std::uint32_t begins[kTiles];  // bit g: a box begins at granule g; 0: copied row by row
  bool is_plain[kTiles];         // copied row by row from `rows`
  alignas(16) Rows rows[kTiles];
};

template <typename Traits>
struct SharedStorage {
  static constexpr int kHalves = Traits::kHeadDim / 64;
  static constexpr int kGranuleBytes = kHalves * static_cast<int>(kHalfBytes);
  static constexpr int kQueryBytes = kQueryRows / 8 * kGranuleBytes;
  static constexpr int kTileBytes = Traits::kTileKv / 8 * kGranuleBytes;

  /// Notes outlive their K slot: a consumer reads them until its soft-max is done. That they have
  /// been read shows in the release of the next K slot, or with a map as next tile, between which
  /// and the reads only warps are synchronised (racecheck does not see that), of the one after.
  static constexpr int kNoteSlots = Traits::kKeyStages + (Traits::kHasFirstOrder ? 2 : 1);

  alignas(1024) std::byte q[kQueryBytes];
  alignas(1024) std::byte k[Traits::kKeyStages][kTileBytes];
  alignas(1024) std::byte v[Traits::kValueStages][kTileBytes];
  TileNotes<Traits::kTileKv> notes[kNoteSlots];
  KvWindow window;
  TilePlan plans[2];
  int next_item;
  Barrier q_full, q_empty;
  Barrier k_full[Traits::kKeyStages], k_empty[Traits::kKeyStages];
  Barrier v_full[Traits::kValueStages], v_empty[Traits::kValueStages];
};

/// A value that is the same in all lanes, told to the compiler, which then keeps what follows from
/// it in the uniform registers that wgmma takes its descriptors from.
__device__ inline int uniform(int x) { return __shfl_sync(0xFFFFFFFFU, x, 0); }

}  // namespace psa::cuda::sm90
