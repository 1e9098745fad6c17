// SPDX-License-Identifier: Apache-2.0
#pragma once

// The report of `psa generate`: one HTML file that needs nothing else, neither network nor scripts.

#include <string>

#include "generation_output.hpp"
#include "report.hpp"

namespace psa::cli {

/// The videos, how alike they are, where the time went, and what each layer read in each step; then
/// the comparison of each capture that has one.
/// `run.psa` must hold pixels.
[[nodiscard]] std::string generation_report_html(const GenerationRun& run, int frames_per_second,
                                                 const ReportFacts& facts);

}  // namespace psa::cli
