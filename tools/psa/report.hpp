// SPDX-License-Identifier: Apache-2.0
#pragma once

// The report of `psa compare`: one HTML file that needs nothing else, neither network nor scripts.

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "comparison.hpp"

namespace psa::cli {

/// What the page says beside the measurements.
struct ReportFacts {
  std::string command;                                       ///< as typed
  std::string origin;                                        ///< file(s) that q, k and v came from
  std::vector<std::pair<std::string, std::string>> machine;  ///< name, value
};

/// `comparison` must hold dense and PSA, and rows and level maps (ComparisonOptions::keep_rows).
/// What did not run (binary, the curve) is left out of the page.
[[nodiscard]] std::string report_html(const Comparison& comparison, const Problem& problem,
                                      const ReportFacts& facts);

/// The same as a part of another page, whose CSS must include stage_style(): `title` and `note`
/// (both escaped here), then everything that report_html() shows of the comparison.
[[nodiscard]] std::string report_part(const std::string& title, const std::string& note,
                                      const Comparison& comparison, const std::string& origin);

/// directory/report.html. Creates the directory; throws Error(kIo) if that is not possible.
[[nodiscard]] std::filesystem::path report_path(const std::filesystem::path& directory);

/// Writes the page whole or not at all. Throws Error(kIo).
void write_report(const std::filesystem::path& path, const std::string& html);

}  // namespace psa::cli
