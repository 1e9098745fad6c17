// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "engine/blocks/rows.hpp"
#include "psa/plan.hpp"
#include "psa/types.hpp"

namespace psa::engine {

/// Rows of `dim` values in the compute type (kF32 or kBF16), contiguous, uninitialised.
class RowBuffer {
 public:
  RowBuffer() = default;
  /// Throws Error(kOutOfMemory).
  RowBuffer(DType dtype, index_t rows, index_t dim)
      : dtype_(dtype),
        rows_(rows),
        row_bytes_(static_cast<std::size_t>(dim) * size_of(dtype)),
        dim_(dim),
        memory_(static_cast<std::size_t>(rows) * row_bytes_) {}

  [[nodiscard]] index_t rows() const { return rows_; }
  [[nodiscard]] void* at(index_t row) {
    return memory_.bytes().data() + static_cast<std::size_t>(row) * row_bytes_;
  }
  /// Rows of a buffer of kF32.
  [[nodiscard]] float* floats(index_t row) { return static_cast<float*>(at(row)); }

  /// Writes a row of `dim` floats in the buffer's type.
  void store(index_t row, const float* values) {
    if (dtype_ == DType::kBF16) {
      round_to_bf16(values, dim_, static_cast<std::uint16_t*>(at(row)));
    } else {
      std::copy_n(values, dim_, floats(row));
    }
  }

 private:
  DType dtype_ = DType::kF32;
  index_t rows_ = 0;
  std::size_t row_bytes_ = 0;
  index_t dim_ = 0;
  Workspace memory_{0};
};

/// Rows [begin, begin + count) that one worker takes through a chain of layers.
struct Tile {
  index_t begin = 0;
  index_t count = 0;
};

/// Rows per tile: enough to keep oneDNN at its full rate, few enough for the tile's activations to
/// stay in the second-level cache between the layers (measured on Zen 4 with 64 to 512 rows).
inline constexpr index_t kTileRows = 128;

[[nodiscard]] constexpr index_t num_tiles(index_t rows) {
  return (rows + kTileRows - 1) / kTileRows;
}

[[nodiscard]] constexpr Tile tile_at(index_t index, index_t rows) {
  const index_t begin = index * kTileRows;
  return {begin, std::min(kTileRows, rows - begin)};
}

}  // namespace psa::engine
