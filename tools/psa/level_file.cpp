// SPDX-License-Identifier: Apache-2.0
#include "level_file.hpp"

#include <algorithm>

#include "engine/tensors/npy.hpp"
#include "engine/tensors/printable.hpp"
#include "engine/tensors/safetensors.hpp"
#include "psa/error.hpp"

namespace psa::cli {
namespace {

constexpr const char* kTensorName = "levels";

LevelMap copy_levels(const std::filesystem::path& path, const io::TensorInfo& tensor) {
  const std::string what = "level map of " + io::printable(path.string());
  const bool has_size =
      std::all_of(tensor.shape.begin(), tensor.shape.end(), [](index_t axis) { return axis >= 1; });
  if (tensor.dtype != io::FileDType::kU8 || tensor.shape.size() != 4 || !has_size) {
    throw Error(Status::kInvalidArgument,
                what + " is " + std::string(io::name_of(tensor.dtype)) + " " +
                    io::shape_text(tensor.shape) +
                    "; expected U8 [batch, heads, query blocks, KV blocks]");
  }
  LevelMap levels(tensor.shape[0], tensor.shape[1], tensor.shape[2], tensor.shape[3]);
  LevelCode* codes = levels.view().data;
  std::transform(tensor.data.begin(), tensor.data.end(), codes,
                 [](std::byte b) { return std::to_integer<LevelCode>(b); });
  for (index_t i = 0; i < levels.view().size(); ++i) {
    if (codes[i] >= kNumLevelCodes) {
      throw Error(Status::kInvalidArgument, what + " has code " + std::to_string(codes[i]) +
                                                " at element " + std::to_string(i) +
                                                "; allowed: 0 (skip), 1..5 (levels), 6 (mean)");
    }
  }
  return levels;
}

}  // namespace

LevelMap::LevelMap(index_t batch, index_t heads, index_t num_q_blocks, index_t num_kv_blocks)
    : batch_(batch),
      heads_(heads),
      q_blocks_(num_q_blocks),
      kv_blocks_(num_kv_blocks),
      codes_(static_cast<std::size_t>(batch * heads * num_q_blocks * num_kv_blocks)) {}

io::TensorInfo LevelMap::info() const {
  return {kTensorName,
          io::FileDType::kU8,
          {batch_, heads_, q_blocks_, kv_blocks_},
          std::as_bytes(std::span(codes_))};
}

bool is_level_file(const std::filesystem::path& path) {
  if (path.extension() == ".npy") return true;
  return path.extension() == ".safetensors" &&
         io::SafetensorsFile::open(path).find(kTensorName) != nullptr;
}

LevelMap load_levels(const std::filesystem::path& path) {
  if (path.extension() == ".npy") {
    const io::NpyFile file = io::NpyFile::open(path);
    return copy_levels(path, file.tensor());
  }
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  return copy_levels(path, file.at(kTensorName));
}

}  // namespace psa::cli
