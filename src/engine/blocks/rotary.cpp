// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/rotary.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace psa::engine {
namespace {

constexpr double kBase = 10000.0;

}  // namespace

RotaryTable::RotaryTable(index_t head_dim, const VideoGrid& grid)
    : grid_(grid), pairs_(head_dim / 2) {
  const index_t space = 2 * (head_dim / 6);
  const std::array<index_t, 3> channels{head_dim - 2 * space, space, space};
  const std::array<index_t, 3> positions{grid.frames, grid.height, grid.width};
  for (std::size_t a = 0; a < axes_.size(); ++a) {
    Axis& axis = axes_[a];
    axis.pairs = channels[a] / 2;
    for (index_t position = 0; position < positions[a]; ++position) {
      for (index_t i = 0; i < axis.pairs; ++i) {
        const double frequency =
            1.0 / std::pow(kBase, static_cast<double>(2 * i) / static_cast<double>(channels[a]));
        const double angle = static_cast<double>(position) * frequency;
        axis.cosine.push_back(static_cast<float>(std::cos(angle)));
        axis.sine.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }
}

void RotaryTable::angles_of(index_t token, float* cosine, float* sine) const {
  const index_t row = token / grid_.width;
  const std::array<index_t, 3> position{row / grid_.height, row % grid_.height,
                                        token % grid_.width};
  for (std::size_t a = 0; a < axes_.size(); ++a) {
    const Axis& axis = axes_[a];
    const index_t begin = position[a] * axis.pairs;
    cosine = std::copy_n(axis.cosine.begin() + begin, axis.pairs, cosine);
    sine = std::copy_n(axis.sine.begin() + begin, axis.pairs, sine);
  }
}

}  // namespace psa::engine
