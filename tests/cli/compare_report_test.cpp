// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>
#include <vector>

#include "comparison_output.hpp"
#include "engine/scratch_dir.hpp"
#include "psa/error.hpp"
#include "report.hpp"
#include "report_figures.hpp"
#include "sample_comparison.hpp"

namespace psa::cli {
namespace {

using testing::HasSubstr;
using testing::Not;
using Json = nlohmann::ordered_json;

const ReportFacts kFacts{"psa compare a.safetensors", "a.safetensors", {{"processor", "x"}}};

std::string sample_html() { return report_html(sample_comparison(), sample_problem(), kFacts); }

/// The first tag that is not closed, or closed without being open; "" if all match.
std::string unbalanced_tag(const std::string& html) {
  constexpr std::array<const char*, 4> kVoid{"meta", "img", "br", "!DOCTYPE"};
  std::vector<std::string> open;
  const std::regex tag("<(/?)([A-Za-z0-9!]+)[^<>]*?(/?)>");
  for (std::sregex_iterator found(html.begin(), html.end(), tag), end; found != end; ++found) {
    const std::string name = (*found)[2];
    if (std::find(kVoid.begin(), kVoid.end(), name) != kVoid.end() || (*found)[3] == "/") continue;
    if ((*found)[1] != "/") {
      open.push_back(name);
    } else if (open.empty() || open.back() != name) {
      return "/" + name;
    } else {
      open.pop_back();
    }
  }
  return open.empty() ? "" : open.back();
}

TEST(Report, NeedsNothingFromOutside) {
  const std::string html = sample_html();
  for (const char* outside : {"http:", "https:", "//cdn", "<script", "<link", "@import", "url("}) {
    EXPECT_THAT(html, Not(HasSubstr(outside)));
  }
  const std::regex source("(src|href)=\"([^\"]{0,22})");
  std::size_t sources = 0;
  for (std::sregex_iterator found(html.begin(), html.end(), source), end; found != end; ++found) {
    EXPECT_EQ((*found)[2], "data:image/png;base64,");
    ++sources;
  }
  EXPECT_GE(sources, 8U);  // two heads, two methods: level maps and errors
}

TEST(Report, IsWellFormed) {
  const std::string html = sample_html();
  EXPECT_EQ(unbalanced_tag(html), "");
  EXPECT_THAT(html, testing::StartsWith("<!DOCTYPE html>"));
  EXPECT_THAT(html, HasSubstr("width=device-width"));
  EXPECT_THAT(html, HasSubstr("prefers-color-scheme: dark"));
}

TEST(Report, ShowsTheMeasuredNumbers) {
  const std::string html = sample_html();
  EXPECT_THAT(html, HasSubstr(">0.1000<"));  // error of psa
  EXPECT_THAT(html, HasSubstr(">0.4000<"));  // error of binary
  EXPECT_THAT(html, HasSubstr(">25.0 %<"));  // density
  EXPECT_THAT(html, HasSubstr(">5.00<"));    // times dense speed
  EXPECT_THAT(html, HasSubstr(">15.0 %<"));  // selection: 3 of 20 ms
  EXPECT_THAT(html, HasSubstr("psa compare a.safetensors"));
}

TEST(Report, EscapesNamesThatLookLikeMarkup) {
  ReportFacts facts = kFacts;
  facts.origin = "<script>alert('x')</script>.safetensors";
  facts.command = "psa compare \"<b>\"";
  const std::string html = report_html(sample_comparison(), sample_problem(), facts);
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;"));
  EXPECT_EQ(unbalanced_tag(html), "");
}

TEST(Report, PartShowsWhatThePageShows) {
  const std::string part = report_part("a < b", "why & how", sample_comparison(), "a.safetensors");
  EXPECT_THAT(part, testing::StartsWith("<h1 class=\"part\">a &lt; b</h1>"));
  EXPECT_THAT(part, HasSubstr("why &amp; how"));
  EXPECT_THAT(part, HasSubstr("a.safetensors"));
  EXPECT_THAT(part, Not(HasSubstr("<html")));
  EXPECT_EQ(unbalanced_tag(part), "");
  const std::string page = sample_html();
  const std::string first = "<div class=\"figures\">";
  const std::string last = "blocks by level (PSA)";
  const auto measured = [&](const std::string& html) {
    return html.substr(html.find(first), html.find(last) - html.find(first));
  };
  EXPECT_EQ(measured(part), measured(page));
}

TEST(Report, LeavesOutWhatDidNotRun) {
  Comparison comparison = sample_comparison();
  comparison.methods.pop_back();  // binary
  comparison.curve.clear();
  const std::string html = report_html(comparison, sample_problem(), kFacts);
  EXPECT_THAT(html, Not(HasSubstr("Error against density")));
  EXPECT_THAT(html, Not(HasSubstr("Binary block-sparse")));
  EXPECT_EQ(unbalanced_tag(html), "");
}

TEST(Report, WarnsOfNanInTheInput) {
  EXPECT_THAT(sample_html(), Not(HasSubstr("NaN")));
  Comparison comparison = sample_comparison();
  comparison.nonfinite[2] = {3, 1, {{0, 1, 7}}};
  const std::string html = report_html(comparison, sample_problem(), kFacts);
  EXPECT_THAT(html, HasSubstr("v has 3 values that are NaN or Inf, in 1 row"));
}

TEST(Report, DrawsTokensWithoutAGridInOrder) {
  Problem problem = sample_problem();
  problem.layout.grid = {};
  const std::string html = report_html(sample_comparison(), problem, kFacts);
  EXPECT_THAT(html, HasSubstr("in the order of the sequence"));
  EXPECT_EQ(unbalanced_tag(html), "");
}

TEST(Report, QuantileIgnoresNan) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> values{3, nan, 1, 2, nan, 5, 4};
  EXPECT_EQ(quantile_of(values, 0), 1);
  EXPECT_EQ(quantile_of(values, 0.5), 3);
  EXPECT_EQ(quantile_of(values, 1), 5);
  EXPECT_EQ(quantile_of(std::vector<float>{nan}, 0.5), 0);
}

TEST(Report, ReplacesAnOlderOneAsAWhole) {
  const io::ScratchDir scratch;
  const std::filesystem::path path = report_path(scratch.path("new/folder"));
  EXPECT_EQ(path, scratch.path("new/folder/report.html"));
  io::put_content(path, "older");
  write_report(path, "<p>newer");
  EXPECT_EQ(io::content_of(path), "<p>newer");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(path.parent_path()), {}), 1);
}

TEST(Report, FailureLeavesTheFolderAsItWas) {
  const io::ScratchDir scratch;
  std::filesystem::create_directory(scratch.path("report.html"));
  EXPECT_THROW(write_report(scratch.path("report.html"), "x"), Error);
  EXPECT_THAT(scratch.listing(), testing::ElementsAre("report.html"));
  io::put_content(scratch.path("file"), "kept");
  try {
    static_cast<void>(report_path(scratch.path("file/below")));
    FAIL() << "a folder below a file";
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kIo);
    EXPECT_THAT(error.what(), HasSubstr("--report"));
  }
  EXPECT_EQ(io::content_of(scratch.path("file")), "kept");
}

TEST(ComparisonJson, HasOneObjectPerMethodWithTheDocumentedKeys) {
  Comparison comparison = sample_comparison();
  comparison.curve.clear();
  const Json rows = comparison_json(comparison, false);
  ASSERT_TRUE(rows.is_array());
  ASSERT_EQ(rows.size(), 3U);
  for (const Json& row : rows) {
    for (const char* key : {"method", "density", "rel_l2", "cosine", "ms", "dense_ms", "speedup",
                            "selection_ms", "head", "max_abs", "nonfinite_q", "config"}) {
      EXPECT_TRUE(row.contains(key)) << key;
    }
    EXPECT_EQ(row["head"], "all");
    EXPECT_EQ(row["dense_ms"], 100);
  }
  EXPECT_EQ(rows[1]["method"], "psa");
  EXPECT_EQ(rows[1]["speedup"], 5);
  EXPECT_EQ(rows[1]["selection_ms"], 3);
  EXPECT_EQ(rows[2]["rel_l2"], 0.4);
}

TEST(ComparisonJson, AddsHeadsAndCurve) {
  const Json rows = comparison_json(sample_comparison(), true);
  ASSERT_EQ(rows.size(), (3U + 6U) * 3U);
  EXPECT_EQ(rows[4]["method"], "psa");
  EXPECT_EQ(rows[4]["head"], 0);
  EXPECT_EQ(rows[5]["head"], 1);
  EXPECT_EQ(rows[5]["rel_l2"], 0.2);
  EXPECT_EQ(rows[9]["part"], "curve");
}

TEST(ComparisonJson, WritesErrorsThatAreNoNumbersAsNull) {
  Comparison comparison = sample_comparison();
  comparison.methods[1].errors.all.rel_l2 = std::numeric_limits<double>::infinity();
  EXPECT_THAT(comparison_json(comparison, false).dump(), HasSubstr("\"rel_l2\":null"));
}

TEST(ComparisonText, ListsMethodsHeadsAndReference) {
  const Comparison comparison = sample_comparison();
  const std::string text = comparison_text(comparison, true);
  EXPECT_THAT(text, HasSubstr("binary   0.2500        0.4000"));
  EXPECT_THAT(text, HasSubstr("   1  psa      0.2500        0.2000"));
  EXPECT_THAT(text, HasSubstr("against dense attention of the same backend, f32"));
  EXPECT_THAT(comparison_text(comparison, false), Not(HasSubstr("head")));
}

}  // namespace
}  // namespace psa::cli
