// SPDX-License-Identifier: Apache-2.0
#include "support/device_copies.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace psa::testing {
namespace {

constexpr std::uint8_t kCanary = 0xC5;
constexpr std::uint8_t kUnwritten = 0xFF;

/// Elements from the first to the last one, the last included.
index_t extent(const TensorView& view) {
  index_t last = 0;
  for (std::size_t axis = 0; axis < 4; ++axis) last += (view.shape[axis] - 1) * view.stride[axis];
  return last + 1;
}

index_t extent(const core::TokenOrder& order, index_t batch, index_t heads, index_t len) {
  return (batch - 1) * order.batch_stride + (heads - 1) * order.head_stride + len;
}

}  // namespace

DeviceBuffer::DeviceBuffer(const core::DeviceMemory& memory, std::size_t bytes)
    : memory_(&memory),
      block_(static_cast<std::byte*>(memory.allocate(bytes + 2 * kGuardBytes))),
      bytes_(bytes) {
  memory.fill(block_, kCanary, bytes + 2 * kGuardBytes, Stream{});
  memory.fill(data(), kUnwritten, bytes, Stream{});
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : memory_(other.memory_),
      block_(std::exchange(other.block_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

DeviceBuffer::~DeviceBuffer() { memory_->release(block_); }

void DeviceBuffer::upload(const void* host) const {
  memory_->copy(core::bytes_copy(data(), host, bytes_), Stream{});
}

void DeviceBuffer::download(void* host) const {
  memory_->copy(core::bytes_copy(host, data(), bytes_), Stream{});
  memory_->synchronize(Stream{});
}

bool DeviceBuffer::is_intact() const {
  std::vector<std::uint8_t> guards(2 * kGuardBytes);
  memory_->copy({.to = guards.data(),
                 .to_pitch = kGuardBytes,
                 .from = block_,
                 .from_pitch = kGuardBytes + bytes_,
                 .row_bytes = kGuardBytes,
                 .rows = 2},
                Stream{});
  memory_->synchronize(Stream{});
  return std::all_of(guards.begin(), guards.end(), [](std::uint8_t b) { return b == kCanary; });
}

void* DeviceCopies::copy_of(void* host, std::size_t bytes, bool is_output) {
  if (host == nullptr || memory_.is_host()) return host;
  copies_.push_back({DeviceBuffer(memory_, bytes), host, is_output});
  copies_.back().buffer.upload(host);
  return copies_.back().buffer.data();
}

TensorView DeviceCopies::view_of(const TensorView& host, bool is_output) {
  const std::size_t bytes = static_cast<std::size_t>(extent(host)) * size_of(host.dtype);
  TensorView copy = host;
  copy.data = copy_of(host.data, bytes, is_output);
  copy.device = device_;
  return copy;
}

TensorView DeviceCopies::in(const TensorView& host) { return view_of(host, false); }

TensorView DeviceCopies::out(const TensorView& host) { return view_of(host, true); }

core::Inputs DeviceCopies::in(const core::Inputs& host, const ProblemShape& shape) {
  core::Inputs copy = host;
  copy.q = in(host.q);
  copy.k = in(host.k);
  copy.v = in(host.v);
  copy.q_order.index =
      in(host.q_order.index, extent(host.q_order, shape.batch, shape.heads_q, shape.len_q));
  copy.kv_order.index =
      in(host.kv_order.index, extent(host.kv_order, shape.batch, shape.heads_kv, shape.len_kv));
  copy.kv_lengths = in(host.kv_lengths, shape.batch);
  return copy;
}

void DeviceCopies::finish() {
  memory_.synchronize(Stream{});
  for (const Copy& copy : copies_) {
    EXPECT_TRUE(copy.buffer.is_intact()) << "written around an argument on the device";
    if (copy.is_output) {
      copy.buffer.download(copy.host);
      continue;
    }
    std::vector<std::byte> now(copy.buffer.size());
    copy.buffer.download(now.data());
    EXPECT_EQ(std::memcmp(now.data(), copy.host, now.size()), 0) << "an input was changed";
  }
}

}  // namespace psa::testing
