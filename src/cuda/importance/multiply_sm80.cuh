// SPDX-License-Identifier: Apache-2.0
#pragma once

// Dot products of a tile by mma.sync, for every device. Two warps stand side by side, each with 64
// columns and kRowTiles x 16 rows.
//
// With 64 rows a warp issues 8 ldmatrix for 32 mma, by arithmetic 79 of the 128 bytes per cycle
// that shared memory has on an H100. With 32 rows it would be 119, and no room for copies. Only
// where rows are sums of several terms, which share the fragments of the columns, 32 do.

#include <cstdint>

#include "cuda/device/mma.cuh"
#include "cuda/importance/operands.cuh"
#include "cuda/importance/params.cuh"
#include "cuda/importance/pieces.cuh"

namespace psa::cuda::estimation {

struct MultiplierSm80 {
  [[nodiscard]] static constexpr bool serves(Shape /*shape*/, Reduction /*reduction*/) {
    return true;
  }
  template <typename Element, Shape kShape>
  class Products;
};

template <typename ElementType, Shape kShape>
class MultiplierSm80::Products {
 public:
  using Element = ElementType;
  static constexpr int kRowTiles = kShape == Shape::kMeans       ? 2
                                   : kShape == Shape::kWideMeans ? 1
                                                                 : 4;
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kThreads = tile_size(kShape).rows / kWarpRows * 2 * 32;
  static constexpr int kHalves = 1;
  static constexpr int kEighths = 2 * kRowTiles;
  static constexpr int kGroupCtas = 1;
  static constexpr int kHeldChunks = 1;
  static constexpr Boxes kBoxes = Boxes::kNever;

  [[nodiscard]] __device__ static int lane_row(int eighth) {
    return warp_id() / 2 * kWarpRows + 8 * eighth + lane_id() / 4;
  }
  [[nodiscard]] __device__ static int first_column(int /*half*/) {
    return warp_id() % 2 * kWarpColumns;
  }
  [[nodiscard]] __device__ float& at(int /*half*/, int eighth, int i) {
    return c_[eighth / 2][i / 2][eighth % 2 * 2 + i % 2];
  }

  /// ldmatrix belongs to the ordinary accesses.
  __device__ static void publish_operands() {}

  /// Of two warps that share a scheduler in a CTA of eight, one copies before it multiplies and the
  /// other one afterwards, so that the tensor cores have work meanwhile. CTAs of four have each
  /// other.
  [[nodiscard]] __device__ static bool feeds_first() { return kThreads <= 128 || warp_id() < 4; }

  /// Fragments are loaded one step ahead.
  __device__ __forceinline__ void multiply(const ChunkOperands& operands, bool begins_tile) {
    constexpr int kSteps = kChunkChannels / 16;
    constexpr int kTerms = kRowTerms<Element, kShape>;
    if (begins_tile) clear();
    // Step s is two pieces further, which flips bits 5 and 6 of a swizzled address.
    const int lane = lane_id();
    const std::uint32_t row_lane =
        operands.rows + piece_offset(warp_id() / 2 * kWarpRows + lane % 16, lane / 16);
    const std::uint32_t column_lane =
        operands.columns + piece_offset(first_column(0) + lane / 16 * 8 + lane % 8, lane / 8 % 2);
    std::uint32_t a[2][kRowTiles][4];
    std::uint32_t b[2][kPairs][4];
    const auto load_rows = [&](int i) {
      const std::uint32_t from = (row_lane ^ static_cast<std::uint32_t>(i / kTerms * 32)) +
                                 static_cast<std::uint32_t>(i % kTerms) * operands.term_bytes;
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) load_matrices(a[i % 2][m], from + m * 16 * kRowBytes);
    };
    const auto load_columns = [&](int step) {
      const std::uint32_t from = column_lane ^ static_cast<std::uint32_t>(step * 32);
#pragma unroll
      for (int n = 0; n < kPairs; ++n) load_matrices(b[step % 2][n], from + n * 16 * kRowBytes);
    };
    load_columns(0);
    load_rows(0);
#pragma unroll
    for (int i = 0; i < kSteps * kTerms; ++i) {
      const int step = i / kTerms;
      if (i + 1 < kSteps * kTerms) load_rows(i + 1);
      if (i % kTerms == 0 && step + 1 < kSteps) load_columns(step + 1);
#pragma unroll
      for (int n = 0; n < kPairs; ++n) {
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          const std::uint32_t(&pair)[4] = b[step % 2][n];
          mma_16x8x16<Element>(c_[m][2 * n], a[i % 2][m], pair[0], pair[1]);
          mma_16x8x16<Element>(c_[m][2 * n + 1], a[i % 2][m], pair[2], pair[3]);
        }
      }
    }
  }

  __device__ void await_earlier() {}
  __device__ void await_all() {}

 private:
  static constexpr int kPairs = kWarpColumns / 16;

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (auto& row_tile : c_) {
#pragma unroll
      for (auto& column_tile : row_tile) {
#pragma unroll
        for (float& product : column_tile) product = 0.0F;
      }
    }
  }

  float c_[kRowTiles][kWarpColumns / 8][4];  // [m16][n8][as mma leaves them]
};

}  // namespace psa::cuda::estimation
