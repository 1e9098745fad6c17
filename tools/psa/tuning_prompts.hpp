// SPDX-License-Identifier: Apache-2.0
#pragma once

// The prompts whose videos psa tune --model learns from.

#include <filesystem>
#include <string>
#include <vector>

namespace psa::cli {

/// The prompts that a model brings, beside its weights; in the form of --prompts.
inline constexpr const char* kPromptsFile = "prompts.txt";

/// One prompt a line; empty lines and those that begin with '#' are none. Throws Error:
/// kInvalidArgument if there is none or the file is larger than 256 KiB; kIo if it cannot be read.
[[nodiscard]] std::vector<std::string> read_prompts(const std::filesystem::path& path);

/// --prompt, else --prompts, else kPromptsFile of the model. Throws Error(kInvalidArgument) if
/// there are none or one is there twice, and what read_prompts() throws.
[[nodiscard]] std::vector<std::string> tuning_prompts(const std::vector<std::string>& given,
                                                      const std::string& file,
                                                      const std::filesystem::path& model);

}  // namespace psa::cli
