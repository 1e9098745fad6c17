// SPDX-License-Identifier: Apache-2.0

// Levels stage where the query blocks of a head share its budget (S-28).
//
//   in   importance of a chunk of whole heads (null: all equal), weights [B, Hkv, Nk] and caps
//        [B, Hkv, Nk] (null: none), key lengths
//   out  levels     [B, Hq, Nq, Nk], the heads of the chunk
//
// Nothing is sorted. A pair of blocks has one of 4096 classes by its importance, and the cuts of a
// head follow from how many pairs each class has:
//
//   count_classes  a warp per row: the block that it must have, then a histogram of its pairs, in
//                  the shared memory of a CTA of kCtaRows rows of one head, then of the head
//   find_cuts      a CTA per head: sums from the highest class down, and the cuts, by one thread
//   assign_pairs   a warp per row: a code for each pair
//
// Every decision is a function of semantics::, so that the map is bit-equal to the reference's for
// the same importance.
//
// Cost: three reads of the importance, which the second-level cache holds, one byte written per
// pair.

#include "core/backend.hpp"
#include "core/ledger.hpp"
#include "cuda/device/kv_rows.cuh"
#include "cuda/grid.hpp"
#include "cuda/launch.cuh"
#include "cuda/levels/row_search.cuh"
#include "cuda/stages.hpp"
#include "semantics/head_budget.hpp"

namespace psa::cuda {
namespace {

using semantics::HeadCuts;
using semantics::kRankClasses;
using semantics::Range;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kCtaRows = 8;
constexpr int kCutThreads = 1024;
constexpr int kCutWarps = kCutThreads / kWarp;
constexpr int kThreadClasses = kRankClasses / kCutThreads;

/// What one kernel leaves for the next, in the scratch memory; heads are those of all batch
/// elements.
struct HeadScratch {
  std::uint32_t* counts;  // [heads, kRankClasses]
  HeadCuts* cuts;         // [heads]
  std::int32_t* first;    // [heads, Nq]: the block that a row without forced ones must have; or -1
};

HeadScratch carve(core::Ledger& ledger, const core::Geometry& g) {
  const auto heads = static_cast<std::size_t>(g.shape.batch * g.shape.heads_q);
  return {ledger.take<std::uint32_t>(heads * kRankClasses), ledger.take<HeadCuts>(heads),
          ledger.take<std::int32_t>(heads * static_cast<std::size_t>(g.num_q_blocks))};
}

struct HeadParams {
  const float* importance;         // [batch elements, Hq, Nq, Nk] or null
  const float* weights;            // [B, Hkv, Nk] or null
  const std::uint8_t* caps;        // [B, Hkv, Nk] or null
  const std::int32_t* kv_lengths;  // [B] or null
  LevelMapView levels;
  HeadScratch scratch;
  semantics::ForcedRule forced;
  float budget[kMaxLevels];
  const float* head_budgets;  // [Hq, kMaxLevels] or null: all heads have `budget`
  semantics::HeadRule rule;
  int batch_begin;
  index_t len_q, len_kv;
  int heads_q, heads_kv, heads_per_kv;
  int block_q, num_q_blocks, num_kv_blocks;
  bool needs_first;
};

/// The pairs of one query block of one head, by a warp.
struct PairRow {
  const HeadParams& p;
  index_t batch;
  int head, q_block;  // query head of the batch element
  index_t kv_length;
  index_t kv_head;  // of all batch elements
  Range queries;
  const float* importance;  // [Nk] or null
  int lane;

  /// `chunk_head`: of all batch elements of the chunk.
  __device__ PairRow(const HeadParams& params, int chunk_head, int block)
      : p(params),
        batch(params.batch_begin + chunk_head / params.heads_q),
        head(chunk_head % params.heads_q),
        q_block(block),
        kv_length(key_length(params.kv_lengths, batch, params.len_kv)),
        kv_head(batch * params.heads_kv + head / params.heads_per_kv),
        queries(semantics::block_range(block, params.block_q, params.len_q)),
        importance(params.importance == nullptr
                       ? nullptr
                       : params.importance + (index_t{chunk_head} * params.num_q_blocks + block) *
                                                 params.num_kv_blocks),
        lane(static_cast<int>(threadIdx.x) % kWarp) {}

  [[nodiscard]] __device__ int blocks() const {
    return static_cast<int>(semantics::ceil_div(kv_length, p.rule.block_kv));
  }

  [[nodiscard]] __device__ float importance_of(int j) const {
    if (importance == nullptr) return 0.0F;
    const float weight =
        p.weights == nullptr ? 1.0F : __ldg(p.weights + kv_head * p.num_kv_blocks + j);
    return semantics::weighed_importance(__ldg(importance + j), weight);
  }

  [[nodiscard]] __device__ bool is_forced(int j) const {
    const Range keys = semantics::block_range(j, p.rule.block_kv, kv_length);
    return semantics::is_forced(p.forced, queries, keys, j, semantics::Visibility::kFull);
  }

  /// The block that the row must have although none is forced; -1: none.
  [[nodiscard]] __device__ int find_first() const {
    bool has_forced = !p.needs_first;
    std::uint64_t first = kNoRank;
#pragma unroll 4
    for (int j = lane; j < blocks(); j += kWarp) {
      has_forced |= is_forced(j);
      first = min(first, rank_of(bits_of_importance(importance_of(j)), j));
    }
#pragma unroll
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      first = min(first, __shfl_xor_sync(kAllLanes, first, distance));
    }
    if (__any_sync(kAllLanes, has_forced) || first == kNoRank) return -1;
    return static_cast<int>(first & 0xFFFFFFFFU);
  }

  [[nodiscard]] __device__ int class_of(int j, int first) const {
    return j == first || is_forced(j) ? semantics::kForcedClass
                                      : semantics::rank_class(importance_of(j));
  }
};

__global__ void __launch_bounds__(kThreads) count_classes(const __grid_constant__ HeadParams p) {
  __shared__ std::uint32_t counts[kRankClasses];
  const int thread = static_cast<int>(threadIdx.x);
  const int ctas = (p.num_q_blocks + kCtaRows - 1) / kCtaRows;
  const int chunk_head = static_cast<int>(blockIdx.x) / ctas;
  const int begin = static_cast<int>(blockIdx.x) % ctas * kCtaRows;
  for (int c = thread; c < kRankClasses; c += kThreads) counts[c] = 0;
  __syncthreads();
  for (int i = begin + thread / kWarp; i < min(begin + kCtaRows, p.num_q_blocks); i += kWarps) {
    const PairRow row(p, chunk_head, i);
    const int first = row.find_first();
    if (row.lane == 0) p.scratch.first[index_t{chunk_head} * p.num_q_blocks + i] = first;
#pragma unroll 4
    for (int j = row.lane; j < row.blocks(); j += kWarp) {
      atomicAdd(counts + row.class_of(j, first), 1U);
    }
  }
  __syncthreads();
  std::uint32_t* const of_head = p.scratch.counts + index_t{chunk_head} * kRankClasses;
  for (int c = thread; c < kRankClasses; c += kThreads) {
    if (counts[c] != 0) atomicAdd(of_head + c, counts[c]);
  }
}

/// Sum of `own` over this thread and all above it.
__device__ std::uint32_t sum_from(std::uint32_t own) {
  __shared__ std::uint32_t of_warp[kCutWarps];
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
  std::uint32_t sum = own;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const std::uint32_t higher = __shfl_down_sync(kAllLanes, sum, distance);
    if (lane + distance < kWarp) sum += higher;
  }
  if (lane == 0) of_warp[thread / kWarp] = sum;
  __syncthreads();
  for (int warp = thread / kWarp + 1; warp < kCutWarps; ++warp) sum += of_warp[warp];
  return sum;
}

__global__ void __launch_bounds__(kCutThreads) find_cuts(const __grid_constant__ HeadParams p) {
  __shared__ std::uint32_t from[kRankClasses + 1];
  const auto chunk_head = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const uint4 own =
      reinterpret_cast<const uint4*>(p.scratch.counts + index_t{chunk_head} * kRankClasses)[thread];
  static_assert(kThreadClasses == 4);
  std::uint32_t* const sums = from + kThreadClasses * thread;
  sums[0] = sum_from(own.x + own.y + own.z + own.w);
  sums[1] = sums[0] - own.x;
  sums[2] = sums[1] - own.y;
  sums[3] = sums[2] - own.z;
  if (thread == 0) from[kRankClasses] = 0;
  __syncthreads();
  if (thread != 0) return;
  float budget[kMaxLevels];
  const int head = chunk_head % p.heads_q;
#pragma unroll
  for (int l = 0; l < kMaxLevels; ++l) {
    budget[l] = p.head_budgets == nullptr ? p.budget[l] : p.head_budgets[head * kMaxLevels + l];
  }
  p.scratch.cuts[chunk_head] = semantics::head_cuts({from}, budget, p.rule);
}

__global__ void __launch_bounds__(kThreads) assign_pairs(const __grid_constant__ HeadParams p) {
  const int ctas = (p.num_q_blocks + kWarps - 1) / kWarps;
  const int chunk_head = static_cast<int>(blockIdx.x) / ctas;
  const int i =
      static_cast<int>(blockIdx.x) % ctas * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  if (i >= p.num_q_blocks) return;
  const PairRow row(p, chunk_head, i);
  const HeadCuts cuts = p.scratch.cuts[chunk_head];
  const int first = p.scratch.first[index_t{chunk_head} * p.num_q_blocks + i];
  const std::uint8_t* const caps =
      p.caps == nullptr ? nullptr : p.caps + row.kv_head * p.num_kv_blocks;
  LevelCode* const codes = p.levels.row(row.batch, row.head, i);
#pragma unroll 4
  for (int j = row.lane; j < row.blocks(); j += kWarp) {
    int code = semantics::code_of_pair(cuts, row.class_of(j, first),
                                       semantics::pair_fraction(i, j, p.num_kv_blocks));
    if (caps != nullptr) code = semantics::capped_level(code, caps[j]);
    codes[j] = static_cast<LevelCode>(code);
  }
  for (int j = row.blocks() + row.lane; j < p.num_kv_blocks; j += kWarp) codes[j] = kSkip;
}

// ---- launch ------------------------------------------------------------------------------------

HeadParams make_params(const StageContext& context, const core::LevelsParams& params) {
  const core::Geometry& g = context.geometry;
  core::Ledger scratch(context.scratch);
  HeadParams p{};
  p.importance = params.importance;
  p.weights = params.weights;
  p.caps = params.caps;
  p.kv_lengths = params.inputs.kv_lengths;
  p.levels = params.levels;
  p.scratch = carve(scratch, g);
  p.forced = g.forced;
  for (std::size_t l = 0; l < kMaxLevels; ++l) p.budget[l] = g.config.budget[l];
  p.head_budgets = params.head_budgets;
  p.rule = core::head_rule(g.config);
  p.batch_begin = static_cast<int>(params.chunk.batch_begin);
  p.len_q = g.shape.len_q;
  p.len_kv = g.shape.len_kv;
  p.heads_q = static_cast<int>(g.shape.heads_q);
  p.heads_kv = static_cast<int>(g.shape.heads_kv);
  p.heads_per_kv = static_cast<int>(g.heads_per_kv());
  p.block_q = g.config.block_q;
  p.num_q_blocks = static_cast<int>(g.num_q_blocks);
  p.num_kv_blocks = static_cast<int>(g.num_kv_blocks);
  p.needs_first = g.config.min_full_blocks > 0;
  return p;
}

}  // namespace

void head_levels(const StageContext& context, const core::LevelsParams& params) {
  const HeadParams p = make_params(context, params);
  const cudaStream_t stream = stream_of(context.stream);
  const index_t heads = params.chunk.batches() * p.heads_q;
  const auto count_bytes = sizeof(std::uint32_t) * kRankClasses * static_cast<std::size_t>(heads);
  check_cuda(cudaMemsetAsync(p.scratch.counts, 0, count_bytes, stream), "cudaMemsetAsync");
  count_classes<<<grid_of(heads * semantics::ceil_div(p.num_q_blocks, kCtaRows)), kThreads, 0,
                  stream>>>(p);
  check_launch("count_classes");
  find_cuts<<<grid_of(heads), kCutThreads, 0, stream>>>(p);
  check_launch("find_cuts");
  assign_pairs<<<grid_of(heads * semantics::ceil_div(p.num_q_blocks, kWarps)), kThreads, 0,
                 stream>>>(p);
  check_launch("assign_pairs");
}

std::size_t head_levels_scratch(const core::Geometry& geometry) {
  core::Ledger ledger(nullptr);
  carve(ledger, geometry);
  return ledger.bytes();
}

}  // namespace psa::cuda
