// SPDX-License-Identifier: Apache-2.0
#pragma once

// A comparison as text for people and as JSON for programs.

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "comparison.hpp"

namespace psa::cli {

/// "15.0 %".
[[nodiscard]] std::string percent_text(double share);
/// "131 ms", "4.2 ms", "0.31 ms".
[[nodiscard]] std::string ms_text(double ms);

/// Tables: methods, heads if asked for, the curve if it was traced.
[[nodiscard]] std::string comparison_text(const Comparison& comparison, bool is_per_head);

/// An array with one object per method (part "comparison", head "all"), per head of a method if
/// asked for (head 0, 1, ...; times are those of the whole call), and per point of the curve (part
/// "curve"). Keys: docs/cli.md.
[[nodiscard]] nlohmann::ordered_json comparison_json(const Comparison& comparison,
                                                     bool is_per_head);

}  // namespace psa::cli
