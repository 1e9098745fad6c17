// SPDX-License-Identifier: Apache-2.0
#pragma once

// Operands of the dot products in shared memory: rows of 64 channels (128 bytes), whose 16-byte
// pieces are swizzled so that the eight rows of an 8x8 matrix lie in different banks. Where eight
// rows begin at a multiple of kOperandAlignment this is the 128-byte swizzle that wgmma reads.

#include <cstdint>

#include "cuda/device/copy.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/kv_rows.cuh"
#include "cuda/importance/params.cuh"
#include "cuda/importance/probes.cuh"

namespace psa::cuda::estimation {

inline constexpr int kRowBytes = kChunkChannels * static_cast<int>(sizeof(Bits));
inline constexpr int kRowPieces = kChunkChannels / kThreadChannels;
inline constexpr int kOperandAlignment = 8 * kRowBytes;

/// Where a chunk's operands lie in shared memory, each kOperandAlignment-aligned.
struct ChunkOperands {
  std::uint32_t rows;        // of the first term
  std::uint32_t term_bytes;  // from each term's rows to those of the next
  std::uint32_t columns;
};

__device__ constexpr std::uint32_t piece_offset(int row, int piece) {
  return static_cast<std::uint32_t>(row * kRowBytes + (piece ^ row % 8) * 16);
}

__device__ inline void store_piece(std::uint32_t shared, const uint4& piece) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(piece.x), "r"(piece.y),
               "r"(piece.z), "r"(piece.w)
               : "memory");
}

/// A thread's share of copying kRows rows of 64 channels: one piece of every kStep-th row.
template <int kRows, int kThreads>
struct CopyShare {
  static constexpr int kStep = kThreads / kRowPieces;
  static constexpr int kCopies = kRows / kStep;
  static_assert(kRows % kStep == 0 && kStep % 8 == 0);  // rows in step are swizzled alike

  int row = static_cast<int>(threadIdx.x) / kRowPieces;
  int piece = static_cast<int>(threadIdx.x) % kRowPieces;

  [[nodiscard]] __device__ std::uint32_t offset(int i) const {
    return piece_offset(row, piece) + static_cast<std::uint32_t>(i * kStep * kRowBytes);
  }
};

/// What rows that do not exist are copied from.
const __device__ uint4 kZeroRow[kMaxHeadDim * sizeof(Bits) / sizeof(uint4)] = {};

/// First channel of a token, or of zeros for kNoToken.
__device__ inline const Bits* token_data(const KvHead<Bits>& head, int token) {
  return token == kNoToken ? reinterpret_cast<const Bits*>(kZeroRow)
                           : head.data + token * head.token_stride;
}

/// Copies channels [first_channel, first_channel + 64) of kRows rows, of which `rows` has the first
/// channels. All threads; asynchronous where rows are aligned.
template <int kRows, int kThreads>
__device__ inline void copy_rows(const Params& p, const Bits* const* rows, int first_channel,
                                 std::uint32_t to) {
  const CopyShare<kRows, kThreads> share;
  const int channel = first_channel + share.piece * kThreadChannels;
  const int channels = p.head_dim - channel;
  if (p.has_aligned_rows) {
    const Bits* from[share.kCopies];  // copies do not wait for each other's
#pragma unroll
    for (int i = 0; i < share.kCopies; ++i) from[i] = rows[share.row + i * share.kStep] + channel;
#pragma unroll
    for (int i = 0; i < share.kCopies; ++i) {
      copy_async_16(to + share.offset(i), from[i], channels > 0);
    }
    return;
  }
#pragma unroll 1
  for (int i = 0; i < share.kCopies; ++i) {
    uint4 piece{};
    if (channels > 0) {
      piece = load_channels<false>(rows[share.row + i * share.kStep] + channel, channels);
    }
    store_piece(to + share.offset(i), piece);
  }
}

// ---- means of queries (S-12) --------------------------------------------------------------------
//
// A mean is a float, but the tensor cores take 16-bit elements. It is written as a sum of them, so
// that its logits are those of the float: three of bf16 (8 bits each, which is all 24 of a float)
// or two of f16 (11 each). f16 has few exponents; its rows are first scaled by the power of two
// that takes their largest channel to [2^14, 2^15), which a factor of the logits undoes.
//
// Every addend is rounded towards zero, and one that would be zero becomes the smallest number: so
// all have the sign of the mean, and with an infinite key they add to an infinite logit, not to a
// NaN.

template <typename Element>
struct Split;
template <>
struct Split<__nv_bfloat16> {
  static constexpr int kTerms = 3;
  static constexpr bool kScales = false;
  static __device__ Bits truncate(float x) { return __bfloat16_as_ushort(__float2bfloat16_rz(x)); }
  static __device__ float value(Bits bits) { return __bfloat162float(__ushort_as_bfloat16(bits)); }
};
template <>
struct Split<__half> {
  static constexpr int kTerms = 2;
  static constexpr bool kScales = true;
  static __device__ Bits truncate(float x) { return __half_as_ushort(__float2half_rz(x)); }
  static __device__ float value(Bits bits) { return __half2float(__ushort_as_half(bits)); }
};

/// Terms that a row of a shape is a sum of.
template <typename Element, Shape kShape>
inline constexpr int kRowTerms = takes_means(kShape) ? Split<Element>::kTerms : 1;

/// The next addend of `mean`, of which `rest` is not yet written.
template <typename Element>
__device__ inline Bits next_term(float mean, float& rest) {
  constexpr Bits kMagnitude = 0x7FFF;
  const Bits bits = Split<Element>::truncate(rest);
  rest = isfinite(rest) ? rest - Split<Element>::value(bits) : 0.0F;
  if ((bits & kMagnitude) != 0 || mean == 0.0F) return bits;
  return static_cast<Bits>((signbit(mean) ? 0x8000 : 0) | 1);
}

/// Adds 8 channels of the tokens at [first, first + kLoads) to `sum`, or with kAll false of those
/// before `end`: loads behind it repeat the last one, so that none waits for a branch.
template <typename Element, bool kAligned, int kLoads, bool kAll>
__device__ inline void add_tokens(const Params& p, const KvHead<Bits>& q, int first, int end,
                                  int channel, float (&sum)[kThreadChannels]) {
  int token[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) token[i] = kAll ? first + i : min(first + i, end - 1);
  if (q.order != nullptr) {
#pragma unroll
    for (int& t : token) t = __ldg(q.order + t);
  }
  uint4 loaded[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const Bits* from = q.data + token[i] * q.token_stride + channel;
    loaded[i] = load_channels<kAligned>(from, p.head_dim - channel);
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const bool exists = kAll || first + i < end;
#pragma unroll
    for (int c = 0; c < kThreadChannels; c += 2) {
      const float2 pair = unpack_pair<Element>(loaded[i], c / 2);
      sum[c] += exists ? pair.x : 0.0F;
      sum[c + 1] += exists ? pair.y : 0.0F;
    }
  }
}

/// Sums of 8 channels over the tokens of a row, up to kLoads loads under way at a time.
template <typename Element, bool kAligned, int kLoads>
__device__ inline void sum_tokens(const Params& p, const KvHead<Bits>& q, const ProbeRow& row,
                                  int channel, float (&sum)[kThreadChannels]) {
  constexpr int kFewLoads = 8;
  int first = row.begin;
  for (; first + kLoads <= row.end; first += kLoads) {
    add_tokens<Element, kAligned, kLoads, true>(p, q, first, row.end, channel, sum);
  }
  for (; first < row.end; first += kFewLoads) {
    add_tokens<Element, kAligned, kFewLoads, false>(p, q, first, row.end, channel, sum);
  }
}

/// Power of two by which a row of f16 is scaled: see above. `lanes` threads hold the row.
__device__ inline float row_factor(const float (&mean)[kThreadChannels], int lanes) {
  constexpr int kTopExponent = 14;
  float largest = 0.0F;
#pragma unroll
  for (int c = 0; c < kThreadChannels; ++c) {
    if (isfinite(mean[c])) largest = fmaxf(largest, fabsf(mean[c]));
  }
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, offset));
  }
  return largest == 0.0F ? 1.0F : ldexpf(1.0F, kTopExponent - ilogbf(largest));
}

/// Writes the means of the tokens of `rows` to `to` [kTerms, chunks, kRows, 64] and what their
/// logits are multiplied by to `scale_log2` [kRows]. Thread `thread` of kThreads, which are whole
/// warps and load kLoads tokens at a time; kIsAligned: has_aligned_rows is known to be true.
template <typename Element, int kRows, int kThreads, int kLoads, bool kIsAligned>
__device__ inline void store_means(const Params& p, const ProbeRow* rows, const KvHead<Bits>& q,
                                   int thread, std::uint32_t to, float* scale_log2) {
  const int pieces = p.chunks * kRowPieces;
  const int lanes = pieces <= 8 ? 8 : pieces <= 16 ? 16 : 32;  // threads of a row
  const int lane = thread % lanes;
  const int channel = lane * kThreadChannels;
  for (int row = thread / lanes; row < kRows; row += kThreads / lanes) {
    const ProbeRow tokens = rows[row];
    float mean[kThreadChannels] = {};
    if (channel < p.head_dim) {
      if (kIsAligned || p.has_aligned_rows) {
        sum_tokens<Element, true, kLoads>(p, q, tokens, channel, mean);
      } else {
        sum_tokens<Element, false, kLoads>(p, q, tokens, channel, mean);
      }
    }
    const float share = 1.0F / static_cast<float>(max(tokens.end - tokens.begin, 1));
#pragma unroll
    for (int c = 0; c < kThreadChannels; ++c) mean[c] *= share;
    float factor = 1.0F;
    if constexpr (Split<Element>::kScales) factor = row_factor(mean, lanes);
    if (lane == 0) scale_log2[row] = p.scale_log2 / factor;
    if (lane >= pieces) continue;
    float rest[kThreadChannels];
#pragma unroll
    for (int c = 0; c < kThreadChannels; ++c) rest[c] = mean[c] *= factor;
#pragma unroll
    for (int term = 0; term < Split<Element>::kTerms; ++term) {
      std::uint32_t pairs[kThreadChannels / 2] = {};
#pragma unroll
      for (int c = 0; c < kThreadChannels; ++c) {
        const std::uint32_t bits = next_term<Element>(mean[c], rest[c]);
        pairs[c / 2] |= bits << (c % 2 == 0 ? 0 : 16);
      }
      const int chunk_row = (term * p.chunks + lane / kRowPieces) * kRows + row;
      store_piece(to + piece_offset(chunk_row, lane % kRowPieces),
                  {pairs[0], pairs[1], pairs[2], pairs[3]});
    }
  }
}

}  // namespace psa::cuda::estimation
