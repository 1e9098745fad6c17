// SPDX-License-Identifier: Apache-2.0
#pragma once

// What psa tune found: for people, for programs, and as a configuration file.

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "tuning.hpp"

namespace psa::cli {

[[nodiscard]] std::string tuning_text(const Tuning& tuning);
[[nodiscard]] nlohmann::ordered_json tuning_json(const Tuning& tuning);

/// The configuration file (docs/cli.md), with what was measured as comments. `command` is the
/// command line that made it.
[[nodiscard]] std::string tuning_yaml(const Tuning& tuning, const std::string& command);

}  // namespace psa::cli
