// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace psa::cli {

/// The command line again, as psa understood it.
[[nodiscard]] std::string command_text(const CLI::App& command);

}  // namespace psa::cli
