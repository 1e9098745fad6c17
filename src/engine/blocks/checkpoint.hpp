// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "engine/blocks/tensor_source.hpp"
#include "engine/tensors/safetensors.hpp"
#include "psa/types.hpp"

namespace psa::engine {

/// The weights of a diffusers model folder: `diffusion_pytorch_model.safetensors`, or the files
/// that `diffusion_pytorch_model.safetensors.index.json` lists. Tensors are converted when asked
/// for; nothing is read before.
class Checkpoint final : public TensorSource {
 public:
  /// Throws Error(kIo) when neither file is there, or one is not what it should be.
  static Checkpoint open(const std::filesystem::path& folder);

  /// The values of a tensor of F32, F16 or BF16, as float, in the file's order (outermost axis
  /// first). Throws Error(kIo) that names the tensor, what is expected and what was found when it
  /// is missing, has another shape or another type.
  [[nodiscard]] std::vector<float> values(std::string_view name,
                                          const std::vector<index_t>& shape) const override;

 private:
  [[nodiscard]] const io::SafetensorsFile* file_of(std::string_view name) const;

  std::string label_;  ///< path of the single file, or of the index
  std::vector<io::SafetensorsFile> files_;
  std::map<std::string, std::size_t, std::less<>> file_of_name_;  ///< index into files_
};

}  // namespace psa::engine
