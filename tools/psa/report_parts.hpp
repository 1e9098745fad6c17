// SPDX-License-Identifier: Apache-2.0
#pragma once

// Pieces of HTML that all reports use. Arguments called html are not escaped.

#include <span>
#include <string>
#include <string_view>

#include "engine/video/video.hpp"

namespace psa::cli {

[[nodiscard]] std::string paragraph(const std::string& css_class, const std::string& html);
[[nodiscard]] std::string heading(const std::string& html);
/// A large number with what it means, for <div class="figures">.
[[nodiscard]] std::string figure_cell(const std::string& value, const std::string& meaning);
/// A name and its value, both escaped, for <dl>.
[[nodiscard]] std::string fact(const std::string& name, const std::string& value);
/// Two forms of one chart, of which the style of all reports shows the one that fits the window.
[[nodiscard]] std::string in_both_widths(const std::string& wide, const std::string& narrow);
/// Frames of the videos from the first to the last, a row for each, and what they are.
[[nodiscard]] std::string frames_figure(std::span<const engine::LabelledVideo> videos,
                                        const std::string& caption);
/// A whole page with the style of all reports and more CSS.
[[nodiscard]] std::string page(const std::string& title, std::string_view css,
                               const std::string& html);

}  // namespace psa::cli
