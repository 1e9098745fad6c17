// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace psa {

/// Anything that is multiplied by a stride.
using index_t = std::int64_t;

/// Storage type of a tensor's elements. Values equal those of `psa_dtype`.
enum class DType : std::int32_t { kF32 = 0, kF16 = 1, kBF16 = 2 };

[[nodiscard]] constexpr std::size_t size_of(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

enum class DeviceType : std::int32_t { kCpu = 0, kCuda = 1 };

struct Device {
  DeviceType type = DeviceType::kCpu;
  std::int32_t index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};

/// A caller's queue of work; a `cudaStream_t` for CUDA, ignored by the CPU backends.
struct Stream {
  void* handle = nullptr;
};

/// Non-owning view of a 4-D tensor with axes (batch, head, token, channel).
/// Strides are in elements and non-negative; the channel stride must be 1. [B,H,L,D] and [B,L,H,D]
/// memory are both views of this kind, without a copy.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Device device{};
  std::array<index_t, 4> shape{};
  std::array<index_t, 4> stride{};
};

/// Sizes of one attention call. `heads_kv` divides `heads_q`; query head h reads KV head
/// h / (heads_q / heads_kv). `head_dim` is 1..256 for every tensor.
struct ProblemShape {
  index_t batch = 1;
  index_t heads_q = 1;
  index_t heads_kv = 1;
  index_t len_q = 0;
  index_t len_kv = 0;
  index_t head_dim = 0;
  DType dtype_q = DType::kF32;    ///< of q
  DType dtype_kv = DType::kF32;   ///< of k and v, and of the pyramid made from them
  DType dtype_out = DType::kF32;  ///< of out; lse is always float
};

/// Tokens of a video latent along time, height and width (not pixels). Flat token index =
/// (frame * height + row) * width + column. All zero: no grid is known.
struct VideoGrid {
  index_t frames = 0;
  index_t height = 0;
  index_t width = 0;
  [[nodiscard]] constexpr index_t tokens() const { return frames * height * width; }
  friend bool operator==(const VideoGrid&, const VideoGrid&) = default;
};

enum class TextSide : std::int32_t { kFront = 0, kBack = 1 };

/// Which tokens of the sequence are text and how the others lie in space and time.
struct TokenLayout {
  index_t text_tokens = 0;
  TextSide text_side = TextSide::kFront;
  VideoGrid grid{};
};

}  // namespace psa
