// SPDX-License-Identifier: Apache-2.0
#pragma once

// Numbers and words as people type them. Every function throws Error(kInvalidArgument) with
// "<label> is '<given>'; <allowed>".

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "psa/types.hpp"

namespace psa::cli {

/// What is parsed and what messages call it, such as "--block" or "file.yaml:7: block".
struct Given {
  std::string label;
  std::string_view text;
};

[[noreturn]] void reject(const Given& given, const std::string& allowed);

/// The most that a setting which is an int in psa.h takes.
inline constexpr index_t kMaxInt = std::numeric_limits<std::int32_t>::max();

/// Decimal digits with an optional sign; nothing else.
[[nodiscard]] index_t parse_integer(const Given& given, index_t low, index_t high);
/// A finite number in [low, high].
[[nodiscard]] double parse_number(const Given& given, double low, double high);
/// "true" or "false" (also on/off, yes/no, 1/0).
[[nodiscard]] bool parse_switch(const Given& given);

/// The parts between separators; one empty part for an empty text.
[[nodiscard]] std::vector<std::string_view> split(std::string_view text, char separator);
/// `count` integers between 'x' or ',' ("21x30x52"); `form` describes them, such as "F,H,W".
[[nodiscard]] std::vector<index_t> parse_sizes(const Given& given, std::size_t count,
                                               const std::string& form, index_t low, index_t high);
/// 1..max_count numbers in [low, high] between commas.
[[nodiscard]] std::vector<float> parse_numbers(const Given& given, std::size_t max_count,
                                               double low, double high);

/// The shortest text that reads back as the same float.
[[nodiscard]] std::string float_text(float value);
/// What parse_numbers() reads back.
[[nodiscard]] std::string numbers_text(std::span<const float> values);
[[nodiscard]] std::string join(std::span<const std::string> parts, std::string_view separator);

/// "; did you mean 'rule'?" if a candidate is close to `given`, else "".
[[nodiscard]] std::string suggestion(std::string_view given,
                                     std::span<const std::string_view> candidates);

/// The words of an enumeration.
template <typename Enum, std::size_t kCount>
using Words = std::array<std::pair<std::string_view, Enum>, kCount>;

template <typename Enum, std::size_t kCount>
[[nodiscard]] Enum parse_word(const Given& given, const Words<Enum, kCount>& words) {
  std::string allowed = "allowed: ";
  for (const auto& [word, value] : words) {
    if (word == given.text) return value;
    if (word != words.front().first) allowed += ", ";
    allowed += word;
  }
  reject(given, allowed);
}

template <typename Enum, std::size_t kCount>
[[nodiscard]] std::string_view word_of(Enum value, const Words<Enum, kCount>& words) {
  for (const auto& [word, word_value] : words) {
    if (word_value == value) return word;
  }
  return "unknown";
}

}  // namespace psa::cli
