// SPDX-License-Identifier: Apache-2.0
#pragma once

// Probe rows and columns as boxes for the copy engine (TMA, sm_90), where they follow each other in
// memory: groups of tokens in the tokens' own order, pyramid rows, and copies of sampled keys.
//
// A head's tokens [L, D] are viewed in groups of t, so that part `u` of consecutive groups is a
// box:
//
//   64 channels | t tokens of a group | L/t groups | heads | batch
//
// The last group may have fewer tokens. Whole groups are one view, and the tokens that the last,
// partial group has are another, which has one group more.

#include <cuda.h>

#include "core/geometry.hpp"
#include "cuda/device/tensor_map.cuh"
#include "psa/types.hpp"

namespace psa::cuda::estimation {

struct ProbeMaps {
  CUtensorMap whole;    // groups of t tokens
  CUtensorMap partial;  // the first `partial_tokens` of each group, the last one included
  int partial_tokens;   // of the last group; 0: all groups are whole

  [[nodiscard]] __device__ auto map_of(int token) const {
    return token < partial_tokens ? &partial : &whole;
  }

  /// Channels [channel, channel + 64) of token `token` of the groups from `group` on.
  __device__ void copy(std::uint32_t shared, int channel, int token, int group, int head, int batch,
                       Barrier* full) const {
    copy_box(shared, map_of(token), channel, token, group, head, batch, full);
  }

  /// The same into every CTA of the cluster that has a bit in `ctas`.
  __device__ void multicast(std::uint16_t ctas, std::uint32_t shared, int channel, int token,
                            int group, int head, int batch, Barrier* full) const {
    multicast_box(ctas, shared, map_of(token), channel, token, group, head, batch, full);
  }
};

/// Where this is false chunks are copied row by row.
struct ProbeBoxes {
  bool in_use;
  ProbeMaps rows;  // of q, where rows are streamed
  ProbeMaps columns;
};

/// What `tensor` [B, H, L, D] looks like in groups of `group_tokens`, `box_groups` of them at a
/// time. False where the hardware cannot take it so.
[[nodiscard]] bool make_probe_maps(const TensorView& tensor, int group_tokens, int box_groups,
                                   ProbeMaps& maps);

}  // namespace psa::cuda::estimation
