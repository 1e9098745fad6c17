// SPDX-License-Identifier: Apache-2.0
#pragma once

// Host data seen from a backend's memory. Where that is host memory, the data itself; on a device,
// copies between canaries.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/backend.hpp"

namespace psa::testing {

/// Bytes of an output or a workspace on a device, between two canaries.
class DeviceBuffer {
 public:
  /// Starts as 0xFF bytes, as GuardedBuffer does.
  DeviceBuffer(const core::DeviceMemory& memory, std::size_t bytes);
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(DeviceBuffer&&) = delete;
  ~DeviceBuffer();

  [[nodiscard]] std::byte* data() const { return block_ + kGuardBytes; }
  [[nodiscard]] std::size_t size() const { return bytes_; }
  template <typename T>
  [[nodiscard]] T* as() const {
    return reinterpret_cast<T*>(data());
  }
  void upload(const void* host) const;
  void download(void* host) const;  ///< waits for the default stream
  /// Whether nothing was written around the memory.
  [[nodiscard]] bool is_intact() const;

 private:
  static constexpr std::size_t kGuardBytes = 1024;  // keeps the alignment of the device's memory
  const core::DeviceMemory* memory_;
  std::byte* block_;
  std::size_t bytes_;
};

/// The arguments of one stage or call: copied to the device when they are named here, outputs
/// copied back by finish(). A null pointer stays null. Host data must outlive this object.
class DeviceCopies {
 public:
  /// The device must be current.
  explicit DeviceCopies(const core::DeviceMemory& memory, std::int32_t device_index = 0)
      : memory_(memory), device_{memory.type, device_index} {}

  template <typename T>
  [[nodiscard]] const T* in(const T* host, index_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    return static_cast<const T*>(copy_of(const_cast<T*>(host), bytes, /*is_output=*/false));
  }
  /// Starts with what the host has there.
  template <typename T>
  [[nodiscard]] T* out(T* host, index_t count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    return static_cast<T*>(copy_of(host, bytes, /*is_output=*/true));
  }
  /// The same strides, gaps included.
  [[nodiscard]] TensorView in(const TensorView& host);
  [[nodiscard]] TensorView out(const TensorView& host);
  /// What is there: some stages get the key lengths only.
  [[nodiscard]] core::Inputs in(const core::Inputs& host, const ProblemShape& shape);

  /// Waits for the default stream and copies every output back. Fails the running test if anything
  /// around an argument was written, or if an input was changed.
  void finish();

 private:
  struct Copy {
    DeviceBuffer buffer;
    void* host;
    bool is_output;
  };
  const core::DeviceMemory& memory_;
  Device device_;
  std::vector<Copy> copies_;

  void* copy_of(void* host, std::size_t bytes, bool is_output);
  TensorView view_of(const TensorView& host, bool is_output);
};

}  // namespace psa::testing
