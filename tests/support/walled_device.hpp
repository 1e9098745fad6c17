// SPDX-License-Identifier: Apache-2.0
#pragma once

// A device without hardware, to test what the host may not do: its memory is closed to the host, so
// that following one of its pointers ends the program, and its work waits in one queue until
// somebody waits for it. Two devices, 0 and 1, share the memory and the queue. It says that it is a
// CUDA device and computes with the reference.

#include <cstdint>

#include "core/backend.hpp"

namespace psa::testing {

[[nodiscard]] const core::Backend& walled_backend();

/// What was asked of the device so far.
struct WalledCounts {
  int live_blocks = 0;  ///< allocated and not released
  int allocations = 0;
  int waits = 0;
  std::int32_t current = 0;         ///< device of the calling thread
  std::int32_t last_stage_on = -1;  ///< device that was current when the last stage was queued
};
[[nodiscard]] WalledCounts walled_counts();

}  // namespace psa::testing
