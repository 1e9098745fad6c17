// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/patches.hpp"

namespace psa::engine {
namespace {

/// Calls visit(channel, voxel, offset) for every value of a token's patch: `voxel` counts within
/// the patch (frames, height, width), `offset` is into the latent.
template <typename Visit>
void visit_patch(const PatchLayout& layout, index_t channels, index_t token, const Visit& visit) {
  const VideoGrid& grid = layout.grid;
  const auto [frames, height, width] = layout.patch;
  const index_t latent_height = grid.height * height;
  const index_t latent_width = grid.width * width;
  const index_t row = token / grid.width;
  const index_t first_frame = row / grid.height * frames;
  const index_t first_y = row % grid.height * height;
  const index_t first_x = token % grid.width * width;
  for (index_t c = 0; c < channels; ++c) {
    index_t voxel = 0;
    for (index_t f = 0; f < frames; ++f) {
      const index_t frame = c * grid.frames * frames + first_frame + f;
      for (index_t y = 0; y < height; ++y) {
        const index_t offset = (frame * latent_height + first_y + y) * latent_width + first_x;
        for (index_t x = 0; x < width; ++x) visit(c, voxel++, offset + x);
      }
    }
  }
}

}  // namespace

void gather_patch(const PatchLayout& layout, index_t channels, const float* latent, index_t token,
                  float* patch_row) {
  const index_t volume = layout.patch_volume();
  visit_patch(layout, channels, token, [&](index_t c, index_t voxel, index_t offset) {
    patch_row[c * volume + voxel] = latent[offset];
  });
}

void scatter_patch(const PatchLayout& layout, index_t channels, const float* patch_row,
                   index_t token, float* latent) {
  visit_patch(layout, channels, token, [&](index_t c, index_t voxel, index_t offset) {
    latent[offset] = patch_row[voxel * channels + c];
  });
}

}  // namespace psa::engine
