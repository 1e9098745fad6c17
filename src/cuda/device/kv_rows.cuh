// SPDX-License-Identifier: Apache-2.0
#pragma once

// The caller's keys and values for kernels that sweep them: rows in working order (S-19), as many
// as the batch element has (S-1), read as stretches.
//
// A stretch is 16 consecutive positions that start at a multiple of 16, so that every pyramid level
// tiles it and it lies in one KV block. One thread holds 8 channels of its 16 tokens: 16
// independent loads of 16 bytes, and all sums over tokens stay in that thread.

#include <algorithm>
#include <bit>
#include <cstdint>

#include "core/backend.hpp"
#include "cuda/device/element.cuh"
#include "semantics/blocks.hpp"

namespace psa::cuda {

inline constexpr int kStretchTokens = 16;
inline constexpr int kThreadChannels = 8;

/// S-1. Keys of a batch element that exist. A length that lies out of its range counts as the
/// nearest one in it.
__device__ inline index_t key_length(const std::int32_t* kv_lengths, index_t batch,
                                     index_t len_kv) {
  if (kv_lengths == nullptr) return len_kv;
  return semantics::max_of(0, semantics::min_of(kv_lengths[batch], len_kv));
}

/// One head of a KvRows.
template <typename Element>
struct KvHead {
  const Element* data;        // of token 0
  index_t token_stride;       // elements
  const std::int32_t* order;  // token at a position; null: the same
};

/// K or V: [B, Hkv, Lk, D] with strides in elements.
template <typename Element>
struct KvRows {
  const Element* data;
  index_t batch_stride;
  index_t head_stride;
  index_t token_stride;
  const std::int32_t* order;  // per KV head; null: the identity
  index_t order_batch_stride;
  index_t order_head_stride;

  [[nodiscard]] __device__ KvHead<Element> head(index_t b, index_t h) const {
    const std::int32_t* own =
        order == nullptr ? nullptr : order + b * order_batch_stride + h * order_head_stride;
    return {data + b * batch_stride + h * head_stride, token_stride, own};
  }
};

template <typename Element>
[[nodiscard]] KvRows<Element> kv_rows(const TensorView& tensor, const core::TokenOrder& order) {
  return {.data = static_cast<const Element*>(tensor.data),
          .batch_stride = tensor.stride[0],
          .head_stride = tensor.stride[1],
          .token_stride = tensor.stride[2],
          .order = order.index,
          .order_batch_stride = order.batch_stride,
          .order_head_stride = order.head_stride};
}

[[nodiscard]] inline bool is_aligned_to_16(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

/// Whether every row of 16-bit elements can be read 16 bytes at a time.
[[nodiscard]] inline bool has_aligned_rows(const TensorView& tensor) {
  return is_aligned_to_16(tensor.data) && tensor.shape[3] % kThreadChannels == 0 &&
         tensor.stride[0] % kThreadChannels == 0 && tensor.stride[1] % kThreadChannels == 0 &&
         tensor.stride[2] % kThreadChannels == 0;
}

/// Threads that hold a row together.
[[nodiscard]] inline int threads_per_row(index_t head_dim) {
  return static_cast<int>(semantics::ceil_div(head_dim, kThreadChannels));
}

/// How CTAs share the stretches of a head where each holds whole KV blocks of every size: a team of
/// lanes, a power of two of them, for each stretch.
struct StretchTiles {
  static constexpr int kMaxThreads = 256;  // 8 stretches of 32 lanes

  int lanes;      ///< of a team
  int stretches;  ///< of a CTA: a multiple of 8, which 128 tokens have
  int tiles;      ///< CTAs of a head

  [[nodiscard]] int threads() const { return stretches * lanes; }
};

[[nodiscard]] inline StretchTiles stretch_tiles(index_t head_dim, index_t len_kv) {
  constexpr int kLeastStretches = 8;
  constexpr int kMinThreads = 128;
  const auto lanes =
      static_cast<int>(std::bit_ceil(static_cast<unsigned>(threads_per_row(head_dim))));
  const int stretches = std::max(kMinThreads, kLeastStretches * lanes) / lanes;
  return {lanes, stretches,
          static_cast<int>(semantics::ceil_div(len_kv, index_t{stretches} * kStretchTokens))};
}

/// 8 packed channels from `from` on, of which the first `channels` exist; the others become 0.
template <bool kAligned, typename Element>
__device__ inline uint4 load_channels(const Element* from, int channels) {
  if constexpr (kAligned) {
    return __ldg(reinterpret_cast<const uint4*>(from));
  } else {
    const auto* bits = reinterpret_cast<const std::uint16_t*>(from);
    std::uint32_t pairs[kThreadChannels / 2] = {};
#pragma unroll
    for (int c = 0; c < kThreadChannels; ++c) {
      const std::uint32_t element = c < channels ? bits[c] : 0U;
      pairs[c / 2] |= element << (c % 2 == 0 ? 0 : 16);
    }
    return {pairs[0], pairs[1], pairs[2], pairs[3]};
  }
}

/// Writes the first `channels` of 8 packed channels.
template <bool kAligned, typename Element>
__device__ inline void store_channels(Element* to, int channels, const uint4& packed) {
  if constexpr (kAligned) {
    *reinterpret_cast<uint4*>(to) = packed;
  } else {
    const std::uint32_t pairs[kThreadChannels / 2] = {packed.x, packed.y, packed.z, packed.w};
    auto* bits = reinterpret_cast<std::uint16_t*>(to);
#pragma unroll
    for (int c = 0; c < kThreadChannels; ++c) {
      if (c < channels) bits[c] = static_cast<std::uint16_t>(pairs[c / 2] >> (c % 2 == 0 ? 0 : 16));
    }
  }
}

/// Two of 8 packed channels: 2 · pair and the next.
template <typename Element>
__device__ inline float2 unpack_pair(const uint4& packed, int pair) {
  const std::uint32_t pairs[kThreadChannels / 2] = {packed.x, packed.y, packed.z, packed.w};
  return unpack<Element>(pairs[pair]);
}

/// 8 channels, from `channel` on, of the stretch at position `begin`, of which the first `tokens`
/// >= 1 exist; the others repeat the last one. Of the channels the first `channels` exist.
template <bool kAligned, typename Element>
__device__ inline void load_stretch(const KvHead<Element>& head, int begin, int tokens, int channel,
                                    int channels, uint4 (&packed)[kStretchTokens]) {
  int token[kStretchTokens];
#pragma unroll
  for (int u = 0; u < kStretchTokens; ++u) token[u] = begin + min(u, tokens - 1);
  if (head.order != nullptr) {
#pragma unroll
    for (int& t : token) t = __ldg(head.order + t);
  }
#pragma unroll
  for (int u = 0; u < kStretchTokens; ++u) {
    packed[u] =
        load_channels<kAligned>(head.data + token[u] * head.token_stride + channel, channels);
  }
}

}  // namespace psa::cuda
