// SPDX-License-Identifier: Apache-2.0

// S-9. The offsets of the samples in every block of a head: one CTA per head and side, one thread
// per offset, which compares its hash with all others. Once per call, so that the estimate looks
// offsets up.

#include "cuda/grid.hpp"
#include "cuda/importance/estimate.cuh"
#include "cuda/launch.cuh"
#include "semantics/importance.hpp"

namespace psa::cuda::estimation {
namespace {

using semantics::Side;

/// One side's heads of a chunk.
struct Draw {
  std::uint64_t seed;
  Side side;
  index_t batch_begin;
  index_t heads;  // of a batch element
  int block_size;
  int samples;
  std::uint8_t* offsets;  // [batch elements, heads, kMaxBlock]
};

__global__ void __launch_bounds__(kMaxBlock) draw_kernel(const Draw draw) {
  __shared__ unsigned int drawn[kMaxBlock / 32];  // bit o % 32 of word o / 32: offset o
  const auto offset = static_cast<int>(threadIdx.x);
  const int word = offset / 32;
  const index_t batch = draw.batch_begin + blockIdx.x / draw.heads;
  const index_t head = blockIdx.x % draw.heads;
  const bool is_drawn =
      offset < draw.block_size && semantics::is_sampled(draw.seed, draw.side, batch, head, offset,
                                                        draw.block_size, draw.samples);
  const unsigned int bits = __ballot_sync(0xFFFFFFFFU, is_drawn);
  if (offset % 32 == 0) drawn[word] = bits;
  __syncthreads();
  if (!is_drawn) return;
  int place = __popc(bits & ((1U << (offset % 32)) - 1U));
  for (int before = 0; before < word; ++before) place += __popc(drawn[before]);
  draw.offsets[static_cast<index_t>(blockIdx.x) * kMaxBlock + place] =
      static_cast<std::uint8_t>(offset);
}

}  // namespace

void draw_samples(const core::Geometry& geometry, const core::RowChunk& chunk,
                  std::uint8_t* q_offsets, std::uint8_t* kv_offsets, cudaStream_t stream) {
  const Config& config = geometry.config;
  const ProblemShape& shape = geometry.shape;
  const index_t first = chunk.batch_begin;
  const Draw queries{config.seed,    Side::kQuery,     first,    shape.heads_q,
                     config.block_q, config.samples_q, q_offsets};
  const Draw keys{config.seed,     Side::kKey,        first,     shape.heads_kv,
                  config.block_kv, config.samples_kv, kv_offsets};
  for (const Draw& draw : {queries, keys}) {
    draw_kernel<<<grid_of(chunk.batches() * draw.heads), kMaxBlock, 0, stream>>>(draw);
    check_launch("draw_kernel");
  }
}

}  // namespace psa::cuda::estimation
