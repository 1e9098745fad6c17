// SPDX-License-Identifier: Apache-2.0
#pragma once

// Level maps in files: the tensor "levels" of a .safetensors file, or a .npy file, of type U8 and
// shape [batch, heads, query blocks, KV blocks].

#include <filesystem>
#include <span>
#include <vector>

#include "engine/tensors/tensor_info.hpp"
#include "psa/level_map.hpp"

namespace psa::cli {

/// A level map in memory.
class LevelMap {
 public:
  LevelMap(index_t batch, index_t heads, index_t num_q_blocks, index_t num_kv_blocks);

  [[nodiscard]] LevelMapView view() {
    return {codes_.data(), batch_, heads_, q_blocks_, kv_blocks_};
  }
  [[nodiscard]] std::span<LevelCode> codes() { return codes_; }
  /// For the writers of engine/tensors; named "levels".
  [[nodiscard]] io::TensorInfo info() const;

 private:
  index_t batch_, heads_, q_blocks_, kv_blocks_;
  std::vector<LevelCode> codes_;
};

/// Whether the file holds a level map and no q, k, v: any .npy, or a .safetensors with "levels".
[[nodiscard]] bool is_level_file(const std::filesystem::path& path);

/// Throws Error: kIo if the file cannot be read, kInvalidArgument if it is no level map.
[[nodiscard]] LevelMap load_levels(const std::filesystem::path& path);

}  // namespace psa::cli
