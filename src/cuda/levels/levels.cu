// SPDX-License-Identifier: Apache-2.0

// Levels stage: from the importance of a row's blocks to their levels (S-13 to S-18).
//
//   in   importance of a chunk (null: all equal), weights [B, Hkv, Nk] and caps [B, Hkv, Nk] (null:
//        none), key lengths
//   out  levels     [B, Hq, Nq, Nk], the rows of the chunk; hidden blocks become 0
//
// The rank of a block is a pair (bits, KV block): fewer bits rank earlier, equal bits by rising
// block (S-13). The budgets are cuts of that order: level l reads the blocks up to and including
// the first one with which the row holds the target of l (S-14, S-15, S-18). Nothing is sorted:
//
//   load        bits of every visible block to shared memory; their range     1 pass
//   count_bins  histogram of the whole range, for all cuts                    1 pass
//   find_cut    per cut: a bin of it, then histograms of smaller ranges       1 pass, seldom 2
//   cut_off     with rest_cutoff: a cut more, its last block, and a count     3 passes (S-26)
//   assign      code of every block: the finest level whose cut covers it     1 pass
//
// row_search.cuh says how a cut is found. Every decision is a function of semantics::, so that the
// map is bit-equal to the reference's for the same importance.
//
// A CTA works on one query block of several heads, which share what does not depend on importance:
// which blocks are forced is found once, together. Then each warp works on a row, and none waits
// for another. On rows of more than 4096 blocks 8 warps work together; rows that are too long for
// shared memory compute the bits again in every pass.
//
// Budgets that the rows of a head share are the work of head_levels.cu.
//
// Cost: one read of the importance (two under the threshold rule) and one byte written per block;
// bound by instructions, by quota 3,400 of a warp for a row of 591 blocks. On an H100 7,092 such
// rows take 43 us by quota and 70 us by threshold, 14,184 rows of 1,182 blocks 123 and 234 us;
// importance that is all but equal, or mostly 0, takes a third longer, and so does rest_cutoff.

#include "core/backend.hpp"
#include "cuda/device/kv_rows.cuh"
#include "cuda/grid.hpp"
#include "cuda/launch.cuh"
#include "cuda/levels/row_search.cuh"
#include "cuda/stages.hpp"
#include "semantics/levels.hpp"

namespace psa::cuda {
namespace {

using semantics::Range;

/// How the threads of a CTA are spread over rows.
template <int kRowWarps, int kCtaRows, bool kCaches>
struct CtaShape {
  static constexpr int kWarps = kRowWarps;      // of a row
  static constexpr int kRows = kCtaRows;        // one if they have several warps
  static constexpr bool kCachesBits = kCaches;  // in shared memory
  static constexpr int kThreads = kRows * kWarps * kWarp;
};
using ShortRows = CtaShape<1, 4, true>;
using MiddleRows = CtaShape<1, 2, true>;  // four at a time: 300 instead of 222 us at 6000 x 3000
using LongRow = CtaShape<8, 1, true>;
using EndlessRow = CtaShape<8, 1, false>;
constexpr int kMaxShortRow = 1536;  // blocks
constexpr int kMaxMiddleRow = 4096;
/// What every device from sm_80 on can give a CTA.
constexpr std::size_t kMaxSharedBytes = std::size_t{96} * 1024;

constexpr std::uint32_t kForcedBits = 0;         // before all others
constexpr std::uint32_t kFirstUnforcedBits = 1;  // no block has as few: +inf has 0x007FFFFF
constexpr std::uint32_t kNoPosition = 0xFFFFFFFFU;

struct RowParams {
  const float* importance;         // [batch elements, Hq, q_blocks, Nk] or null
  const float* weights;            // [B, Hkv, Nk] or null
  const std::uint8_t* caps;        // [B, Hkv, Nk] or null
  const std::int32_t* kv_lengths;  // [B] or null
  LevelMapView levels;
  semantics::ForcedRule forced;
  float budget[kMaxLevels];
  const float* head_budgets;  // [Hq, kMaxLevels] or null: all heads have `budget`
  int batch_begin, batches;   // of the chunk
  index_t len_q, len_kv;
  int heads_q, heads_kv, heads_per_kv;
  int q_block_begin, q_blocks;  // of the chunk
  int block_q, block_kv, num_kv_blocks;
  int num_levels, min_full_blocks;
  bool causal;
  LevelCode rest;
  float rest_cutoff;  // 0 without means
};

/// S-14, S-15, S-18. `quota`: equal_count of the level; `share`: of the level, in the budget of the
/// row; `all`: the visible blocks of the row; `forced`: those that are forced.
template <LevelRule kRule>
__device__ CutTarget<kRule> target_of(const RowParams& p, bool is_finest, index_t quota,
                                      float share, BlockSums all, BlockSums forced) {
  index_t cut = semantics::quota_cut(all.count, quota);
  if (is_finest) cut = semantics::full_cut(cut, forced.count, p.min_full_blocks, all.count);
  return {static_cast<std::uint32_t>(cut), share, all.mass};
}

/// The importance that has these bits, which are not forced, if it is positive, else 0.
__device__ float positive_importance(std::uint32_t bits) {
  constexpr std::uint32_t kSign = 0x80000000U;
  return (bits & kSign) != 0 ? 0.0F : __uint_as_float(~bits & ~kSign);
}

/// What the rows of a query block have in common.
struct RowShape {
  const RowParams& p;
  Range queries;
  index_t kv_length;
  int visible;  // blocks that are not hidden: the first ones

  [[nodiscard]] __device__ semantics::CandidateSpan candidates() const {
    return semantics::candidate_span(p.causal, p.block_q, p.block_kv, p.len_q, kv_length);
  }

  [[nodiscard]] __device__ bool is_forced(int j) const {
    const Range keys = semantics::block_range(j, p.block_kv, kv_length);
    const auto visibility =
        semantics::block_visibility(p.causal, queries, keys, p.len_q, kv_length);
    return semantics::is_forced(p.forced, queries, keys, j, visibility);
  }
};

/// Range of the bits of the blocks that are not forced.
struct BitRange {
  std::uint32_t low;
  std::uint32_t high;
  bool has_forced;
};

/// One row of the level map.
template <LevelRule kRule, bool kHeadBudgets, typename Cta>
struct Row {
  static constexpr bool kCachesBits = Cta::kCachesBits;

  const RowParams& p;
  const RowShape& shape;
  RowThreads<Cta::kWarps> threads;
  const float* importance;   // [Nk] or null
  const float* weights;      // [Nk] or null
  const std::uint8_t* caps;  // [Nk] or null
  LevelCode* codes;          // [Nk]
  int head;                  // unused without kHeadBudgets
  // Shared memory.
  const std::uint32_t* forced;  // a bit per block, if they are cached
  Bins<kRule> whole;            // of all blocks that are not forced
  Bins<kRule> part;             // of a part of the row
  std::uint64_t* cuts;          // [kMaxLevels]: rank of the last block of each level
  std::uint32_t* cached_bits;   // [Nk]
  float largest;                // importance if positive, else 0

  /// As it is ranked.
  [[nodiscard]] __device__ float importance_of(int j) const {
    if (importance == nullptr) return 0.0F;
    const float own = __ldg(importance + j);
    return semantics::weighed_importance(own, weights == nullptr ? 1.0F : __ldg(weights + j));
  }

  /// Bits of the importance that is not weighed, of a block that is not forced and has the rank
  /// `bits`.
  [[nodiscard]] __device__ std::uint32_t own_bits(int j, std::uint32_t bits) const {
    const bool is_weighed = importance != nullptr && weights != nullptr;
    return is_weighed ? bits_of_importance(__ldg(importance + j)) : bits;
  }

  /// S-24.
  [[nodiscard]] __device__ float share_of(int level) const {
    if constexpr (kHeadBudgets) {
      return __ldg(p.head_budgets + index_t{head} * kMaxLevels + level - 1);
    }
    return p.budget[level - 1];
  }

  [[nodiscard]] __device__ std::uint32_t compute_bits(int j) const {
    const std::uint32_t bits = bits_of_importance(importance_of(j));
    bool is_forced = false;
    if constexpr (kCachesBits) {
      is_forced = (forced[j / kWarp] >> threads.lane & 1U) != 0;
    } else {
      is_forced = shape.is_forced(j);
    }
    return is_forced ? kForcedBits : bits;
  }

  /// A thread only asks for blocks that it loaded itself.
  [[nodiscard]] __device__ std::uint32_t bits_of(int j) const {
    if constexpr (kCachesBits) return cached_bits[j];
    return compute_bits(j);
  }

  __device__ BitRange load() {
    float most = 0.0F;
    std::uint32_t fewest = kNoPosition;  // of all blocks
    std::uint32_t least_inverted = 0;    // of those that are not forced
    std::uint32_t high = kFirstUnforcedBits;
#pragma unroll 4
    for (int j = threads.thread; j < shape.visible; j += threads.kCount) {
      const std::uint32_t bits = compute_bits(j);
      if constexpr (kCachesBits) cached_bits[j] = bits;
      if constexpr (kRule == LevelRule::kThreshold) most = fmaxf(most, importance_of(j));
      fewest = min(fewest, bits);
      if (bits != kForcedBits) least_inverted = max(least_inverted, ~bits);
      high = max(high, bits);
    }
    if constexpr (kRule == LevelRule::kThreshold) {
      // Floats that are not negative have the order of their bits.
      largest = __uint_as_float(threads.maximum(__float_as_uint(most)));
    }
    high = threads.maximum(high);
    return {min(~threads.maximum(least_inverted), high), high,
            threads.maximum(fewest == kForcedBits ? 1 : 0) != 0};
  }

  /// S-15.
  [[nodiscard]] __device__ std::uint32_t mass_of(float raw) const {
    return static_cast<std::uint32_t>(
        semantics::threshold_mass(semantics::ranked_importance(raw), largest));
  }

  /// Fills the bins with the blocks whose position lies in the bracket. In most brackets few lanes
  /// find a block at a time, and a mass takes many instructions: a lane holds the block that it
  /// found last, so that most masses are computed by all lanes at once.
  template <typename PositionOf>
  __device__ void count(const Bins<kRule>& bins, const Bracket& bracket,
                        const PositionOf& position_of) const {
    constexpr bool kByQuota = kRule == LevelRule::kQuota;
    threads.synchronize();  // the last histogram was read
    bins.clear(threads.thread, threads.kCount);
    threads.synchronize();
    const int shift = bracket.bin_shift(bins.kBits);
    const std::uint32_t span = bracket.high - bracket.low;
    bool is_holding = false;
    std::uint32_t held_bin = 0;
    float held_importance = 0.0F;
    // 1 makes the threshold rule a third slower (95 instead of 70 us on 7,092 rows of 591, H100).
    constexpr int kUnroll = kByQuota ? 4 : 2;
#pragma unroll kUnroll
    for (int j = threads.thread; j < shape.visible; j += threads.kCount) {
      const std::uint32_t offset = position_of(j) - bracket.low;
      if (offset > span) continue;
      if constexpr (kByQuota) {
        bins.add(offset >> shift, 0);
      } else {
        if (is_holding) bins.add(held_bin, mass_of(held_importance));
        is_holding = true;
        held_bin = offset >> shift;
        held_importance = importance_of(j);
      }
    }
    if (is_holding) bins.add(held_bin, mass_of(held_importance));
    threads.synchronize();
  }

  template <typename PositionOf>
  __device__ Bracket search(Bracket bracket, const CutTarget<kRule>& target,
                            const PositionOf& position_of) const {
    while (!bracket.is_narrow()) {
      count(part, bracket, position_of);
      bracket = narrow(part, bracket, target, threads.lane);
    }
    return bracket;
  }

  /// Rank of the last block of a cut. `range`: the bracket of `whole`.
  __device__ std::uint64_t find_cut(const Bracket& range, const CutTarget<kRule>& target) const {
    if (target.is_reached(range.before)) return rank_of(kForcedBits, kNoPosition);
    const Bracket found = search(narrow(whole, range, target, threads.lane), target,
                                 [this](int j) { return bits_of(j); });
    if (found.blocks == 1) return rank_of(found.high, kNoPosition);
    const Bracket numbers{0, static_cast<std::uint32_t>(shape.visible - 1), found.before,
                          found.blocks};
    const Bracket tied = search(numbers, target, [this, &found](int j) {
      return bits_of(j) == found.low ? static_cast<std::uint32_t>(j) : kNoPosition;
    });
    return rank_of(found.low, tied.high);
  }

  /// `last_mean`: own_bits of the last block mean that is read.
  __device__ void assign(std::uint32_t last_mean) const {
    std::uint64_t last[kMaxLevels];  // in registers
#pragma unroll
    for (int l = 0; l < kMaxLevels; ++l) last[l] = cuts[l];
#pragma unroll 4
    for (int j = threads.thread; j < shape.visible; j += threads.kCount) {
      const std::uint32_t bits = bits_of(j);
      const std::uint64_t rank = rank_of(bits, static_cast<std::uint32_t>(j));
      const bool is_read = last_mean == kNoPosition || own_bits(j, bits) <= last_mean;
      int code = is_read ? p.rest : kSkip;
#pragma unroll
      for (int level = kMaxLevels; level >= semantics::kFinestLevel; --level) {
        if (rank <= last[level - 1]) code = level;
      }
      if (caps != nullptr) code = semantics::capped_level(code, caps[j]);
      codes[j] = static_cast<LevelCode>(code);
    }
    for (int j = shape.visible + threads.thread; j < p.num_kv_blocks; j += threads.kCount) {
      codes[j] = kSkip;
    }
  }

  /// S-14. Lane l has the equal_count of level l + 1, to save registers; 0 under the threshold
  /// rule.
  [[nodiscard]] __device__ int quota_of_lane() const {
    if constexpr (kRule == LevelRule::kThreshold) return 0;
    const float share = share_of(min(threads.lane + 1, kMaxLevels));
    return static_cast<int>(
        semantics::equal_count(shape.candidates(), shape.queries.begin / p.block_q, share));
  }

  /// S-26.
  struct Cutoff {
    std::uint32_t last_mean = kNoPosition;  // own_bits of the last block mean that is read
    index_t freed = 0;                      // blocks that level 1 gets for the others
  };

  /// `last`: what the blocks with a level hold.
  [[nodiscard]] __device__ Cutoff cut_off(const Bracket& range, const CutTarget<kRule>& last,
                                          BlockSums all) const {
    const std::uint64_t cut = find_cut(range, last);
    const auto is_cut = [cut](int j, std::uint32_t bits) {
      return rank_of(bits, static_cast<std::uint32_t>(j)) <= cut;
    };
    // Of the blocks that are not forced: the least importance in the cut, the largest of all.
    std::uint32_t least_bits = kForcedBits;
    std::uint32_t inverted_largest = 0;
    for (int j = threads.thread; j < shape.visible; j += threads.kCount) {
      const std::uint32_t bits = bits_of(j);
      if (bits == kForcedBits) continue;
      const std::uint32_t own = own_bits(j, bits);
      inverted_largest = max(inverted_largest, ~own);
      if (is_cut(j, bits)) least_bits = max(least_bits, own);
    }
    least_bits = threads.maximum(least_bits);
    inverted_largest = threads.maximum(inverted_largest);
    const float importance =
        positive_importance(least_bits != kForcedBits ? least_bits : ~inverted_largest);
    const float least = semantics::least_of_means(importance, p.rest_cutoff, p.block_kv);
    Cutoff cutoff{bits_of_importance(least), 0};
    if constexpr (kRule == LevelRule::kQuota) {
      std::uint32_t kept = 0;
      for (int j = threads.thread; j < shape.visible; j += threads.kCount) {
        const std::uint32_t bits = bits_of(j);
        kept += is_cut(j, bits) || own_bits(j, bits) <= cutoff.last_mean ? 1 : 0;
      }
      cutoff.freed = semantics::freed_blocks(all.count, threads.sum(kept), last.count,
                                             shape.candidates(), share_of(p.num_levels), p.block_kv,
                                             shape.queries.begin / p.block_q);
    }
    return cutoff;
  }

  __device__ void run() {
    const auto by_bits = [this](int j) { return bits_of(j); };
    const BitRange bits = load();
    BlockSums forced_sums;
    if (bits.has_forced) {
      count(part, {kForcedBits, kForcedBits, {}, 0}, by_bits);
      forced_sums = total_of(part, threads.lane);
    }
    const Bracket range{bits.low, bits.high, forced_sums, 0};
    count(whole, range, by_bits);
    const BlockSums all = forced_sums + total_of(whole, threads.lane);

    const int quotas = quota_of_lane();
    const auto target = [&](int level, bool is_finest) {
      const int quota = __shfl_sync(kAllLanes, quotas, level - 1);
      return target_of<kRule>(p, is_finest, quota, share_of(level), all, forced_sums);
    };
    Cutoff cutoff;
    if (p.rest_cutoff > 0.0F) {
      // Cuts do not fall from level to level, but for what level 1 must have.
      cutoff = cut_off(range, target(p.num_levels, true), all);
    }
    // A level that is not in use has the cut of the forced blocks, which level 1 takes from it.
#pragma unroll 1
    for (int level = semantics::kFinestLevel; level <= kMaxLevels; ++level) {
      std::uint64_t cut = rank_of(kForcedBits, kNoPosition);
      if (level <= p.num_levels) {
        CutTarget<kRule> own = target(level, level == semantics::kFinestLevel);
        own.count = min(all.count, own.count + static_cast<std::uint32_t>(cutoff.freed));
        cut = find_cut(range, own);
      }
      if (threads.thread == 0) cuts[level - 1] = cut;
    }
    threads.synchronize();
    assign(cutoff.last_mean);
  }
};

// ---- kernel ------------------------------------------------------------------------------------

/// CTAs per SM that the registers must suffice for: as many as no variant has to spill for.
template <LevelRule kRule, bool kHeadBudgets, typename Cta>
constexpr int min_ctas() {
  constexpr bool kIsLean = kRule == LevelRule::kQuota && !kHeadBudgets;
  const int resident_warps = !Cta::kCachesBits ? 16 : kIsLean ? 36 : 28;
  return resident_warps * kWarp / Cta::kThreads;
}

/// Shared memory of a CTA in words: the forced bits; then for each row its two histograms, its
/// cuts, a word per warp and the bits of its blocks.
template <LevelRule kRule, typename Cta>
struct SharedWords {
  static constexpr int kCutWords = 2 * kMaxLevels;
  int forced, row;

  __host__ __device__ explicit constexpr SharedWords(int num_kv_blocks)
      : forced(Cta::kCachesBits ? round_up((num_kv_blocks + kWarp - 1) / kWarp) : 0),
        row(2 * Bins<kRule>::kWords +
            round_up(kCutWords + Cta::kWarps + (Cta::kCachesBits ? num_kv_blocks : 0))) {}

  [[nodiscard]] constexpr std::size_t bytes() const {
    return sizeof(std::uint32_t) *
           (static_cast<std::size_t>(forced) +
            static_cast<std::size_t>(Cta::kRows) * static_cast<std::size_t>(row));
  }

 private:
  /// Bins are read 16 bytes at a time.
  static __host__ __device__ constexpr int round_up(int words) { return (words + 3) / 4 * 4; }
};

static_assert(SharedWords<LevelRule::kThreshold, ShortRows>(kMaxShortRow).bytes() <=
              kMaxSharedBytes);
static_assert(SharedWords<LevelRule::kThreshold, MiddleRows>(kMaxMiddleRow).bytes() <=
              kMaxSharedBytes);

/// CTAs that work on a query block of the heads of a batch element.
template <typename Cta>
__host__ __device__ constexpr int head_groups_of(int heads_q) {
  return (heads_q + Cta::kRows - 1) / Cta::kRows;
}

template <LevelRule kRule, bool kHeadBudgets, typename Cta>
__global__ void __launch_bounds__(Cta::kThreads, min_ctas<kRule, kHeadBudgets, Cta>())
    assign_rows(const __grid_constant__ RowParams p) {
  extern __shared__ uint4 shared[];
  const SharedWords<kRule, Cta> words(p.num_kv_blocks);
  auto* const forced = reinterpret_cast<std::uint32_t*>(shared);
  constexpr int kRowThreads = RowThreads<Cta::kWarps>::kCount;
  const int cta_thread = static_cast<int>(threadIdx.x);
  const int lane = cta_thread % kWarp;

  const auto cta = static_cast<int>(blockIdx.x);
  const int row_of_head = cta % p.q_blocks;
  const int head_groups = head_groups_of<Cta>(p.heads_q);
  const int head_group = cta / p.q_blocks % head_groups;
  const int element = cta / p.q_blocks / head_groups;  // of the chunk
  const index_t batch = p.batch_begin + element;
  const int q_block = p.q_block_begin + row_of_head;
  const Range queries = semantics::block_range(q_block, p.block_q, p.len_q);
  const index_t kv_length = key_length(p.kv_lengths, batch, p.len_kv);
  const RowShape shape{p, queries, kv_length,
                       static_cast<int>(semantics::visible_blocks(p.causal, queries, p.block_kv,
                                                                  p.len_q, kv_length))};
  if constexpr (Cta::kCachesBits) {
    for (int j = cta_thread; j - lane < shape.visible; j += Cta::kThreads) {
      const unsigned word = __ballot_sync(kAllLanes, j < shape.visible && shape.is_forced(j));
      if (lane == 0) forced[j / kWarp] = word;
    }
    __syncthreads();
  }

  const int local = cta_thread / kRowThreads;  // row of the CTA
  const int head = head_group * Cta::kRows + local;
  if (head >= p.heads_q) return;  // a whole warp, which nobody waits for any more
  const index_t row = (index_t{element} * p.heads_q + head) * p.q_blocks + row_of_head;
  const index_t kv_head = batch * p.heads_kv + head / p.heads_per_kv;
  std::uint32_t* const bins = forced + words.forced + local * words.row;
  std::uint32_t* const cuts = bins + 2 * Bins<kRule>::kWords;
  std::uint32_t* const exchange = cuts + words.kCutWords;
  Row<kRule, kHeadBudgets, Cta>{
      .p = p,
      .shape = shape,
      .threads = {cta_thread % kRowThreads, lane, exchange},
      .importance = p.importance == nullptr ? nullptr : p.importance + row * p.num_kv_blocks,
      .weights = p.weights == nullptr ? nullptr : p.weights + kv_head * p.num_kv_blocks,
      .caps = p.caps == nullptr ? nullptr : p.caps + kv_head * p.num_kv_blocks,
      .codes = p.levels.row(batch, head, q_block),
      .head = head,
      .forced = forced,
      .whole = {bins},
      .part = {bins + Bins<kRule>::kWords},
      .cuts = reinterpret_cast<std::uint64_t*>(cuts),
      .cached_bits = exchange + Cta::kWarps,
      .largest = 0.0F}
      .run();
}

// ---- launch ------------------------------------------------------------------------------------

RowParams make_params(const StageContext& context, const core::LevelsParams& params) {
  const core::Geometry& g = context.geometry;
  RowParams p{};
  p.importance = params.importance;
  p.weights = params.weights;
  p.caps = params.caps;
  p.kv_lengths = params.inputs.kv_lengths;
  p.levels = params.levels;
  p.forced = g.forced;
  for (std::size_t l = 0; l < kMaxLevels; ++l) p.budget[l] = g.config.budget[l];
  p.head_budgets = params.head_budgets;
  p.batch_begin = static_cast<int>(params.chunk.batch_begin);
  p.batches = static_cast<int>(params.chunk.batches());
  p.len_q = g.shape.len_q;
  p.len_kv = g.shape.len_kv;
  p.heads_q = static_cast<int>(g.shape.heads_q);
  p.heads_kv = static_cast<int>(g.shape.heads_kv);
  p.heads_per_kv = static_cast<int>(g.heads_per_kv());
  p.q_block_begin = static_cast<int>(params.chunk.q_block_begin);
  p.q_blocks = static_cast<int>(params.chunk.q_blocks());
  p.block_q = g.config.block_q;
  p.block_kv = g.config.block_kv;
  p.num_kv_blocks = static_cast<int>(g.num_kv_blocks);
  p.num_levels = g.config.num_levels;
  p.min_full_blocks = g.config.min_full_blocks;
  p.causal = g.config.causal;
  const bool has_means = reads_means(g.config.rest);
  p.rest = has_means ? kBlockMean : kSkip;
  p.rest_cutoff = has_means ? g.config.rest_cutoff : 0.0F;
  return p;
}

template <LevelRule kRule, bool kHeadBudgets, typename Cta>
void launch(const StageContext& context, const RowParams& p) {
  const std::size_t bytes = SharedWords<kRule, Cta>(p.num_kv_blocks).bytes();
  const index_t head_groups = index_t{p.batches} * head_groups_of<Cta>(p.heads_q);
  const auto kernel = assign_rows<kRule, kHeadBudgets, Cta>;
  allow_shared_memory(kernel, bytes);
  kernel<<<grid_of(head_groups * p.q_blocks), Cta::kThreads, bytes, stream_of(context.stream)>>>(p);
  check_launch("assign_rows");
}

template <LevelRule kRule, bool kHeadBudgets>
void launch_rule(const StageContext& context, const RowParams& p) {
  if (p.num_kv_blocks <= kMaxShortRow) {
    launch<kRule, kHeadBudgets, ShortRows>(context, p);
  } else if (p.num_kv_blocks <= kMaxMiddleRow) {
    launch<kRule, kHeadBudgets, MiddleRows>(context, p);
  } else if (SharedWords<kRule, LongRow>(p.num_kv_blocks).bytes() <= kMaxSharedBytes) {
    launch<kRule, kHeadBudgets, LongRow>(context, p);
  } else {
    launch<kRule, kHeadBudgets, EndlessRow>(context, p);
  }
}

}  // namespace

void levels(const StageContext& context, const core::LevelsParams& params) {
  if (core::shares_budget(context.geometry.config)) return head_levels(context, params);
  const RowParams p = make_params(context, params);
  if (context.geometry.config.rule == LevelRule::kThreshold) {
    launch_rule<LevelRule::kThreshold, false>(context, p);
  } else if (p.head_budgets == nullptr) {
    launch_rule<LevelRule::kQuota, false>(context, p);
  } else {
    launch_rule<LevelRule::kQuota, true>(context, p);
  }
}

std::size_t levels_scratch(const core::Geometry& geometry) {
  return core::shares_budget(geometry.config) ? head_levels_scratch(geometry) : 0;
}

}  // namespace psa::cuda
