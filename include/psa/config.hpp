// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "psa/types.hpp"

namespace psa {

/// Finest to coarsest pyramid level; level l pools 2^(l-1) tokens: 1, 2, 4, 8, 16.
inline constexpr int kMaxLevels = 5;

/// Order of the tokens before they are cut into blocks (docs/semantics.md S-19, S-20).
enum class Reorder : std::int32_t {
  kNone = 0,
  kGilbert = 1,  ///< generalised Hilbert curve through the video grid
  kTile3d = 2,   ///< boxes of `tile` tokens
  kKMeans = 3,   ///< q and k/v each sorted by content cluster, per head
  kHybrid = 4,   ///< q along the Gilbert curve, k/v by content cluster
};

/// How the importance of a KV block for a query block is estimated (S-9 to S-12).
enum class Importance : std::int32_t {
  kSampledMax = 0,    ///< peak ratio over sampled tokens (the paper, generation)
  kSampledMass = 1,   ///< soft-max mass of the same samples
  kAntidiagonal = 2,  ///< soft-max mass of antidiagonal sums (the paper, understanding)
  kPooledLse = 3,     ///< soft-max mass estimated from means of sub-blocks
  kUserScores = 4,    ///< given by the caller
};

enum class LevelRule : std::int32_t {
  /// `budget[l-1]` = share of the blocks that is read at level <= l, of all that the call sees: in
  /// causal calls as equal counts for all query blocks, early ones being read whole (S-14)
  kQuota = 0,
  kThreshold = 1,  ///< `budget[l-1]` = share of the importance that is read at level <= l (S-15)
};

/// What a budget is a share of, and where it is spent (S-28).
enum class BudgetScope : std::int32_t {
  kRow = 0,   ///< every query block spends it on its own best blocks (S-14)
  kHead = 1,  ///< all query blocks of a head share it: the best pairs of the head get it
};

/// What a block that the rule leaves unselected contributes (S-17, S-23, S-25).
enum class Rest : std::int32_t {
  kSkip = 0,    ///< nothing (the paper)
  kMean = 1,    ///< one key/value, the mean of the block, with bias ln(tokens in the block)
  kLinear = 2,  ///< the mean, with the next order of the soft-max around it
};

/// Whether unselected blocks are read as their mean.
[[nodiscard]] constexpr bool reads_means(Rest rest) { return rest != Rest::kSkip; }

enum class Compat : std::int32_t {
  kNone = 0,
  kOfficial = 1,  ///< results of the published code where they are well defined (S-22)
};

/// Everything that decides what is computed. Defaults: a density of about .15 in the caller's token
/// order; the presets of video models also reorder along the grid, which must then be known.
struct Config {
  std::int32_t block_q = 128;   ///< query rows that share one row of the level map: 16, 32, 64, 128
  std::int32_t block_kv = 128;  ///< KV tokens in one column of the level map: 16, 32, 64, 128

  LevelRule rule = LevelRule::kQuota;
  std::int32_t num_levels = 4;  ///< 1..5, entries of `budget` in use; 2^(num_levels-1) <= block_kv
  /// Cumulative shares for levels 1..num_levels: each in [0, 1], non-decreasing.
  std::array<float, kMaxLevels> budget{0.0825F, 0.1275F, 0.1875F, 0.4275F, 0.4275F};
  /// [Hq] or empty: a density for each query head, spent over num_levels levels as with_density()
  /// does, in place of `budget` (S-24). Each as with_density() allows; heads of a KV head have
  /// equal ones with share_group_map. Needs rule = kQuota, compat = kNone, budget[0] < 1.
  std::vector<float> head_density{};
  /// kHead needs rule = kQuota, causal = false, compat = kNone, min_full_blocks <= 1.
  BudgetScope budget_scope = BudgetScope::kRow;
  Rest rest = Rest::kMean;
  /// Block means whose importance is below rest_cutoff / block_kv of the least with a level are not
  /// read, and by quota level 1 gets what they would have cost (S-26). 0..block_kv; 0: all means
  /// are read.
  float rest_cutoff = 0.0F;
  std::int32_t min_full_blocks = 1;  ///< at least this many blocks of a row at level 1; >= 0

  Importance importance = Importance::kPooledLse;
  std::int32_t samples_q = 0;   ///< sampled estimators: tokens per query block; 0 = block_q / 4
  std::int32_t samples_kv = 0;  ///< sampled estimators: tokens per KV block; 0 = block_kv / 4
  std::int32_t antidiagonal_stride = 8;  ///< tokens per antidiagonal group: 4, 8 or 16
  std::int32_t pooled_tokens = 16;       ///< pooled_lse: tokens per sub-block: 8 or 16
  std::uint64_t seed = 0;                ///< of samples and k-means; same seed, same level map
  /// Importance counts times how far the values of a block lie from those that a row sees on
  /// average (S-27). Needs compat = kNone.
  bool weigh_values = false;

  /// min_cosine[l-2] for levels 2..5: a block is pooled at level l only if its keys are this
  /// similar (S-16). Each in [-1, 1]. Not set: no cap.
  std::optional<std::array<float, kMaxLevels - 1>> similarity_cap{};

  bool text_keys_full = true;     ///< KV blocks with text tokens are read at level 1
  bool text_queries_full = true;  ///< query blocks with text tokens read everything at level 1
  std::int32_t sink_blocks = 0;   ///< the first KV blocks are read at level 1; >= 0
  bool share_group_map = false;   ///< one level map for all query heads of a KV head (S-13)

  Reorder reorder = Reorder::kNone;
  std::array<std::int32_t, 3> tile{2, 8, 8};  ///< kTile3d: frames, height, width; each >= 1
  std::int32_t clusters_q = 128;              ///< k-means clusters of the queries; 1..4096
  std::int32_t clusters_kv = 256;             ///< k-means clusters of the keys; 1..4096
  std::int32_t kmeans_iterations = 4;         ///< 1..100

  bool causal = false;         ///< query i sees keys up to i + (len_kv - len_q) (S-8)
  float softmax_scale = 0.0F;  ///< 0 means 1/sqrt(head_dim); else finite and > 0
  Compat compat = Compat::kNone;

  friend bool operator==(const Config&, const Config&) = default;
};

}  // namespace psa
