// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <vector>

#include "psa/types.hpp"

namespace psa::engine {

/// Angles of Wan's 3-D rotary embedding. A head's channels are D = t + h + w with
/// h = w = 2 * (D / 6) (whole division): the first t turn with the frame, then h with the row, then
/// w with the column. Pair i of an axis of n channels turns by position * 10000^(-2i/n).
class RotaryTable {
 public:
  RotaryTable() = default;
  /// `head_dim` is even and at least 6.
  RotaryTable(index_t head_dim, const VideoGrid& grid);

  [[nodiscard]] index_t pairs() const { return pairs_; }  ///< head_dim / 2
  /// Writes the pairs() cosines and sines of a token of the grid.
  void angles_of(index_t token, float* cosine, float* sine) const;

 private:
  struct Axis {
    index_t pairs = 0;
    std::vector<float> cosine;  // [positions, pairs]
    std::vector<float> sine;    // [positions, pairs]
  };

  VideoGrid grid_{};
  index_t pairs_ = 0;
  std::array<Axis, 3> axes_;  // frames, height, width
};

}  // namespace psa::engine
