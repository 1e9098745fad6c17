// SPDX-License-Identifier: Apache-2.0
#pragma once

// Search for the cuts of a ranking (S-13 to S-15) by the threads of one row, without a sort.
//
// A search is over positions: 32-bit numbers of blocks, of which fewer rank earlier. A histogram of
// equal bins over a bracket of positions says in which bin the target is reached; that bin is the
// next bracket, until one block is left in it or all its blocks have one position. All sums are
// integers, so their order does not matter.

#include <cstdint>

#include "psa/config.hpp"
#include "semantics/levels.hpp"

namespace psa::cuda {

inline constexpr unsigned kAllLanes = 0xFFFFFFFFU;
inline constexpr int kWarp = 32;

/// The order of semantics::ranks_before among blocks that are not forced, ties apart.
__device__ inline std::uint32_t bits_of_importance(float importance) {
  constexpr std::uint32_t kSign = 0x80000000U;
  const float ranked = semantics::ranked_importance(importance) + 0.0F;  // -0 becomes 0
  const std::uint32_t bits = __float_as_uint(ranked);
  return (bits & kSign) != 0 ? bits : ~(bits | kSign);
}

/// Comparable. The rank of a block, or of the last block of a cut.
__device__ inline std::uint64_t rank_of(std::uint32_t bits, std::uint32_t kv_block) {
  return std::uint64_t{bits} << 32 | kv_block;
}
inline constexpr std::uint64_t kNoRank = ~std::uint64_t{0};  ///< behind all blocks

/// A set of blocks in numbers. `mass` (S-15) stays 0 under the quota rule.
struct BlockSums {
  std::uint32_t count = 0;
  std::uint64_t mass = 0;

  friend __device__ BlockSums operator+(BlockSums a, BlockSums b) {
    return {a.count + b.count, a.mass + b.mass};
  }
  friend __device__ BlockSums operator-(BlockSums a, BlockSums b) {
    return {a.count - b.count, a.mass - b.mass};
  }
};

/// What the blocks up to a cut must hold.
template <LevelRule kRule>
struct CutTarget {
  std::uint32_t count;
  float share;  // of total_mass; unused under the quota rule
  std::uint64_t total_mass;

  [[nodiscard]] __device__ bool is_reached(BlockSums sums) const {
    if (sums.count < count) return false;
    return kRule == LevelRule::kQuota || semantics::threshold_reached(sums.mass, total_mass, share);
  }
};

/// Positions low..high. In a search, the blocks before `low` do not reach the target, those up to
/// `high` do.
struct Bracket {
  std::uint32_t low;
  std::uint32_t high;
  BlockSums before;      // of the blocks that rank before `low`
  std::uint32_t blocks;  // in the bracket

  [[nodiscard]] __device__ bool is_narrow() const { return blocks == 1 || low == high; }
  /// log2 of the positions per bin, with 2^bits bins.
  [[nodiscard]] __device__ int bin_shift(int bits) const {
    return max(0, 32 - __clz(static_cast<int>(high - low)) - bits);
  }
};

/// Histogram in shared memory, aligned to 16 bytes. Masses make its bins three times as large, and
/// an SM then holds more rows if there are half as many. A mass is a 64-bit sum in two words: in
/// shared memory an atomic addition of 64 bits is a loop, one of 32 bits an instruction.
template <LevelRule kRule>
struct Bins {
  static constexpr int kBits = kRule == LevelRule::kQuota ? 8 : 7;
  static constexpr int kBins = 1 << kBits;
  static constexpr int kBinsPerLane = kBins / kWarp;
  static constexpr int kWords = kRule == LevelRule::kQuota ? kBins : 3 * kBins;
  std::uint32_t* words;  // [kBins] each: counts, low words and high words of the masses

  __device__ void clear(int thread, int num_threads) const {
    auto* const fours = reinterpret_cast<uint4*>(words);
#pragma unroll
    for (int first = 0; first < kWords / 4; first += num_threads) {
      if (first + thread < kWords / 4) fours[first + thread] = uint4{0, 0, 0, 0};
    }
  }

  __device__ void add(std::uint32_t bin, std::uint32_t mass) const {
    atomicAdd(words + bin, 1U);
    if constexpr (kRule == LevelRule::kThreshold) {
      const std::uint32_t before = atomicAdd(words + kBins + bin, mass);
      if (before + mass < before) atomicAdd(words + 2 * kBins + bin, 1U);
    }
  }
  [[nodiscard]] __device__ BlockSums get(int bin) const {
    BlockSums sums{words[bin], 0};
    if constexpr (kRule == LevelRule::kThreshold) {
      sums.mass = words[kBins + bin] | std::uint64_t{words[2 * kBins + bin]} << 32;
    }
    return sums;
  }
  /// The sum of the kBinsPerLane bins of a lane.
  [[nodiscard]] __device__ BlockSums sum_of(int lane) const {
    BlockSums sums{static_cast<std::uint32_t>(sum_of_words(words, lane)), 0};
    if constexpr (kRule == LevelRule::kThreshold) {
      sums.mass = sum_of_words(words + kBins, lane) + (sum_of_words(words + 2 * kBins, lane) << 32);
    }
    return sums;
  }

 private:
  /// Read 16 bytes at a time: single words of all lanes would lie in four banks.
  [[nodiscard]] static __device__ std::uint64_t sum_of_words(const std::uint32_t* words, int lane) {
    const auto* const fours = reinterpret_cast<const uint4*>(words) + lane * (kBinsPerLane / 4);
    std::uint64_t sum = 0;
#pragma unroll
    for (int i = 0; i < kBinsPerLane / 4; ++i) {
      const uint4 four = fours[i];
      sum += std::uint64_t{four.x} + four.y + four.z + four.w;
    }
    return sum;
  }
};

template <LevelRule kRule>
__device__ BlockSums sums_of_lane(BlockSums sums, int lane) {
  sums.count = __shfl_sync(kAllLanes, sums.count, lane);
  if constexpr (kRule == LevelRule::kThreshold) sums.mass = __shfl_sync(kAllLanes, sums.mass, lane);
  return sums;
}

/// Sums over this and all lower lanes of each group of kLanes.
template <LevelRule kRule, int kLanes>
__device__ BlockSums scan_lanes(BlockSums sums, int lane) {
#pragma unroll
  for (int distance = 1; distance < kLanes; distance *= 2) {
    const BlockSums lower = sums_of_lane<kRule>(sums, lane - distance);
    if (lane % kLanes >= distance) sums = sums + lower;
  }
  return sums;
}

template <LevelRule kRule>
__device__ BlockSums total_of(const Bins<kRule>& bins, int lane) {
  return sums_of_lane<kRule>(scan_lanes<kRule, kWarp>(bins.sum_of(lane), lane), kWarp - 1);
}

/// The bin of `bracket` in which the target is reached. Every warp of the row finds the same.
template <LevelRule kRule>
__device__ Bracket narrow(const Bins<kRule>& bins, const Bracket& bracket,
                          const CutTarget<kRule>& target, int lane) {
  const auto first_lane_with = [](bool is_reached) {
    return __ffs(static_cast<int>(__ballot_sync(kAllLanes, is_reached))) - 1;
  };
  constexpr int kGroup = Bins<kRule>::kBinsPerLane;
  // The bins of each lane together, then one by one those of the lane that reaches the target.
  const BlockSums group = bins.sum_of(lane);
  const BlockSums up_to_group = bracket.before + scan_lanes<kRule, kWarp>(group, lane);
  const int owner = first_lane_with(target.is_reached(up_to_group));
  const BlockSums one = bins.get(owner * kGroup + lane % kGroup);
  const BlockSums up_to_one =
      sums_of_lane<kRule>(up_to_group - group, owner) + scan_lanes<kRule, kGroup>(one, lane);
  const int bin = first_lane_with(target.is_reached(up_to_one));

  const int shift = bracket.bin_shift(Bins<kRule>::kBits);
  const auto passed = static_cast<std::uint32_t>(owner * kGroup + bin);
  const std::uint32_t low = bracket.low + (passed << shift);
  return {low, low + min(bracket.high - low, (1U << shift) - 1),
          sums_of_lane<kRule>(up_to_one - one, bin), __shfl_sync(kAllLanes, one.count, bin)};
}

/// The threads of one row: `kWarps` warps, alone in their CTA if more than one.
template <int kWarps>
struct RowThreads {
  static constexpr int kCount = kWarps * kWarp;
  int thread;  // 0..kCount - 1
  int lane;
  std::uint32_t* exchange;  // [kWarps] in shared memory

  __device__ void synchronize() const {
    if constexpr (kWarps == 1) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }
  [[nodiscard]] __device__ std::uint32_t sum(std::uint32_t x) const {
    x = __reduce_add_sync(kAllLanes, x);
    if constexpr (kWarps > 1) {
      if (lane == 0) exchange[thread / kWarp] = x;
      synchronize();
      x = __reduce_add_sync(kAllLanes, lane < kWarps ? exchange[lane] : 0U);
      synchronize();
    }
    return x;
  }
  [[nodiscard]] __device__ std::uint32_t maximum(std::uint32_t x) const {
    x = __reduce_max_sync(kAllLanes, x);
    if constexpr (kWarps > 1) {
      if (lane == 0) exchange[thread / kWarp] = x;
      synchronize();
      x = __reduce_max_sync(kAllLanes, exchange[lane % kWarps]);
      synchronize();
    }
    return x;
  }
};

}  // namespace psa::cuda
