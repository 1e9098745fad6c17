// SPDX-License-Identifier: Apache-2.0
#include "support/guarded_buffer.hpp"

#include <algorithm>
#include <cstdint>

namespace psa::testing {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kGuardBytes = 256;
constexpr std::byte kCanary{0xC5};
constexpr std::byte kUnwritten{0xFF};

}  // namespace

GuardedBuffer::GuardedBuffer(std::size_t bytes)
    : storage_(bytes + 2 * kGuardBytes + kAlignment, kCanary), bytes_(bytes), begin_(kGuardBytes) {
  const auto address = reinterpret_cast<std::uintptr_t>(storage_.data() + begin_);
  begin_ += (kAlignment - address % kAlignment) % kAlignment;
  std::fill_n(data(), bytes_, kUnwritten);
}

GuardedBuffer::GuardedBuffer(const GuardedBuffer& other) : GuardedBuffer(other.bytes_) {
  std::copy_n(other.data(), bytes_, data());
}

bool GuardedBuffer::is_intact() const {
  const auto is_canary = [](std::byte b) { return b == kCanary; };
  const std::byte* first = storage_.data();
  return std::all_of(first, data(), is_canary) &&
         std::all_of(data() + bytes_, first + storage_.size(), is_canary);
}

bool GuardedBuffer::has_same_bytes(const GuardedBuffer& other) const {
  return std::equal(data(), data() + bytes_, other.data(), other.data() + other.bytes_);
}

}  // namespace psa::testing
