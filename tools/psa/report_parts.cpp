// SPDX-License-Identifier: Apache-2.0
#include "report_parts.hpp"

#include <algorithm>

#include "base64.hpp"
#include "chart.hpp"
#include "engine/video/image.hpp"
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

std::string frames_figure(std::span<const engine::LabelledVideo> videos,
                          const std::string& caption) {
  constexpr int kFrames = 8;
  const engine::Image strip =
      engine::frame_strip(videos, std::min(kFrames, videos.front().video->num_frames()));
  return paragraph("caption", caption) +
         "<div class=\"strip\"><img alt=\"frames of the videos\" src=\"data:image/png;base64," +
         encode_base64(engine::encode_png(strip)) + "\"></div>\n";
}

std::string page(const std::string& title, std::string_view css, const std::string& html) {
  return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
         "<title>" +
         escape_xml(title) + "</title>\n<style>" + std::string(kReportStyle) + std::string(css) +
         "</style>\n</head>\n<body>\n<main>\n" + html + "</main>\n</body>\n</html>\n";
}

}  // namespace psa::cli
