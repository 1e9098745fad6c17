// SPDX-License-Identifier: Apache-2.0
#pragma once

// K and V in working order (S-19). Query blocks read a row of them as often as they read its block,
// 59 times at Wan 720p and a density of .1: copied once, rows are boxes for TMA (kv_maps.cuh), and
// nobody looks up where they lie.

#include "core/backend.hpp"
#include "cuda/attention/params.hpp"

namespace psa::cuda {

/// Memory that the copies of `heads` KV heads take; 0 if tokens lie in working order.
[[nodiscard]] std::size_t ordered_kv_bytes(const core::Geometry& geometry, int heads);

/// The call with copies for `heads` in `memory`, which only these heads may be read from. Launches
/// on context.stream.
[[nodiscard]] core::AttentionParams with_ordered_kv(const core::StageContext& context,
                                                    const core::AttentionParams& call,
                                                    HeadRange heads, std::byte* memory);

}  // namespace psa::cuda
