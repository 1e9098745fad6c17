// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

namespace psa::testing {

/// Memory between two canaries. It starts as 0xFF bytes: NaN in every storage type, -1 as an index,
/// no level as a level code; a result that was never written, or a read of one, shows.
class GuardedBuffer {
 public:
  explicit GuardedBuffer(std::size_t bytes);
  GuardedBuffer(const GuardedBuffer& other);
  GuardedBuffer(GuardedBuffer&& other) noexcept = default;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(GuardedBuffer&& other) noexcept = default;
  ~GuardedBuffer() = default;

  [[nodiscard]] std::byte* data() { return storage_.data() + begin_; }
  [[nodiscard]] const std::byte* data() const { return storage_.data() + begin_; }
  [[nodiscard]] std::size_t size() const { return bytes_; }
  template <typename T>
  [[nodiscard]] T* as() {
    return reinterpret_cast<T*>(data());
  }

  /// Whether nothing was written around the memory.
  [[nodiscard]] bool is_intact() const;
  [[nodiscard]] bool has_same_bytes(const GuardedBuffer& other) const;

 private:
  std::vector<std::byte> storage_;
  std::size_t bytes_;
  std::size_t begin_;  // data() is 64-byte aligned
};

}  // namespace psa::testing
