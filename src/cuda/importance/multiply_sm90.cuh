// SPDX-License-Identifier: Apache-2.0
#pragma once

// Dot products of a tile by wgmma (sm_90a), both operands from shared memory. A warpgroup has
// kRowTiles x 64 rows and all 128 columns or half of them; warp w of it has rows 16w..16w+15 of
// each 64.
//
// The products of a chunk run while the warps copy, wait for the next chunk and start its products:
// await_earlier() lets those of one chunk be under way, so the slots of two are held.
//
// Warpgroups. kTokens: two of 64 rows, because what counts there is the reduction, which twice the
// warps with half the accumulators do better: 2 CTAs of 256 threads leave 128 registers for 64
// accumulators. kMeans: two side by side, because the means leave room for 64 rows and 2 CTAs only,
// and 8 warps on an SM would wait for memory most of the time. kStreamed: two of 128
// rows, which share each granule of columns that comes from L2.

#include <cstdint>

#include "cuda/device/barrier.cuh"
#include "cuda/device/wgmma.cuh"
#include "cuda/importance/operands.cuh"
#include "cuda/importance/params.cuh"
#include "cuda/importance/pieces.cuh"

namespace psa::cuda::estimation {

struct MultiplierSm90 {
  /// What heads of up to 128 channels need: the sm_90a table serves no others (backend.cu).
  [[nodiscard]] static constexpr bool serves(Shape shape, Reduction reduction) {
    return shape == Shape::kTokens || (reduction == Reduction::kLogSum &&
                                       (shape == Shape::kMeans || shape == Shape::kStreamed));
  }
  template <typename Element, Shape kShape>
  class Products;
};

template <typename ElementType, Shape kShape>
class MultiplierSm90::Products {
 public:
  using Element = ElementType;
  static constexpr int kRowTiles = kShape == Shape::kStreamed ? 2 : 1;
  static constexpr int kGroupRows = 64 * kRowTiles;
  static constexpr int kGroupColumns = kShape == Shape::kMeans ? kWarpColumns : kTileColumns;
  static constexpr int kGroupsAbreast = kTileColumns / kGroupColumns;
  static constexpr int kThreads = tile_size(kShape).rows / kGroupRows * kGroupsAbreast * 128;
  static constexpr int kHalves = kGroupColumns / kWarpColumns;
  static constexpr int kEighths = 2 * kRowTiles;
  static constexpr int kGroupCtas = sm90_group_ctas(kShape);
  static constexpr int kHeldChunks = 2;
  static constexpr Boxes kBoxes = kShape == Shape::kTokens ? Boxes::kAlways : Boxes::kWhereInUse;

  [[nodiscard]] __device__ static int lane_row(int eighth) {
    return warp_id() / 4 / kGroupsAbreast * kGroupRows + eighth / 2 * 64 + warp_id() % 4 * 16 +
           eighth % 2 * 8 + lane_id() / 4;
  }
  [[nodiscard]] __device__ static int first_column(int half) {
    return warp_id() / 4 % kGroupsAbreast * kGroupColumns + half * kWarpColumns;
  }
  [[nodiscard]] __device__ float& at(int half, int eighth, int i) {
    return c_[eighth / 2][half * 2 * kLaneColumns + i / 2 * 4 + eighth % 2 * 2 + i % 2];
  }

  /// What threads have written or copied becomes visible to wgmma; before the CTA's barrier.
  __device__ static void publish_operands() { fence_async_proxy(); }

  /// wgmma only has to be started.
  [[nodiscard]] __device__ static bool feeds_first() { return false; }

  __device__ __forceinline__ void multiply(const ChunkOperands& operands, bool begins_tile) {
    constexpr int kSteps = kChunkChannels / 16;
    constexpr int kTerms = kRowTerms<Element, kShape>;
    const int group = __shfl_sync(0xFFFFFFFFU, warp_id() / 4, 0);  // in a uniform register
    const Operand rows = operand(operands.rows, 16, kOperandAlignment)
                             .at(group / kGroupsAbreast * kGroupRows * kRowBytes);
    const Operand columns = operand(operands.columns, 16, kOperandAlignment)
                                .at(group % kGroupsAbreast * kGroupColumns * kRowBytes);
    begin_products();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int term = 0; term < kTerms; ++term) {
        const int term_bytes = term * static_cast<int>(operands.term_bytes);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          Wgmma<Element, kGroupColumns>::shared_times_shared(
              c_[m], rows.at(term_bytes + m * 64 * kRowBytes + step * 32), columns.at(step * 32),
              step > 0 || term > 0 || !begins_tile);
        }
      }
    }
    commit_products();
  }

  /// Waits for the products of all chunks but the last one.
  __device__ __forceinline__ void await_earlier() { wait_products<1>(); }
  __device__ __forceinline__ void await_all() {
    wait_products<0>();
#pragma unroll
    for (auto& row_tile : c_) pin(row_tile);
  }

 private:
  float c_[kRowTiles][kGroupColumns / 2];  // [m64][as wgmma leaves them]
};

}  // namespace psa::cuda::estimation
