// SPDX-License-Identifier: Apache-2.0
#pragma once

// CUDA as the command line needs it: memory, a clock and what the devices are. Written twice, with
// the CUDA runtime (device_memory_cuda.cpp) and without (device_memory_none.cpp); all functions use
// CUDA device 0 and its default stream, and throw Error where there is none.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace psa::cli {

struct ReleaseDeviceMemory {
  void operator()(std::byte* memory) const noexcept;
};
using DeviceMemory = std::unique_ptr<std::byte, ReleaseDeviceMemory>;

[[nodiscard]] DeviceMemory allocate_on_device(std::size_t bytes);
void copy_to_device(std::byte* to, const void* from, std::size_t bytes);
/// Waits for the calls before.
void copy_from_device(void* to, const std::byte* from, std::size_t bytes);

/// The device's own clock.
class DeviceClock {
 public:
  DeviceClock();
  DeviceClock(const DeviceClock&) = delete;
  DeviceClock& operator=(const DeviceClock&) = delete;
  ~DeviceClock();

  /// Empties the second-level cache, then takes the time.
  void start();
  /// Milliseconds from start() to the end of what was queued since; waits for it.
  [[nodiscard]] double stop();

 private:
  struct Events;
  std::unique_ptr<Events> events_;
};

/// One CUDA device of this machine.
struct CudaDevice {
  std::string name;
  int major = 0;  ///< compute capability
  int minor = 0;
  int multiprocessors = 0;
  std::uint64_t memory_bytes = 0;
  std::uint64_t cache_bytes = 0;  ///< second level
};

struct CudaReport {
  std::string driver;   ///< highest CUDA version that the driver serves, "13.0"; empty: no driver
  std::string runtime;  ///< of this build; empty: built without CUDA
  std::vector<CudaDevice> devices;
};

/// Never throws for a machine that lacks something.
[[nodiscard]] CudaReport cuda_report();

}  // namespace psa::cli
