// SPDX-License-Identifier: Apache-2.0
#include "progress.hpp"

#include <unistd.h>

#include <cstdio>

namespace psa::cli {
namespace {

constexpr const char* kEraseLine = "\r\033[K";

}  // namespace

Progress::Progress(std::string title, int steps, bool quiet)
    : title_(std::move(title)),
      steps_(steps),
      quiet_(quiet),
      is_terminal_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (!quiet_ && is_terminal_ && done_ > 0) std::fputs(kEraseLine, stderr);
}

void Progress::step(std::string_view label) {
  ++done_;
  if (quiet_) return;
  std::string line = is_terminal_ ? kEraseLine : "";
  line += title_ + " [" + std::to_string(done_) + "/" + std::to_string(steps_) + "] ";
  line += label;
  if (!is_terminal_) line += "\n";
  std::fputs(line.c_str(), stderr);
  std::fflush(stderr);
}

}  // namespace psa::cli
