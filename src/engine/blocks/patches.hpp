// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>

#include "psa/types.hpp"

namespace psa::engine {

/// How a latent [channels, frames, height, width] is cut into one patch per token. Token order is
/// that of VideoGrid.
struct PatchLayout {
  VideoGrid grid{};                ///< in tokens
  std::array<index_t, 3> patch{};  ///< frames, height, width of a patch

  [[nodiscard]] constexpr index_t patch_volume() const { return patch[0] * patch[1] * patch[2]; }
};

/// Copies the patch of `token` out of `latent`, in the order of a convolution's kernel:
/// patch_row [channels, patch frames, patch height, patch width].
void gather_patch(const PatchLayout& layout, index_t channels, const float* latent, index_t token,
                  float* patch_row);

/// Copies the patch of `token` into `latent`, from the order of Wan's output layer:
/// patch_row [patch frames, patch height, patch width, channels].
void scatter_patch(const PatchLayout& layout, index_t channels, const float* patch_row,
                   index_t token, float* latent);

}  // namespace psa::engine
