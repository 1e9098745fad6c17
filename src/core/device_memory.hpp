// SPDX-License-Identifier: Apache-2.0
#pragma once

// The memory that a backend's data lie in. Plans and the pipeline reach it through this table, so
// that they read the same for every backend and know no driver.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "psa/error.hpp"
#include "psa/types.hpp"

namespace psa::core {

/// `rows` pieces of `row_bytes`, each `pitch` bytes behind the one before.
struct RowCopy {
  void* to = nullptr;
  std::size_t to_pitch = 0;
  const void* from = nullptr;
  std::size_t from_pitch = 0;
  std::size_t row_bytes = 0;
  index_t rows = 1;
};

[[nodiscard]] inline RowCopy bytes_copy(void* to, const void* from, std::size_t bytes) {
  return {.to = to, .to_pitch = bytes, .from = from, .from_pitch = bytes, .row_bytes = bytes};
}

/// Functions that get a stream queue their work there and return at once; on the host the work is
/// done when they return. All of them act on the device that is current (set_current) and throw
/// Error when the device reports a failure.
struct DeviceMemory {
  DeviceType type;
  std::size_t alignment;  ///< of a workspace and of every piece of it
  /// Makes device `index` current for the calling thread; returns the one that was.
  std::int32_t (*set_current)(std::int32_t index);
  /// Aligned memory; throws Error(kOutOfMemory). Only for plans: a call allocates nothing.
  void* (*allocate)(std::size_t bytes);
  void (*release)(void* memory);  ///< null is allowed; does not throw
  /// Either side may also be host memory.
  void (*copy)(const RowCopy& rows, Stream stream);
  void (*fill)(void* to, std::uint8_t byte, std::size_t bytes, Stream stream);
  /// Waits until everything that was queued in `stream` is done.
  void (*synchronize)(Stream stream);
  /// A point of the stream's work, for TimePoint; fails while the stream is captured.
  void* (*mark)(Stream stream);
  /// Milliseconds from one point to another of the same stream; waits for the latter.
  double (*milliseconds)(void* from, void* to);
  void (*forget)(void* mark);  ///< does not throw

  /// Whether the host may follow pointers into this memory.
  [[nodiscard]] bool is_host() const { return type == DeviceType::kCpu; }
};

/// The process's own memory.
extern const DeviceMemory kHostMemory;

/// When a stream is done with what was queued there before this object was made. The device's own
/// clock, so nothing waits until times are asked for.
class TimePoint {
 public:
  TimePoint(const DeviceMemory& memory, Stream stream)
      : mark_(memory.mark(stream), memory.forget), milliseconds_(memory.milliseconds) {}
  [[nodiscard]] double ms_since(const TimePoint& earlier) const {
    return milliseconds_(earlier.mark_.get(), mark_.get());
  }

 private:
  std::unique_ptr<void, void (*)(void*)> mark_;
  double (*milliseconds_)(void* from, void* to);
};

/// Makes a device current for the life of this object.
class CurrentDevice {
 public:
  CurrentDevice(const DeviceMemory& memory, std::int32_t index)
      : memory_(memory), index_(index), previous_(memory.set_current(index)) {}
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  ~CurrentDevice() {
    if (previous_ == index_) return;
    try {
      static_cast<void>(memory_.set_current(previous_));
    } catch (const Error&) {  // the device that was current is gone; its next user learns of it
    }
  }

 private:
  const DeviceMemory& memory_;
  std::int32_t index_;
  std::int32_t previous_;
};

}  // namespace psa::core
