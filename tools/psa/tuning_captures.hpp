// SPDX-License-Identifier: Apache-2.0
#pragma once

// The files that psa tune learns from: q, k and v of one layer and step each, as psa generate
// --capture writes them.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "psa/types.hpp"

namespace psa::cli {

struct Capture {
  std::filesystem::path path;
  std::optional<index_t> layer;  ///< of the model; of all captures or of none
  index_t step = 0;              ///< of the sampler; 0 if the file does not say
  std::string prompt;            ///< empty if the file does not say
};

/// "layer 3, step 14"
[[nodiscard]] std::string place_of(const Capture& capture);

/// The files, and the .safetensors files of the folders, by layer, step, prompt and path. Reads
/// their metadata "layer", "step" and "prompt". Throws Error: kInvalidArgument if there are none, a
/// number is not valid, or only some say their layer; kIo for a file that cannot be read.
[[nodiscard]] std::vector<Capture> find_captures(const std::vector<std::string>& paths);

/// What is tuned on and what the result is tried on.
struct CaptureSplit {
  std::vector<Capture> tuned;
  std::vector<Capture> held_out;  ///< empty: there was too little to hold anything out
  std::string rule;               ///< how they were told apart, for people
};

/// With several prompts the last quarter of them (in alphabetical order, at least one) is held out;
/// with one, the middle step of each layer that has several. No layer is held out entirely.
[[nodiscard]] CaptureSplit split_captures(const std::vector<Capture>& captures);

}  // namespace psa::cli
