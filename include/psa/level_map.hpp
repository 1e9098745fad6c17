// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "psa/config.hpp"  // GCC's -Wshadow: Rest::kSkip has to be known before kSkip
#include "psa/types.hpp"

namespace psa {

/// Entries of a level map (docs/semantics.md S-3). 1..5 are pyramid levels: level l reads the block
/// pooled by 2^(l-1) tokens.
using LevelCode = std::uint8_t;
inline constexpr LevelCode kSkip = 0;       ///< the block is not read
inline constexpr LevelCode kBlockMean = 6;  ///< the block is read as one key, its mean
inline constexpr int kNumLevelCodes = 7;

/// Contiguous level map [batch, heads_q, num_q_blocks, num_kv_blocks]: which KV block is read at
/// which resolution by which query block. Non-owning.
struct LevelMapView {
  LevelCode* data = nullptr;
  index_t batch = 0;
  index_t heads = 0;
  index_t num_q_blocks = 0;
  index_t num_kv_blocks = 0;

  [[nodiscard]] constexpr index_t size() const {
    return batch * heads * num_q_blocks * num_kv_blocks;
  }
  /// The row of query block `q_block`: num_kv_blocks codes.
  [[nodiscard]] constexpr LevelCode* row(index_t b, index_t h, index_t q_block) const {
    return data + ((b * heads + h) * num_q_blocks + q_block) * num_kv_blocks;
  }
};

}  // namespace psa
