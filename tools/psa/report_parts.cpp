// SPDX-License-Identifier: Apache-2.0
#include "report_parts.hpp"

#include "chart.hpp"
#include "report_style.hpp"

namespace psa::cli {

std::string paragraph(const std::string& css_class, const std::string& html) {
  return "<p class=\"" + css_class + "\">" + html + "</p>\n";
}

std::string heading(const std::string& html) { return "<h2>" + html + "</h2>\n"; }

std::string figure_cell(const std::string& value, const std::string& meaning) {
  return "<div><b>" + value + "</b><span>" + meaning + "</span></div>\n";
}

std::string fact(const std::string& name, const std::string& value) {
  return "<dt>" + escape_xml(name) + "</dt><dd>" + escape_xml(value) + "</dd>\n";
}

std::string in_both_widths(const std::string& wide, const std::string& narrow) {
  return "<div class=\"wide\">" + wide + "</div><div class=\"narrow\">" + narrow + "</div>\n";
}

std::string page(const std::string& title, std::string_view css, const std::string& html) {
  return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
         "<title>" +
         escape_xml(title) + "</title>\n<style>" + std::string(kReportStyle) + std::string(css) +
         "</style>\n</head>\n<body>\n<main>\n" + html + "</main>\n</body>\n</html>\n";
}

}  // namespace psa::cli
