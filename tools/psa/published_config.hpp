// SPDX-License-Identifier: Apache-2.0
#pragma once

// The attention_config.yaml of the published implementation:
//   <model>: {default_attention, video_scale, text_length, attention_configs: {<name>: {...}}}

#include <string>

#include "config_file.hpp"
#include "yaml_tree.hpp"

namespace psa::cli {

/// Whether some entry of the file is a model of the published form.
[[nodiscard]] bool is_published_config(const YamlNode& root);

/// The whole file is checked for unknown keys; the selected entry is translated: rest = skip,
/// importance sampled_max, the file's rule, budget, blocks, order, similarity cap and text.
[[nodiscard]] FileConfig translate_published_config(const YamlNode& root, const std::string& label,
                                                    const ConfigSelection& selection);

}  // namespace psa::cli
