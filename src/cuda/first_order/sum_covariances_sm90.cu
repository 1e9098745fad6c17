// SPDX-License-Identifier: Apache-2.0

// The maps of all query blocks (sum_tile.cuh) with wgmma and TMA.
//
// A persistent CTA per SM. A producer warp fills a ring of stages, each a step of 64 KV blocks: 128
// rows of weights and as many rows of covariances as there are blocks, 256 columns of them. Two
// warpgroups multiply, 64 rows each, weights by way of registers. While they round and write a tile
// the producer is at the next one.
//
//   ring    weights [128, 64]                 lines of 128 bytes, swizzled
//           covariances 4 x [64, 64]          the same: 64 blocks x 64 columns
//   sums    2 x [64, 128]                     of each warpgroup, before they are written
//
// Bound: a step is 48 KB from L2 and 1024 cycles of the tensor cores. At Wan 720p, .256 ms on an
// H200, all steps together are 7.4 TB/s and 630 TFLOP/s, near both limits.

#include <algorithm>

#include "cuda/device/barrier.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/device/tensor_map.cuh"
#include "cuda/device/wgmma.cuh"
#include "cuda/first_order/sum_tile.cuh"
#include "cuda/launch.cuh"
#include "cuda/tensor_map.cuh"

namespace psa::cuda {
namespace {

constexpr int kWarpgroup = 128;
constexpr int kConsumers = 2;
constexpr int kConsumerRows = kTileRows / kConsumers;
constexpr int kConsumerWarps = kConsumers * 4;
constexpr int kThreads = (kConsumers + 1) * kWarpgroup;
constexpr int kProducerRegisters = 40;
constexpr int kConsumerRegisters = 232;
constexpr int kStep = 64;
constexpr int kStages = 4;
constexpr int kColumnGroups = kTileColumns / 64;
constexpr int kProductColumns = 128;  // of a wgmma
constexpr int kProducts = kTileColumns / kProductColumns;
constexpr int kWeightBytes = kTileRows * kStep * 2;
constexpr int kGroupBytes = kStep * 64 * 2;
constexpr int kMatrixBytes = kColumnGroups * kGroupBytes;

struct SumMaps {
  CUtensorMap weights;     // weight_row | rows | heads
  CUtensorMap covariance;  // 64 columns | inner | columns / 64 | heads
};

struct SharedMemory {
  alignas(1024) std::byte weights[kStages][kWeightBytes];
  alignas(1024) std::byte matrix[kStages][kMatrixBytes];
  alignas(128) std::byte sums[kConsumers][kConsumerRows * kProductColumns * 2];
  Barrier full[kStages];
  Barrier empty[kStages];
};

using Ring = RingIndex<kStages>;

__device__ int steps_of(const SumParams& p, const Part& part) {
  return (weighted_blocks(p, part) + kStep - 1) / kStep;
}

__device__ void produce(const SumParams& p, const SumMaps& maps, SharedMemory& shared, int parts) {
  Ring ring;
  for (int i = static_cast<int>(blockIdx.x); i < parts; i += static_cast<int>(gridDim.x)) {
    const Part part = part_of(p, i);
    const int steps = steps_of(p, part);
    for (int step = 0; step < steps; ++step) {
      Barrier* full = &shared.full[ring.slot];
      wait(&shared.empty[ring.slot], ring.parity ^ 1U);
      if (elect_one()) {
        expect_bytes(full, kWeightBytes + kMatrixBytes);
        copy_box(shared_address(shared.weights[ring.slot]), &maps.weights, step * kStep, part.row,
                 part.head, 0, 0, full);
        copy_box(shared_address(shared.matrix[ring.slot]), &maps.covariance, 0, step * kStep,
                 part.column / 64, part.head, 0, full);
        arrive(full);
      }
      ring.advance();
    }
  }
}

template <typename Element>
struct Consumer {
  SharedMemory& shared;
  int group, warp, lane;  // warp of the group
  Ring ring;
  float sums[kProducts][kProductColumns / 2];

  __device__ explicit Consumer(SharedMemory& storage)
      : shared(storage),
        group(static_cast<int>(threadIdx.x) / kWarpgroup),
        warp(static_cast<int>(threadIdx.x) / 32 % 4),
        lane(static_cast<int>(threadIdx.x) % 32) {}

  __device__ void multiply_step() {
    std::uint32_t rows[kStep / 16][4];
#pragma unroll
    for (int k = 0; k < kStep / 16; ++k) {
      load_matrices(rows[k], piece_address<2 * kStep>(shared.weights[ring.slot],
                                                      group * kConsumerRows + 16 * warp + lane % 16,
                                                      2 * k + lane / 16));
    }
    const Operand matrix = operand(shared_address(shared.matrix), kGroupBytes, kHalfBytes)
                               .at(ring.slot * kMatrixBytes);
#pragma unroll
    for (auto& half : sums) pin(half);
    begin_products();
#pragma unroll
    for (int k = 0; k < kStep / 16; ++k) {
#pragma unroll
      for (int half = 0; half < kProducts; ++half) {
        Wgmma<Element, kProductColumns>::registers_times_shared(
            sums[half], rows[k],
            matrix.at(half * (kProductColumns / 64) * kGroupBytes +
                      2 * k * static_cast<int>(kHalfBytes)));
      }
    }
    commit_products();
    wait_products<0>();
#pragma unroll
    for (auto& half : sums) pin(half);
  }

  /// Rounds the sums and writes them, through shared memory, in whole pieces.
  __device__ void write(const SumParams& p, const Part& part) const {
    std::byte* tile = shared.sums[group];
#pragma unroll
    for (int half = 0; half < kProducts; ++half) {
      sync_named(1 + group, kWarpgroup);  // nobody reads the half before any more
#pragma unroll
      for (int j = 0; j < kProductColumns / 8; ++j) {
#pragma unroll
        for (int eighth = 0; eighth < 2; ++eighth) {
          const float* pair = &sums[half][4 * j + 2 * eighth];
          store_shared(
              piece_address<2 * kProductColumns>(tile, 16 * warp + 8 * eighth + lane / 4, j) +
                  lane % 4 * 4,
              pack<Element>(pair[0], pair[1]));
        }
      }
      sync_named(1 + group, kWarpgroup);
      write_tile<Element, kConsumerRows, kProductColumns>(
          p, part.head, part.row + group * kConsumerRows, part.column + half * kProductColumns,
          tile, static_cast<int>(threadIdx.x) % kWarpgroup, kWarpgroup);
    }
  }

  __device__ void run(const SumParams& p, int parts) {
    for (int i = static_cast<int>(blockIdx.x); i < parts; i += static_cast<int>(gridDim.x)) {
      const Part part = part_of(p, i);
#pragma unroll
      for (auto& half : sums) {
#pragma unroll
        for (float& sum : half) sum = 0.0F;
      }
      const int steps = steps_of(p, part);
      for (int step = 0; step < steps; ++step) {
        wait(&shared.full[ring.slot], ring.parity);
        multiply_step();
        if (lane == 0) arrive(&shared.empty[ring.slot]);
        ring.advance();
      }
      write(p, part);
    }
  }
};

template <typename Element>
__global__ void __launch_bounds__(kThreads, 1)
    sum_blocks_sm90(const __grid_constant__ SumParams p, const __grid_constant__ SumMaps maps,
                    int parts) {
  extern __shared__ std::byte dynamic[];
  const std::uint32_t misaligned = shared_address(dynamic) % 1024U;
  auto& shared =
      *reinterpret_cast<SharedMemory*>(dynamic + (misaligned == 0 ? 0U : 1024U - misaligned));
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      init_barrier(&shared.full[i], 1);
      init_barrier(&shared.empty[i], kConsumerWarps);
    }
    publish_barriers();
  }
  __syncthreads();
  if (threadIdx.x >= kConsumers * kWarpgroup) {
    give_up_registers<kProducerRegisters>();
    if (threadIdx.x < kConsumers * kWarpgroup + 32) produce(p, maps, shared, parts);
  } else {
    take_registers<kConsumerRegisters>();
    Consumer<Element>(shared).run(p, parts);
  }
}

// ---- launch ------------------------------------------------------------------------------------

bool encode(const SumParams& p, DType dtype, SumMaps& maps) {
  constexpr cuuint64_t kElementBytes = 2;
  const auto size = [](int n) { return static_cast<cuuint64_t>(n); };
  const cuuint64_t weight_bytes = size(p.weight_row) * kElementBytes;
  const cuuint64_t matrix_bytes = size(p.columns) * kElementBytes;
  const cuuint64_t unused = weight_bytes;  // a dimension of one element still needs a stride
  return encode_tensor_map(
             {.data = p.weights,
              .sizes = {size(p.weight_row), size(p.rows), size(p.heads), 1, 1},
              .stride_bytes = {weight_bytes, size(p.rows) * weight_bytes, unused, unused},
              .box = {kStep, kTileRows, 1, 1, 1}},
             dtype, maps.weights) &&
         encode_tensor_map(
             {.data = p.covariance,
              .sizes = {64, size(p.inner), size(p.columns / 64), size(p.heads), 1},
              .stride_bytes = {matrix_bytes, 128, size(p.inner) * matrix_bytes, unused},
              .box = {64, kStep, kColumnGroups, 1, 1}},
             dtype, maps.covariance);
}

}  // namespace

void sum_covariances_sm90(const StageContext& context, const core::Inputs& inputs,
                          const FirstOrder& work) {
  const SumParams p = sum_params(context.geometry, inputs, work);
  const DType dtype = context.geometry.shape.dtype_kv;
  SumMaps maps{};
  // Channels come in eights here (backend.cu), so that columns come in 64s.
  if (p.columns % 64 != 0 || !encode(p, dtype, maps)) {
    sum_covariances(context, inputs, work);
    return;
  }
  constexpr std::size_t kSharedBytes = sizeof(SharedMemory) + 1024;
  static_assert(kSharedBytes <= 227 * 1024);
  const auto parts = static_cast<int>(grid_of(p.parts()));
  const int ctas = std::min(parts, multiprocessors());
  const auto kernel =
      dtype == DType::kF16 ? sum_blocks_sm90<__half> : sum_blocks_sm90<__nv_bfloat16>;
  allow_shared_memory(kernel, kSharedBytes);
  kernel<<<ctas, kThreads, kSharedBytes, stream_of(context.stream)>>>(p, maps, parts);
  check_launch("sum_blocks_sm90");
}

}  // namespace psa::cuda
