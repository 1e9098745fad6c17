// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "engine/tensors/tensor_info.hpp"

namespace psa::cli {

/// Throws Error(kInvalidArgument) unless the name ends in .safetensors or .npy; `label` is the
/// flag.
void check_output_name(const std::filesystem::path& path, const std::string& label);

/// Throws Error(kIo) if nothing could be written there, so that a long computation does not end in
/// a failure that was certain from the start.
void check_output_writable(const std::filesystem::path& path);

/// Writes tensors to .safetensors, or one tensor to .npy, whole or not at all.
void write_tensors(const std::filesystem::path& path, const std::vector<io::TensorInfo>& tensors,
                   const std::map<std::string, std::string>& metadata);

}  // namespace psa::cli
