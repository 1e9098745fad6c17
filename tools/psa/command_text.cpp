// SPDX-License-Identifier: Apache-2.0
#include "command_text.hpp"

#include <algorithm>
#include <vector>

namespace psa::cli {

std::string command_text(const CLI::App& command) {
  std::string text = "psa " + command.get_name();
  std::vector<const CLI::Option*> seen;
  for (const CLI::Option* option : command.parse_order()) {
    if (std::find(seen.begin(), seen.end(), option) != seen.end()) continue;
    seen.push_back(option);
    if (!option->get_positional()) text += " " + option->get_name();
    if (option->get_items_expected_max() == 0) continue;
    for (const std::string& value : option->results()) {
      text += value.find(' ') == std::string::npos ? " " + value : " '" + value + "'";
    }
  }
  return text;
}

}  // namespace psa::cli
