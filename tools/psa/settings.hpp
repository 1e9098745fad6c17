// SPDX-License-Identifier: Apache-2.0
#pragma once

// The named values of a problem. One table serves three syntaxes:
//   problem string `min_full=2`   flag `--min-full 2`   configuration file `min_full: 2`

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "problem.hpp"

namespace psa::cli {

enum class SettingGroup { kSelection, kImportance, kLayout };

struct Setting {
  std::string_view name;   ///< as in problem strings and files; a flag has '-' for '_'
  std::string_view alias;  ///< second name in problem strings, or ""
  std::string_view value;  ///< form of the value for help texts; "" for a switch
  std::string_view help;
  SettingGroup group;
  /// Parses `text` into the problem. `label` names the value in messages, such as "--block".
  void (*apply)(Problem& problem, const std::string& label, std::string_view text);
  /// The text that apply() reads back; nothing if the value is the default.
  std::optional<std::string> (*format)(const Problem& problem, const Problem& defaults);
};

/// In the order in which values must be applied: `preset` first; last `density`, which depends on
/// the others, and `head_density`, which stands in for it. A budget or a density for all heads
/// drops densities per head that a preset or a file gave.
[[nodiscard]] std::span<const Setting> settings();

/// nullptr if there is no such setting.
[[nodiscard]] const Setting* find_setting(std::string_view name_or_alias);

/// Sets the budget so that the density is about `density` (without selection): the shares of the
/// default preset (.55 of the density at level 1, then .15, .10 and .20 at levels 2, 4 and 8),
/// less the price of the block means if rest is mean. Throws Error(kInvalidArgument) if not
/// possible.
void set_density(Config& config, double density, const std::string& label);

}  // namespace psa::cli
