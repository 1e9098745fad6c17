// SPDX-License-Identifier: Apache-2.0

// S-9. The offsets of the samples in every block of a head: one CTA per head and side, one thread
// per offset, which compares its hash with all others. Once per call, so that the estimate looks
// offsets up. And copies of the sampled keys side by side, which then come as boxes.

#include "cuda/grid.hpp"
#include "cuda/importance/estimate.cuh"
#include "cuda/importance/operands.cuh"
#include "cuda/importance/probes.cuh"
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

constexpr int kCopyThreads = 256;
constexpr int kPieces = 4;  // of 16 bytes that a thread has under way

template <bool kAligned>
__global__ void __launch_bounds__(kCopyThreads)
    copy_keys(const __grid_constant__ Params p, std::uint32_t head_pieces, unsigned int head_ctas) {
  const auto head = static_cast<int>(blockIdx.x / head_ctas);  // KV head of the launch
  const int row_pieces = p.head_dim / kThreadChannels;
  Item item{};  // what column_token() asks for
  item.head = p.first_head + head * p.heads_per_kv;
  item.batch = p.batch_begin + item.head / p.heads_q;
  item.head_kv = item.head % p.heads_q / p.heads_per_kv;
  item.key_count = static_cast<int>(key_length(p.kv_lengths, item.batch, p.len_kv));
  const KvHead<Bits> keys = p.k.head(item.batch, item.head_kv);
  const std::uint32_t first = blockIdx.x % head_ctas * (kCopyThreads * kPieces) + threadIdx.x;
  uint4 copied[kPieces];
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    // Behind the last piece it again, so that no load waits for a branch.
    const auto piece = static_cast<int>(min(first + i * kCopyThreads, head_pieces - 1));
    const int channel = piece % row_pieces * kThreadChannels;
    const Bits* row = token_data(keys, column_token(p, keys, item, piece / row_pieces, 0));
    copied[i] = load_channels<kAligned>(row + channel, p.head_dim - channel);
  }
  auto* to = reinterpret_cast<uint4*>(p.sampled_keys) + index_t{head} * head_pieces;
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const std::uint32_t piece = first + i * kCopyThreads;
    if (piece < head_pieces) to[piece] = copied[i];
  }
}

}  // namespace

void copy_sampled_keys(const Params& params, cudaStream_t stream) {
  const int row_pieces = params.head_dim / kThreadChannels;
  const auto head_pieces = static_cast<std::uint32_t>(
      (index_t{params.num_kv_blocks} << params.log2_columns) * row_pieces);
  const auto head_ctas = static_cast<unsigned int>(
      semantics::ceil_div(head_pieces, std::uint32_t{kCopyThreads * kPieces}));
  const unsigned int ctas = grid_of(index_t{params.heads / params.heads_per_kv} * head_ctas);
  const auto kernel = params.has_aligned_rows ? copy_keys<true> : copy_keys<false>;
  kernel<<<ctas, kCopyThreads, 0, stream>>>(params, head_pieces, head_ctas);
  check_launch("copy_keys");
}

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
