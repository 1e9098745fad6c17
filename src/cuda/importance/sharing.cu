// SPDX-License-Identifier: Apache-2.0

// What is done to given importance: hidden blocks of the caller's scores (S-8), and one importance
// for all heads of a KV group (S-13). Both are bound by memory: 4 bytes per score written, and for
// sharing two reads.

#include "cuda/grid.hpp"
#include "cuda/importance/estimate.cuh"
#include "cuda/importance/probes.cuh"
#include "cuda/launch.cuh"
#include "semantics/blocks.hpp"

namespace psa::cuda::estimation {
namespace {

constexpr int kThreads = 128;

/// Scores of a chunk: [heads of all batch elements, rows, Nk].
struct Scores {
  float* data;
  index_t heads;
  index_t rows;  // of a head
  int num_kv_blocks;

  [[nodiscard]] __device__ float* row(index_t head, index_t row_of_head) const {
    return data + (head * rows + row_of_head) * num_kv_blocks;
  }
};

// ---- S-8 ----------------------------------------------------------------------------------------

struct HideParams {
  Scores scores;
  const std::int32_t* kv_lengths;
  index_t batch_begin, heads_q;
  index_t len_q, len_kv;
  index_t q_block_begin;
  int block_q, block_kv;
  bool is_causal;
};

/// One CTA per row.
__global__ void __launch_bounds__(kThreads) hide_kernel(const HideParams p) {
  const index_t row = blockIdx.x % p.scores.rows;
  const index_t head = blockIdx.x / p.scores.rows;
  const index_t keys = key_length(p.kv_lengths, p.batch_begin + head / p.heads_q, p.len_kv);
  const Range queries = semantics::block_range(p.q_block_begin + row, p.block_q, p.len_q);
  const auto visible =
      static_cast<int>(semantics::visible_blocks(p.is_causal, queries, p.block_kv, p.len_q, keys));
  float* scores = p.scores.row(head, row);
  for (int j = visible + static_cast<int>(threadIdx.x); j < p.scores.num_kv_blocks; j += kThreads) {
    scores[j] = 0.0F;
  }
}

// ---- S-13 ---------------------------------------------------------------------------------------

/// Sum over a row, the same for all threads. All threads of the CTA.
__device__ float sum_row(const float* row, int count) {
  __shared__ float parts[kThreads / 32];
  const auto thread = static_cast<int>(threadIdx.x);
  float sum = 0.0F;
  for (int j = thread; j < count; j += kThreads) sum += row[j];
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xFFFFFFFFU, sum, mask);
  if (thread % 32 == 0) parts[thread / 32] = sum;
  __syncthreads();
  float total = 0.0F;
#pragma unroll
  for (const float part : parts) total += part;
  __syncthreads();
  return total;
}

/// One CTA per row of a KV group. The first head's row collects the shares of all: a thread meets
/// the same blocks in every head, so rows need no other memory.
__global__ void __launch_bounds__(kThreads) share_kernel(const Scores scores, int heads) {
  const index_t row = blockIdx.x % scores.rows;
  const index_t first_head = blockIdx.x / scores.rows * heads;
  const auto thread = static_cast<int>(threadIdx.x);
  float* shared = scores.row(first_head, row);
  for (int h = 0; h < heads; ++h) {
    const float* own = scores.row(first_head + h, row);
    const float sum = sum_row(own, scores.num_kv_blocks);
    const bool counts = sum > 0.0F && isfinite(sum);
    for (int j = thread; j < scores.num_kv_blocks; j += kThreads) {
      const float share = counts ? own[j] / sum : 0.0F;
      shared[j] = h == 0 ? share : shared[j] + share;
    }
  }
  for (int j = thread; j < scores.num_kv_blocks; j += kThreads) {
    const float mean = shared[j] / static_cast<float>(heads);
    for (int h = 0; h < heads; ++h) scores.row(first_head + h, row)[j] = mean;
  }
}

Scores scores_of(const core::Geometry& g, const core::RowChunk& chunk, float* importance) {
  return {importance, chunk.batches() * g.shape.heads_q, chunk.q_blocks(),
          static_cast<int>(g.num_kv_blocks)};
}

}  // namespace

void hide_scores(const core::Geometry& geometry, const core::ImportanceParams& params,
                 cudaStream_t stream) {
  const HideParams p{.scores = scores_of(geometry, params.chunk, params.importance),
                     .kv_lengths = params.inputs.kv_lengths,
                     .batch_begin = params.chunk.batch_begin,
                     .heads_q = geometry.shape.heads_q,
                     .len_q = geometry.shape.len_q,
                     .len_kv = geometry.shape.len_kv,
                     .q_block_begin = params.chunk.q_block_begin,
                     .block_q = geometry.config.block_q,
                     .block_kv = geometry.config.block_kv,
                     .is_causal = geometry.config.causal};
  hide_kernel<<<grid_of(p.scores.heads * p.scores.rows), kThreads, 0, stream>>>(p);
  check_launch("hide_kernel");
}

void share_scores(const core::Geometry& geometry, const core::RowChunk& chunk, float* importance,
                  cudaStream_t stream) {
  const Scores scores = scores_of(geometry, chunk, importance);
  const index_t heads = geometry.heads_per_kv();
  share_kernel<<<grid_of(scores.heads / heads * scores.rows), kThreads, 0, stream>>>(
      scores, static_cast<int>(heads));
  check_launch("share_kernel");
}

}  // namespace psa::cuda::estimation
