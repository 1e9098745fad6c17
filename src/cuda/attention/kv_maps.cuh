// SPDX-License-Identifier: Apache-2.0
#pragma once

// Tensor maps of the keys and values at every level, one box a piece.
//
// A level's rows [.., N, D] are viewed in five dimensions so that one box lands granule by granule
// (wgmma.cuh) whatever the size of the piece:
//
//   64 columns | 8 rows | D/64 halves (· heads) | N/8 groups of rows | batch · heads
//
// The last N % 8 rows are in no group; a block that holds them is copied row by row.

#include <cuda.h>

#include <cstdint>

#include "cuda/attention/params.hpp"

namespace psa::cuda {

/// Coordinates of a head: {.., half + c2_head · h, .., c4_head · h + c4_batch · b - c4_first}.
struct HeadCoordinates {
  int c2_head, c4_head, c4_batch, c4_first;
};

struct KvMaps {
  CUtensorMap k[kNumLevelCodes - 1];  // [code - 1]
  CUtensorMap v[kNumLevelCodes - 1];
  HeadCoordinates k_head, v_head;  // of level 1
  std::uint32_t mapped_codes;      // bit c: pieces of level code c can be copied as boxes
};

/// Maps for head_dim 64 and 128; no codes are mapped for others, or where strides do not allow it.
[[nodiscard]] KvMaps make_kv_maps(const AttentionParams& params, DType dtype);

}  // namespace psa::cuda
