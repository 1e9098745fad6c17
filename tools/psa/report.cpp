// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <algorithm>
#include <cstddef>
#include <system_error>

#include "chart.hpp"
#include "comparison_output.hpp"
#include "engine/tensors/atomic_file.hpp"
#include "engine/tensors/printable.hpp"
#include "psa/error.hpp"
#include "psa/psa.h"
#include "report_figures.hpp"
#include "report_parts.hpp"
#include "table.hpp"

namespace psa::cli {
namespace {

std::string cell(const std::string& html) { return "<td>" + html + "</td>"; }

/// Left out on narrow pages.
std::string extra_cell(const std::string& html) { return "<td class=\"extra\">" + html + "</td>"; }

std::string method_key(Method method) {
  const bool is_other =
      method != Method::kDense && method != Method::kPsa && method != Method::kBinary;
  return "<i class=\"key " + (is_other ? "other" : std::string(name_of(method))) + "\"></i>" +
         std::string(name_of(method));
}

/// "2, 4 or 8" of four levels.
std::string pool_factors(const Config& config) {
  std::string text;
  for (int level = 2; level <= config.num_levels; ++level) {
    text += (level == 2                   ? ""
             : level == config.num_levels ? " or "
                                          : ", ") +
            std::to_string(1 << (level - 1));
  }
  return text;
}

std::string introduction(const Config& config) {
  const std::string means =
      config.num_levels > 1 ? ", what matters less as means of " + pool_factors(config) + " tokens"
                            : "";
  const bool keeps_rest = reads_means(config.rest);
  const std::string rest = config.rest == Rest::kLinear
                               ? "one mean per block with the first-order term around it"
                               : "one mean per block";
  return paragraph(
      "lead",
      "Attention compares every token with every other one, so its cost grows with the square of "
      "their number. Pyramid Sparse Attention keeps keys and values at several resolutions and "
      "reads each block at the one that it deserves: what matters token by token" +
          means + (keeps_rest ? ", everything else as " + rest : ", the rest not at all") +
          ". All resolutions share one soft-max in which a mean of n tokens counts n times" +
          (keeps_rest ? ", so that only detail is lost." : "."));
}

std::string warnings(const Comparison& comparison) {
  constexpr std::array<const char*, 3> kNames{"q", "k", "v"};
  std::string text;
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (comparison.nonfinite[i].values == 0) continue;
    text += (text.empty() ? "" : "; ") + nonfinite_text(kNames[i], comparison.nonfinite[i]);
  }
  if (text.empty()) return "";
  return paragraph("warning",
                   "<b>NaN or Inf in the input.</b> " + text +
                       ". Rows of the output that they reach are left out of all errors.");
}

std::string key_figures(const Comparison& comparison) {
  const MethodResult& psa = *comparison.find(Method::kPsa);
  std::string html = "<div class=\"figures\">\n";
  html +=
      figure_cell(percent_text(psa.stats.density), "of the attention logits computed (density)");
  html += figure_cell(fixed(comparison.dense_ms.median / psa.ms.median, 1) + "×",
                      "as fast as dense attention here: " + ms_text(psa.ms.median) + " against " +
                          ms_text(comparison.dense_ms.median));
  std::string meaning = "relative error of the output";
  if (const MethodResult* binary = comparison.find(Method::kBinary)) {
    meaning += "; binary block-sparse attention of the same density: " +
               significant(binary->errors.all.rel_l2, 3);
  }
  if (const MethodResult* unordered = comparison.find(Method::kBinaryUnordered)) {
    meaning += " (" + significant(unordered->errors.all.rel_l2, 3) + " in the tokens' own order)";
  }
  html += figure_cell(significant(psa.errors.all.rel_l2, 3), meaning);
  html += figure_cell(percent_text(psa.selection_share()),
                      "of PSA's time goes into choosing what to read");
  return html + "</div>\n";
}

std::string method_table(const Comparison& comparison) {
  std::string html =
      "<div class=\"scroll\"><table>\n<tr><th>method</th><th>density</th>"
      "<th>relative<br>L2 error</th><th class=\"extra\">cosine</th><th "
      "class=\"extra\">largest<br>error</th>"
      "<th>time<br>ms</th><th class=\"extra\">p10–p90<br>ms</th><th>times<br>dense speed</th>"
      "<th>selection<br>of time</th></tr>\n";
  for (const MethodResult& result : comparison.methods) {
    const bool is_dense = result.method == Method::kDense;
    html += result.method == Method::kPsa ? "<tr class=\"chosen\">" : "<tr>";
    html +=
        cell(method_key(result.method)) + cell(percent_text(result.stats.density)) +
        cell(fixed(result.errors.all.rel_l2, 4)) + extra_cell(fixed(result.errors.all.cosine, 5)) +
        extra_cell(significant(result.errors.all.max_abs, 2)) + cell(fixed(result.ms.median, 1)) +
        extra_cell(fixed(result.ms.p10, 1) + "–" + fixed(result.ms.p90, 1)) +
        cell(fixed(comparison.dense_ms.median / result.ms.median, 2)) +
        cell(is_dense ? "–" : percent_text(result.selection_share())) + "</tr>\n";
  }
  return html + "</table></div>\n";
}

std::string method_notes(const Comparison& comparison) {
  const auto entry = [](Method method, const std::string& text) {
    return "<dt>" + std::string(name_of(method)) + "</dt><dd>" + text + "</dd>\n";
  };
  std::string html = "<dl>\n";
  for (const MethodResult& result : comparison.methods) {
    switch (result.method) {
      case Method::kDense:
        html += entry(result.method, "every key for every query, by the same backend");
        break;
      case Method::kPsa:
        html += entry(result.method, "Pyramid Sparse Attention as configured (see the end)");
        break;
      case Method::kBinary:
        html += entry(result.method,
                      "blocks are read in full or skipped; same estimator, order and blocks, its "
                      "density raised to the first possible one that is not below PSA's");
        break;
      case Method::kBinaryUnordered:
        html += entry(result.method, "as binary, with the tokens in their own order");
        break;
      case Method::kBinaryMean:
        html += entry(result.method, "as binary, but unread blocks count through their mean");
        break;
      case Method::kOfficialSplit:
        html += entry(result.method,
                      "the published shares of full, half and eighth resolution, rest skipped, "
                      "scaled to PSA's density");
        break;
    }
  }
  return html + "</dl>\n" +
         paragraph("note", "Errors are against " + escape_xml(comparison.reference) +
                               ": |difference| / |reference| over all elements. Times are medians "
                               "of whole calls, reordering and selection included.");
}

std::string head_table(const Comparison& comparison) {
  const MethodResult& psa = *comparison.find(Method::kPsa);
  const MethodResult* binary = comparison.find(Method::kBinary);
  std::string html =
      "<div class=\"scroll\"><table>\n<tr><th>head</th><th>PSA<br>density</th><th>PSA<br>error</th>"
      "<th>PSA<br>cosine</th>";
  if (binary != nullptr) html += "<th>binary<br>error</th><th>binary error<br>/ PSA error</th>";
  html += "<th class=\"text\">blocks by level (PSA)</th></tr>\n";
  for (std::size_t h = 0; h < psa.head_density.size(); ++h) {
    const ErrorMetrics& errors = psa.errors.heads[h];
    html += "<tr>" + cell(std::to_string(h)) + cell(percent_text(psa.head_density[h])) +
            cell(fixed(errors.rel_l2, 4)) + cell(fixed(errors.cosine, 5));
    if (binary != nullptr) {
      const double other = binary->errors.heads[h].rel_l2;
      html +=
          cell(fixed(other, 4)) + cell(errors.rel_l2 > 0 ? fixed(other / errors.rel_l2, 2) : "–");
    }
    html += "<td class=\"text\">" + level_shares_bar(psa.head_blocks[h]) + "</td></tr>\n";
  }
  return html + "</table></div>\n";
}

std::string order_text(Reorder order) {
  switch (order) {
    case Reorder::kNone:
      return "their own order";
    case Reorder::kGilbert:
      return "the order of a Gilbert curve through the video";
    case Reorder::kTile3d:
      return "the order of small boxes of the video";
    case Reorder::kKMeans:
    case Reorder::kHybrid:
      return "an order by content";
  }
  return "";
}

std::string level_maps_section(const Comparison& comparison, const Problem& problem) {
  return heading("What each head reads") +
         paragraph("caption",
                   "One pixel is one pair of blocks: queries from top to bottom, keys from left to "
                   "right, " +
                       std::to_string(problem.config.block_q) + " × " +
                       std::to_string(problem.config.block_kv) + " tokens, in " +
                       order_text(problem.config.reorder) +
                       ". The brighter, the finer the keys are read.") +
         level_map_figures(comparison);
}

std::string errors_section(const Comparison& comparison, const Problem& problem) {
  const VideoGrid& grid = problem.layout.grid;
  const std::string place = grid.tokens() > 0
                                ? "One pixel is one token; the " + std::to_string(grid.frames) +
                                      " frames of " + std::to_string(grid.width) + " × " +
                                      std::to_string(grid.height) +
                                      " tokens run from left to right and from top to bottom."
                                : "One pixel is one token, in the order of the sequence.";
  return heading("Where the error is") +
         paragraph("caption",
                   place +
                       " Dark is exact; the bright end of each head's scale is the error that 99 % "
                       "of its tokens stay below, with the worse method. Unit: the typical length "
                       "(root mean square) of the head's dense output.") +
         error_figures(comparison, problem.layout);
}

std::string curve_section(const Comparison& comparison) {
  const std::string figure = curve_figure(comparison);
  if (figure.empty()) return "";
  return heading("Error against density") +
         paragraph("caption",
                   "All heads together, against dense attention. Lower is better; further left is "
                   "cheaper. Each point is a run of its own with the budget scaled; the rings are "
                   "the methods of the table above.") +
         figure;
}

std::string origin_line(const std::string& origin, const Problem& problem) {
  return paragraph("origin", escape_xml(origin) + " · " + escape_xml(format_shape(problem.shape)));
}

/// What is measured, up to how it was made.
std::string comparison_sections(const Comparison& comparison, const Problem& problem) {
  return introduction(problem.config) + warnings(comparison) + key_figures(comparison) +
         heading("Methods") + method_table(comparison) + method_notes(comparison) +
         curve_section(comparison) + heading("Where the time goes") +
         paragraph(
             "caption",
             "Medians of each method's calls, stage by stage. Colors are what dense attention "
             "does not have to do.") +
         time_figure(comparison) + level_maps_section(comparison, problem) +
         errors_section(comparison, problem) + heading("Head by head") + head_table(comparison);
}

/// The input and what each method computed, for <dl>.
std::string comparison_facts(const Comparison& comparison, const Problem& problem,
                             const std::string& origin) {
  std::string html = fact("input", origin) + fact("problem", format_problem(problem));
  for (const MethodResult& result : comparison.methods) {
    if (result.method == Method::kDense || result.method == Method::kPsa) continue;
    html += fact(std::string(name_of(result.method)), format_problem(result.problem));
  }
  return html;
}

std::string plan_block(const Comparison& comparison) {
  return "<pre>" + escape_xml(comparison.plan_text) + "</pre>\n";
}

std::string facts_section(const Comparison& comparison, const Problem& problem,
                          const ReportFacts& facts) {
  std::string html =
      heading("How this was made") + "<pre>" + escape_xml(facts.command) + "</pre>\n<dl>\n";
  html += comparison_facts(comparison, problem, facts.origin);
  for (const auto& [name, value] : facts.machine) html += fact(name, value);
  html += fact("psa", psa_version());
  return html + "</dl>\n" + plan_block(comparison);
}

}  // namespace

std::string report_html(const Comparison& comparison, const Problem& problem,
                        const ReportFacts& facts) {
  return page("Pyramid Sparse Attention compared", stage_style(),
              "<h1>Pyramid Sparse Attention, compared</h1>\n" + origin_line(facts.origin, problem) +
                  comparison_sections(comparison, problem) +
                  facts_section(comparison, problem, facts));
}

std::string report_part(const std::string& title, const std::string& note,
                        const Comparison& comparison, const std::string& origin) {
  const Problem& problem = comparison.find(Method::kPsa)->problem;
  return "<h1 class=\"part\">" + escape_xml(title) + "</h1>\n" + origin_line(origin, problem) +
         paragraph("lead", escape_xml(note)) + comparison_sections(comparison, problem) +
         heading("What was compared") + "<dl>\n" + comparison_facts(comparison, problem, origin) +
         "</dl>\n" + plan_block(comparison);
}

std::filesystem::path report_path(const std::filesystem::path& directory) {
  std::error_code failure;
  std::filesystem::create_directories(directory, failure);
  if (failure) {
    throw Error(Status::kIo, "--report cannot create the folder " +
                                 io::printable(directory.string()) + ": " + failure.message());
  }
  return directory / "report.html";
}

void write_report(const std::filesystem::path& path, const std::string& html) {
  io::write_file(path, html);
}

}  // namespace psa::cli
