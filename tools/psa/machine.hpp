// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace psa::cli {

/// The computer that the process runs on; empty or 0 where the system does not tell.
struct Machine {
  std::string system;     ///< "Linux 6.1.0 x86_64"
  std::string cpu_model;  ///< "AMD EPYC 9654"
  int processors = 0;     ///< present
  int usable = 0;         ///< that this process may use
  std::uint64_t memory_bytes = 0;
  std::uint64_t available_bytes = 0;  ///< without swapping
};

[[nodiscard]] Machine this_machine();

}  // namespace psa::cli
