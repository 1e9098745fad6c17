// SPDX-License-Identifier: Apache-2.0
#include "core/io_checks.hpp"

#include <algorithm>
#include <array>
#include <string>

#include "psa/error.hpp"

namespace psa::core {
namespace {

constexpr std::array<const char*, 4> kAxes{"batch", "head", "token", "channel"};
constexpr std::array<const char*, 3> kDTypes{"f32", "f16", "bf16"};

[[noreturn]] void reject(const std::string& message) {
  throw Error(Status::kInvalidArgument, message);
}

std::string dtype_name(DType dtype) {
  const auto index = static_cast<std::size_t>(dtype);
  return index < kDTypes.size() ? kDTypes.at(index) : "dtype " + std::to_string(index);
}

void check_device(const std::string& name, Device given, Device plan) {
  if (given == plan) return;
  if (plan.type == DeviceType::kCpu) {
    reject(name + " is not in host memory; this plan runs on the CPU");
  }
  reject(name + " is " +
         (given.type == DeviceType::kCpu ? "in host memory"
                                         : "on CUDA device " + std::to_string(given.index)) +
         "; this plan runs on CUDA device " + std::to_string(plan.index));
}

/// What the plan knows of a tensor.
struct Expected {
  std::array<index_t, 4> shape;
  DType dtype;
  Device device;
};

void check_tensor(const std::string& name, const TensorView& t, const Expected& plan) {
  if (t.data == nullptr) reject(name + ".data is null");
  if (t.dtype != plan.dtype) {
    reject(name + " is " + dtype_name(t.dtype) + "; the plan was made for " +
           dtype_name(plan.dtype));
  }
  check_device(name, t.device, plan.device);
  for (std::size_t axis = 0; axis < 4; ++axis) {
    const std::string index = "[" + std::to_string(axis) + "]";
    if (t.shape[axis] != plan.shape[axis]) {
      reject(name + ".shape" + index + " (" + kAxes[axis] + ") is " +
             std::to_string(t.shape[axis]) + "; the plan was made for " +
             std::to_string(plan.shape[axis]));
    }
    if (t.stride[axis] < 0) {
      reject(name + ".stride" + index + " is " + std::to_string(t.stride[axis]) +
             "; allowed: >= 0");
    }
  }
  if (t.stride[3] != 1 && t.shape[3] > 1) {
    reject(name + ".stride[3] (channel) is " + std::to_string(t.stride[3]) + "; allowed: 1");
  }
}

/// Elements from the first to the last one, the last included.
index_t extent(const TensorView& t) {
  index_t last = 0;
  for (std::size_t axis = 0; axis < 4; ++axis) last += (t.shape[axis] - 1) * t.stride[axis];
  return last + 1;
}

bool is_gapless(const TensorView& t) {
  return extent(t) == t.shape[0] * t.shape[1] * t.shape[2] * t.shape[3];
}

/// Interleaved views of one buffer (packed q, k, v and out) may share their extent: only views that
/// fill theirs, or that start at the same element, can be told to overlap.
bool overlap(const TensorView& a, const TensorView& b) {
  if (a.data == b.data) return true;
  if (!is_gapless(a) || !is_gapless(b)) return false;
  const auto* a_begin = static_cast<const std::byte*>(a.data);
  const auto* b_begin = static_cast<const std::byte*>(b.data);
  return a_begin < b_begin + static_cast<std::size_t>(extent(b)) * size_of(b.dtype) &&
         b_begin < a_begin + static_cast<std::size_t>(extent(a)) * size_of(a.dtype);
}

}  // namespace

void check_query(const Geometry& g, Device device, const CallIo& io) {
  check_tensor(
      "q", io.q,
      {{g.shape.batch, g.shape.heads_q, g.shape.len_q, g.shape.head_dim}, g.shape.dtype_q, device});
}

void check_keys(const Geometry& g, Device device, const CallIo& io) {
  check_tensor("k", io.k,
               {{g.shape.batch, g.shape.heads_kv, g.shape.len_kv, g.shape.head_dim},
                g.shape.dtype_kv,
                device});
}

void check_values(const Geometry& g, Device device, const CallIo& io) {
  check_tensor("v", io.v,
               {{g.shape.batch, g.shape.heads_kv, g.shape.len_kv, g.shape.head_dim},
                g.shape.dtype_kv,
                device});
}

void check_output(const Geometry& g, Device device, const CallIo& io) {
  check_tensor("out", io.out,
               {{g.shape.batch, g.shape.heads_q, g.shape.len_q, g.shape.head_dim},
                g.shape.dtype_out,
                device});
  for (std::size_t axis = 0; axis < 3; ++axis) {
    if (io.out.stride[axis] == 0 && io.out.shape[axis] > 1) {
      reject("out.stride[" + std::to_string(axis) + "] is 0; rows of the output would overlap");
    }
  }
  if (overlap(io.out, io.q)) reject("out overlaps q; it needs memory of its own");
  if (overlap(io.out, io.k)) reject("out overlaps k; it needs memory of its own");
  if (overlap(io.out, io.v)) reject("out overlaps v; it needs memory of its own");
}

void check_kv_lengths(const Geometry& g, const std::int32_t* kv_lengths) {
  if (kv_lengths == nullptr) return;
  const bool reordered = g.config.reorder != Reorder::kNone;
  const bool text_at_back = g.layout.text_side == TextSide::kBack;
  const index_t fixed = reordered ? g.shape.len_kv - (text_at_back ? g.layout.text_tokens : 0) : 0;
  for (index_t b = 0; b < g.shape.batch; ++b) {
    if (kv_lengths[b] >= fixed && kv_lengths[b] <= g.shape.len_kv) continue;
    reject("kv_lengths[" + std::to_string(b) + "] is " + std::to_string(kv_lengths[b]) +
           "; allowed: " + std::to_string(fixed) + ".." + std::to_string(g.shape.len_kv) +
           (reordered ? " (with reordered tokens only text at the back can be cut)" : ""));
  }
}

void clamp_kv_lengths(const Geometry& g, std::span<std::int32_t> kv_lengths) {
  const auto len_kv = static_cast<std::int32_t>(g.shape.len_kv);
  for (std::int32_t& length : kv_lengths) length = std::clamp(length, 0, len_kv);
}

}  // namespace psa::core
