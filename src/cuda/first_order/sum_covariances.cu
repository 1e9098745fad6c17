// SPDX-License-Identifier: Apache-2.0

// The maps of all query blocks (sum_tile.cuh) with mma.sync.
//
// A CTA makes a part in steps of 32 KV blocks, which cp.async loads kStages - 1 steps ahead. Warps
// make 64 x 64 each: with fewer, shared memory would be the limit and not the tensor cores.
//
// Cost: Nq·Nk·D² multiply-adds per query head; the covariances are read from memory once where L2
// holds a step of them.

#include "cuda/device/copy.cuh"
#include "cuda/device/element.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/first_order/sum_tile.cuh"
#include "cuda/launch.cuh"

namespace psa::cuda {
namespace {

constexpr int kWarpTile = 64;
constexpr int kStep = 32;
constexpr int kStages = 4;
constexpr int kThreads = 256;
constexpr int kWeightBytes = kStep * 2;  // of a row in shared memory
constexpr int kMatrixBytes = kTileColumns * 2;
constexpr int kRowWarps = kTileRows / kWarpTile;

struct SharedMemory {
  alignas(128) std::byte weights[kStages][kTileRows * kWeightBytes];
  alignas(128) std::byte matrix[kStages][kStep * kMatrixBytes];
};

/// The pieces of 8 elements that a thread copies in every step: of both operands the same columns
/// of rows that lie kRows apart.
template <typename Element, int kPieces>
struct Copier {
  static constexpr int kRows = kThreads / kPieces;
  const Element* origin;
  const Element* from;  // of the first row, step 0
  int row, piece;

  /// `part_origin`: element (0, 0) of the operand's part, which exists.
  __device__ Copier(const Element* part_origin, int stride)
      : origin(part_origin),
        from(origin + static_cast<index_t>(threadIdx.x / kPieces) * stride +
             threadIdx.x % kPieces * 8),
        row(static_cast<int>(threadIdx.x) / kPieces),
        piece(static_cast<int>(threadIdx.x) % kPieces) {}

  /// Starts the copies of kCount rows, zeros where `is_real(row)` is false.
  template <int kRowBytes, int kCount, typename IsReal>
  __device__ void copy(std::byte* tile, const Element* first, int stride,
                       const IsReal& is_real) const {
#pragma unroll
    for (int r = 0; r < kCount; r += kRows) {
      const bool is_there = is_real(row + r);
      copy_async_16(piece_address<kRowBytes>(tile, row + r, piece),
                    is_there ? first + static_cast<index_t>(r) * stride : origin, is_there);
    }
  }
};

/// A warp's 64 x 64 elements.
using Sums = float[kWarpTile / 16][kWarpTile / 8][4];

template <typename Element>
__device__ void multiply_step(const SharedMemory& shared, int stage, Sums& c) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int inner = 0; inner < kStep; inner += 16) {
    std::uint32_t a[kWarpTile / 16][4];
#pragma unroll
    for (int m = 0; m < kWarpTile / 16; ++m) {
      load_matrices(a[m],
                    piece_address<kWeightBytes>(shared.weights[stage],
                                                warp % kRowWarps * kWarpTile + 16 * m + lane % 16,
                                                inner / 8 + lane / 16));
    }
#pragma unroll
    for (int pair = 0; pair < kWarpTile / 16; ++pair) {
      std::uint32_t b[4];
      load_matrices_transposed(b, piece_address<kMatrixBytes>(
                                      shared.matrix[stage], inner + lane % 16,
                                      (warp / kRowWarps * kWarpTile + 16 * pair) / 8 + lane / 16));
#pragma unroll
      for (int m = 0; m < kWarpTile / 16; ++m) {
        mma_16x8x16<Element>(c[m][2 * pair], a[m], b[0], b[1]);
        mma_16x8x16<Element>(c[m][2 * pair + 1], a[m], b[2], b[3]);
      }
    }
  }
}

/// Rounds the sums and writes them, through shared memory, in whole pieces.
template <typename Element>
__device__ void write_sums(const SumParams& p, const Part& part, std::byte* tile, const Sums& c) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int m = 0; m < kWarpTile / 16; ++m) {
#pragma unroll
    for (int n = 0; n < kWarpTile / 8; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = warp % kRowWarps * kWarpTile + 16 * m + 8 * half + lane / 4;
        const int piece = warp / kRowWarps * (kWarpTile / 8) + n;
        store_shared(piece_address<kMatrixBytes>(tile, row, piece) + lane % 4 * 4,
                     pack<Element>(c[m][n][2 * half], c[m][n][2 * half + 1]));
      }
    }
  }
  __syncthreads();
  write_tile<Element, kTileRows, kTileColumns>(p, part.head, part.row, part.column, tile,
                                               static_cast<int>(threadIdx.x), kThreads);
}

template <typename Element>
__global__ void __launch_bounds__(kThreads, 1) sum_blocks(const __grid_constant__ SumParams p) {
  extern __shared__ __align__(128) std::byte dynamic[];
  static_assert(sizeof(SharedMemory) >= kTileRows * kMatrixBytes);
  auto& shared = *reinterpret_cast<SharedMemory*>(dynamic);
  const Part part = part_of(p, static_cast<int>(blockIdx.x));
  const Copier<Element, kStep / 8> weights(
      reinterpret_cast<const Element*>(p.weights) +
          (index_t{part.head} * p.rows + part.row) * p.weight_row,
      p.weight_row);
  const Copier<Element, kTileColumns / 8> matrix(reinterpret_cast<const Element*>(p.covariance) +
                                                     index_t{part.head} * p.inner * p.columns +
                                                     part.column,
                                                 p.columns);
  const bool has_column = part.column + matrix.piece * 8 < p.columns;
  const int steps = (weighted_blocks(p, part) + kStep - 1) / kStep;
  const auto load_step = [&](int step) {
    if (step < steps) {
      const int stage = step % kStages;
      const int inner = step * kStep;
      const bool has_weights = inner + weights.piece * 8 < p.weight_row;
      weights.template copy<kWeightBytes, kTileRows>(
          shared.weights[stage], weights.from + inner, p.weight_row,
          [&](int row) { return has_weights && part.row + row < p.rows; });
      matrix.template copy<kMatrixBytes, kStep>(
          shared.matrix[stage], matrix.from + static_cast<index_t>(inner) * p.columns, p.columns,
          [&](int row) { return has_column && inner + row < p.inner; });
    }
    commit_copies();
  };
  for (int step = 0; step < kStages - 1; ++step) load_step(step);
  Sums c = {};
  for (int step = 0; step < steps; ++step) {
    wait_copies<kStages - 2>();
    __syncthreads();  // the step is there, and nobody reads the one before
    load_step(step + kStages - 1);
    multiply_step<Element>(shared, step % kStages, c);
  }
  wait_copies<0>();
  __syncthreads();
  write_sums<Element>(p, part, dynamic, c);
}

}  // namespace

void sum_covariances(const StageContext& context, const core::Inputs& inputs,
                     const FirstOrder& work) {
  const core::Geometry& g = context.geometry;
  const SumParams p = sum_params(g, inputs, work);
  const auto kernel =
      g.shape.dtype_kv == DType::kF16 ? sum_blocks<__half> : sum_blocks<__nv_bfloat16>;
  allow_shared_memory(kernel, sizeof(SharedMemory));
  kernel<<<grid_of(p.parts()), kThreads, sizeof(SharedMemory), stream_of(context.stream)>>>(p);
  check_launch("sum_blocks");
}

}  // namespace psa::cuda
