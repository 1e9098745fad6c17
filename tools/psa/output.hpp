// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace psa::cli {

/// Writes to stdout. Errors are kept and reported by finish_output().
void print(std::string_view text);
/// The same for a whole document, indented, with a line feed. Text that is not UTF-8 is replaced,
/// NaN and infinities become null.
void print_json(const nlohmann::ordered_json& document);

/// Flushes stdout. Throws Error(kIo) if something could not be written, but not if the reader of a
/// pipe has left (`psa inspect ... | head`).
void finish_output();

}  // namespace psa::cli
