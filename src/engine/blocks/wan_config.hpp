// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <filesystem>

#include "engine/tensors/json_object.hpp"
#include "psa/types.hpp"

namespace psa::engine {

/// What a diffusers checkpoint says about a WanTransformer3DModel. Fields, names and defaults are
/// those of its config.json.
struct WanConfig {
  std::array<index_t, 3> patch_size{1, 2, 2};  ///< frames, height, width of latent per token
  index_t num_attention_heads = 40;
  index_t attention_head_dim = 128;  ///< even, 6..256
  index_t in_channels = 16;
  index_t out_channels = 16;
  index_t text_dim = 4096;  ///< channels of a text embedding
  index_t freq_dim = 256;   ///< channels of the sinusoidal time embedding; even
  index_t ffn_dim = 13824;
  index_t num_layers = 40;
  bool cross_attn_norm = true;  ///< affine layer norm before cross-attention
  double eps = 1e-6;
  index_t rope_max_seq_len = 1024;  ///< longest grid axis, in tokens

  [[nodiscard]] index_t dim() const { return num_attention_heads * attention_head_dim; }
  /// Values of one channel in a patch.
  [[nodiscard]] index_t patch_volume() const {
    return patch_size[0] * patch_size[1] * patch_size[2];
  }

  /// Tokens of a latent of `size` (frames, height, width). Throws Error(kInvalidArgument) that
  /// names the axis when a size is not positive, is no multiple of the patch, or gives more tokens
  /// along an axis than rope_max_seq_len.
  [[nodiscard]] VideoGrid grid_of(const std::array<index_t, 3>& size) const;
};

/// The configuration in a config.json. Keys that are not listed above are ignored, as in diffusers.
/// Throws Error(kIo) when it is of another class, or a value has the wrong type or range;
/// Error(kUnsupported) for an image-to-video model (image_dim, added_kv_proj_dim or
/// pos_embed_seq_len not null) or another qk_norm than "rms_norm_across_heads".
[[nodiscard]] WanConfig parse_wan_config(const io::JsonObject& file);

/// The folder with the transformer's config.json and weights: `dir` itself, or its subfolder
/// "transformer" if `dir` is a whole diffusers pipeline. Throws Error(kIo) if neither is there.
[[nodiscard]] std::filesystem::path transformer_folder(const std::filesystem::path& dir);

/// parse_wan_config() of `folder`/config.json.
[[nodiscard]] WanConfig read_wan_config(const std::filesystem::path& folder);

}  // namespace psa::engine
