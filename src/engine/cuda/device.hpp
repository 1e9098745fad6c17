// SPDX-License-Identifier: Apache-2.0
#pragma once

// CUDA device 0 as the engine needs it, without CUDA's own headers: memory, a queue of work and
// its clock. Failures of CUDA throw Error: kOutOfMemory, else kInternal.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "psa/types.hpp"

namespace psa::engine {

/// Why this process has no CUDA device, in words; empty: it has one.
[[nodiscard]] std::string why_no_device();
[[nodiscard]] std::string device_name();
/// Of the device, by all processes.
[[nodiscard]] std::size_t device_memory_in_use();

enum class MemoryKind : std::uint8_t {
  kDevice,
  kPinned,  ///< of the host; copies to and from it do not hold up the thread that queues them
};

template <MemoryKind kKind>
class CudaMemory {
 public:
  CudaMemory() = default;
  explicit CudaMemory(std::size_t bytes) { reserve(bytes); }

  /// Makes room; the content is lost when it grows.
  void reserve(std::size_t bytes);

  template <typename T>
  [[nodiscard]] T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }
  [[nodiscard]] std::span<std::byte> bytes() const { return {data_.get(), size_}; }

 private:
  struct Release {
    void operator()(std::byte* data) const noexcept;
  };
  std::unique_ptr<std::byte, Release> data_;
  std::size_t size_ = 0;
};
using DeviceBuffer = CudaMemory<MemoryKind::kDevice>;
using PinnedBuffer = CudaMemory<MemoryKind::kPinned>;

/// A queue of work, independent of the default stream.
class DeviceStream {
 public:
  DeviceStream();
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;
  ~DeviceStream();

  [[nodiscard]] Stream handle() const { return {stream_}; }
  /// `from` may be freed or changed afterwards unless it is pinned.
  void copy_to_device(void* to, const void* from, std::size_t bytes) const;
  /// `to` is written when the queue comes to it; unless it is pinned, this waits for that.
  void copy_to_host(void* to, const void* from, std::size_t bytes) const;
  /// A buffer with a copy of the values.
  template <typename T>
  [[nodiscard]] DeviceBuffer upload(std::span<const T> values) const {
    DeviceBuffer buffer(values.size_bytes());
    copy_to_device(buffer.as<T>(), values.data(), values.size_bytes());
    return buffer;
  }
  void synchronize() const;

 private:
  void* stream_ = nullptr;
};

/// A point in a queue.
class DeviceEvent {
 public:
  DeviceEvent();
  DeviceEvent(DeviceEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  DeviceEvent& operator=(DeviceEvent&&) = delete;
  ~DeviceEvent();

  void record(const DeviceStream& stream) const;
  /// Returns once the queue has come to it.
  void wait() const;
  /// By the device's clock; both have been waited for.
  [[nodiscard]] double ms_since(const DeviceEvent& begin) const;

 private:
  void* event_ = nullptr;
};

}  // namespace psa::engine
