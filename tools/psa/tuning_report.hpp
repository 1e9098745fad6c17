// SPDX-License-Identifier: Apache-2.0
#pragma once

// The report of `psa tune`: one HTML file that needs nothing else.

#include <string>

#include "report.hpp"
#include "tuning.hpp"

namespace psa::cli {

/// `preset` is the configuration file that was written.
[[nodiscard]] std::string tuning_report_html(const Tuning& tuning, const std::string& preset,
                                             const ReportFacts& facts);

}  // namespace psa::cli
