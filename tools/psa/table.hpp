// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace psa::cli {

/// Text in aligned columns, two spaces apart, with a rule under the heading.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string heading;
    Align align = Align::kRight;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  /// As many cells as columns.
  void add_row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  [[nodiscard]] std::string text() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

/// `value` with `digits` after the point.
[[nodiscard]] std::string fixed(double value, int digits);
/// `value` with `digits` significant digits: 0.000123, 1.23e-07, nan.
[[nodiscard]] std::string significant(double value, int digits);
/// "3.2 GiB", "512 B".
[[nodiscard]] std::string bytes_text(double bytes);

}  // namespace psa::cli
