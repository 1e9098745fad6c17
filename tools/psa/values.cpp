// SPDX-License-Identifier: Apache-2.0
#include "values.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <sstream>

#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"

namespace psa::cli {
namespace {

std::string number_text(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

// Levenshtein distance of two short words.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

void reject(const Given& given, const std::string& allowed) {
  throw Error(Status::kInvalidArgument,
              given.label + " is " + io::printable(given.text) + "; " + allowed);
}

index_t parse_integer(const Given& given, index_t low, index_t high) {
  index_t value = 0;
  const char* end = given.text.data() + given.text.size();
  const auto [stop, error] = std::from_chars(given.text.data(), end, value);
  if (error != std::errc() || stop != end || value < low || value > high) {
    reject(given, "allowed: whole numbers " + std::to_string(low) + ".." + std::to_string(high));
  }
  return value;
}

double parse_number(const Given& given, double low, double high) {
  double value = 0;
  const char* end = given.text.data() + given.text.size();
  const auto [stop, error] = std::from_chars(given.text.data(), end, value);
  if (error != std::errc() || stop != end || !(value >= low && value <= high)) {
    reject(given, "allowed: numbers " + number_text(low) + ".." + number_text(high));
  }
  return value;
}

bool parse_switch(const Given& given) {
  constexpr Words<bool, 8> kWords{{{"true", true},
                                   {"false", false},
                                   {"on", true},
                                   {"off", false},
                                   {"yes", true},
                                   {"no", false},
                                   {"1", true},
                                   {"0", false}}};
  return parse_word(given, kWords);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  std::size_t begin = 0;
  for (;;) {
    const std::size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

std::vector<index_t> parse_sizes(const Given& given, std::size_t count, const std::string& form,
                                 index_t low, index_t high) {
  const char separator = given.text.find('x') != std::string_view::npos ? 'x' : ',';
  const std::vector<std::string_view> parts = split(given.text, separator);
  if (parts.size() != count) {
    reject(given, "expected " + std::to_string(count) + " whole numbers, " + form);
  }
  std::vector<index_t> sizes;
  sizes.reserve(parts.size());
  for (const std::string_view part : parts) {
    sizes.push_back(parse_integer({"a number of " + given.label, part}, low, high));
  }
  return sizes;
}

std::vector<float> parse_numbers(const Given& given, std::size_t max_count, double low,
                                 double high) {
  const std::vector<std::string_view> parts = split(given.text, ',');
  if (parts.size() > max_count) {
    reject(given, "allowed: 1.." + std::to_string(max_count) + " numbers between commas");
  }
  std::vector<float> numbers;
  numbers.reserve(parts.size());
  for (const std::string_view part : parts) {
    numbers.push_back(
        static_cast<float>(parse_number({"a number of " + given.label, part}, low, high)));
  }
  return numbers;
}

std::string float_text(float value) {
  std::array<char, 32> buffer{};
  const auto [end, error] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return {buffer.data(), end};
}

std::string numbers_text(std::span<const float> values) {
  std::string text;
  for (const float value : values) text.append(text.empty() ? "" : ",").append(float_text(value));
  return text;
}

std::string join(std::span<const std::string> parts, std::string_view separator) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) text += separator;
    text += parts[i];
  }
  return text;
}

std::string suggestion(std::string_view given, std::span<const std::string_view> candidates) {
  constexpr std::size_t kLongestWord =
      64;  // longer ones are no misspelling, and cost quadratic time
  if (given.size() > kLongestWord) return "";
  std::string_view nearest;
  std::size_t distance = std::max<std::size_t>(2, given.size() / 3) + 1;
  for (const std::string_view candidate : candidates) {
    const std::size_t d = edit_distance(given, candidate);
    if (d < distance) {
      distance = d;
      nearest = candidate;
    }
  }
  return nearest.empty() ? "" : "; did you mean '" + std::string(nearest) + "'?";
}

}  // namespace psa::cli
