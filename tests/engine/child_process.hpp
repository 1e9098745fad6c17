// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <grp.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <functional>
#include <string>

#include "psa/error.hpp"

namespace psa::io {

/// Limits that hold for one child process only, since neither can be undone in this one.
struct ChildLimits {
  bool is_unprivileged = false;  ///< root ignores permission bits, so it becomes "nobody"
  ::rlim_t max_file_bytes = RLIM_INFINITY;  ///< a write past it fails like one to a full disk
};

inline bool apply(const ChildLimits& limits) {
  if (limits.max_file_bytes != RLIM_INFINITY) {
    std::signal(SIGXFSZ, SIG_IGN);
    const ::rlimit limit{limits.max_file_bytes, limits.max_file_bytes};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return false;
  }
  if (limits.is_unprivileged && ::geteuid() == 0) {
    constexpr ::uid_t kNobody = 65534;
    return ::setgroups(0, nullptr) == 0 && ::setgid(kNobody) == 0 && ::setuid(kNobody) == 0;
  }
  return true;
}

/// Runs `action` in a child process and returns the message of the psa::Error(kIo) that it threw.
inline std::string io_error_in_child(const ChildLimits& limits,
                                     const std::function<void()>& action) {
  std::array<int, 2> pipe_ends{};
  if (::pipe(pipe_ends.data()) != 0) return "(no pipe)";
  const ::pid_t child = ::fork();
  if (child == 0) {
    std::string message = "(the child threw no psa::Error)";
    try {
      if (!apply(limits)) {
        message = "(the limits cannot be applied)";
      } else {
        action();
      }
    } catch (const Error& error) {
      message = error.status() == Status::kIo ? error.what() : "(wrong status)";
    }
    const ::ssize_t written = ::write(pipe_ends[1], message.data(), message.size());
    ::_exit(written == static_cast<::ssize_t>(message.size()) ? 0 : 1);
  }
  ::close(pipe_ends[1]);
  std::string message;
  std::array<char, 512> piece{};
  for (::ssize_t count = 0; (count = ::read(pipe_ends[0], piece.data(), piece.size())) > 0;) {
    message.append(piece.data(), static_cast<std::size_t>(count));
  }
  ::close(pipe_ends[0]);
  int exit_status = -1;
  EXPECT_EQ(::waitpid(child, &exit_status, 0), child);
  EXPECT_EQ(exit_status, 0);
  return message;
}

}  // namespace psa::io
