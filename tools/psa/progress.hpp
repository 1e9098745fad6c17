// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace psa::cli {

/// One line on stderr that says what a long command is doing. On a terminal the line is rewritten
/// in place and erased at the end; elsewhere each label is one line; with `quiet`, nothing.
class Progress {
 public:
  Progress(std::string title, int steps, bool quiet = false);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();

  /// Begins the next step: "compare [2/7] binary density .15".
  void step(std::string_view label);

 private:
  std::string title_;
  int steps_;
  int done_ = 0;
  bool quiet_;
  bool is_terminal_;
};

}  // namespace psa::cli
