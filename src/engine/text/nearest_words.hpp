// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace psa::engine {

/// Insertions, deletions, replacements and swaps of neighbouring bytes that turn `a` into `b`, each
/// byte taking part in one of them at most (optimal string alignment).
[[nodiscard]] int edit_distance(std::string_view a, std::string_view b);

/// At most `count` of the words in `known` that `typed` may have been meant to be: those with the
/// smallest distance, if it is no more than half of the letters of the longer word; in the order
/// given.
[[nodiscard]] std::vector<std::string> nearest_words(std::string_view typed,
                                                     std::span<const std::string> known,
                                                     std::size_t count);

}  // namespace psa::engine
