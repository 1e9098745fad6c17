// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstring>
#include <new>
#include <string>

#include "core/device_memory.hpp"
#include "psa/error.hpp"

namespace psa::core {
namespace {

constexpr std::align_val_t kAlignment{64};

std::int32_t set_current(std::int32_t index) { return index; }

void* allocate(std::size_t bytes) {
  void* memory = ::operator new(bytes, kAlignment, std::nothrow);
  if (memory != nullptr) return memory;
  throw Error(Status::kOutOfMemory, "no host memory for " + std::to_string(bytes) + " bytes");
}

void release(void* memory) { ::operator delete(memory, kAlignment); }

void copy(const RowCopy& rows, Stream /*stream*/) {
  auto* to = static_cast<std::byte*>(rows.to);
  const auto* from = static_cast<const std::byte*>(rows.from);
  for (index_t row = 0; row < rows.rows; ++row) {
    // The caller's level map may be given as the place for the result, too.
    std::memmove(to, from, rows.row_bytes);
    to += rows.to_pitch;
    from += rows.from_pitch;
  }
}

void fill(void* to, std::uint8_t byte, std::size_t bytes, Stream /*stream*/) {
  std::memset(to, byte, bytes);
}

void synchronize(Stream /*stream*/) {}

using Clock = std::chrono::steady_clock;

void* mark(Stream /*stream*/) { return new Clock::time_point(Clock::now()); }

double milliseconds(void* from, void* to) {
  const auto* begin = static_cast<const Clock::time_point*>(from);
  const auto* end = static_cast<const Clock::time_point*>(to);
  return std::chrono::duration<double, std::milli>(*end - *begin).count();
}

void forget(void* mark) { delete static_cast<Clock::time_point*>(mark); }

}  // namespace

const DeviceMemory kHostMemory{.type = DeviceType::kCpu,
                               .alignment = static_cast<std::size_t>(kAlignment),
                               .set_current = set_current,
                               .allocate = allocate,
                               .release = release,
                               .copy = copy,
                               .fill = fill,
                               .synchronize = synchronize,
                               .mark = mark,
                               .milliseconds = milliseconds,
                               .forget = forget};

}  // namespace psa::core
