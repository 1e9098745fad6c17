// SPDX-License-Identifier: Apache-2.0
#include "engine/text/nearest_words.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace psa::engine {

int edit_distance(std::string_view a, std::string_view b) {
  std::vector<int> before(b.size() + 1);  // of a's first i - 2, i - 1 and i bytes
  std::vector<int> above(b.size() + 1);
  std::vector<int> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::swap(before, above);
    std::swap(above, row);
    row[0] = static_cast<int>(i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const int replaced = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({replaced, above[j] + 1, row[j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
  }
  return row.back();
}

std::vector<std::string> nearest_words(std::string_view typed, std::span<const std::string> known,
                                       std::size_t count) {
  constexpr std::size_t kLongestWord = 64;  // longer ones are no typing errors
  if (typed.size() > kLongestWord) return {};
  struct Candidate {
    int distance;
    const std::string* word;
  };
  std::vector<Candidate> candidates;
  for (const std::string& word : known) {
    const int distance = edit_distance(typed, word);
    const std::size_t longer = std::max(typed.size(), word.size());
    if (2 * static_cast<std::size_t>(distance) <= longer) candidates.push_back({distance, &word});
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.distance < b.distance; });
  std::vector<std::string> nearest;
  for (const Candidate& candidate : candidates) {
    if (nearest.size() == count || candidate.distance > candidates.front().distance) break;
    nearest.push_back(*candidate.word);
  }
  return nearest;
}

}  // namespace psa::engine
