// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace psa::core {

/// Hands out aligned pieces of one buffer. With a null base it only counts, so that one function
/// serves both the size of a layout and the layout itself.
class Ledger {
 public:
  explicit Ledger(std::byte* base, std::size_t alignment = 64)
      : base_(base), alignment_(alignment) {}

  template <typename T>
  T* take(std::size_t count) {
    std::byte* piece = base_ == nullptr ? nullptr : base_ + used_;
    const std::size_t bytes = count * sizeof(T);
    used_ += (bytes + alignment_ - 1) / alignment_ * alignment_;
    return reinterpret_cast<T*>(piece);
  }
  [[nodiscard]] std::size_t bytes() const { return used_; }

 private:
  std::byte* base_;
  std::size_t alignment_;
  std::size_t used_ = 0;
};

}  // namespace psa::core
