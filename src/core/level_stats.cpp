// SPDX-License-Identifier: Apache-2.0
#include "core/level_stats.hpp"

#include <array>
#include <string>
#include <vector>

#include "core/geometry.hpp"
#include "psa/error.hpp"
#include "semantics/rest_probes.hpp"

namespace psa::core {
namespace {

using semantics::Range;

/// Columns and multiply-adds of one (query block, KV block) pair.
struct PairCost {
  double all_columns;       ///< rows x real tokens
  double computed_columns;  ///< rows x pooled rows
  double selection_macs;    ///< of the estimator, in units of head_dim
};

/// Whether maps of this plan may hold `code`.
bool is_known(const Config& config, LevelCode code) {
  return code <= config.num_levels || (reads_means(config.rest) && code == kBlockMean);
}

index_t pooled_count(const Geometry& g, index_t kv_block, LevelCode code, index_t kv_length) {
  const bool official = g.config.compat == Compat::kOfficial;
  const Range rows =
      official ? semantics::official_pooled_range(kv_block, g.config.block_kv, code, kv_length)
               : semantics::pooled_range(kv_block, g.config.block_kv, code, kv_length);
  return rows.size();
}

double estimator_macs(const Config& config, index_t rows, index_t tokens) {
  const auto groups = [](index_t count, index_t size) {
    return static_cast<double>(semantics::ceil_div(count, size));
  };
  switch (config.importance) {
    case Importance::kSampledMax:
    case Importance::kSampledMass:
      return static_cast<double>(config.samples_q) * static_cast<double>(config.samples_kv);
    case Importance::kAntidiagonal:
      return groups(rows, config.antidiagonal_stride) * groups(tokens, config.antidiagonal_stride) *
             static_cast<double>(config.antidiagonal_stride);
    case Importance::kPooledLse:
      return groups(rows, config.pooled_tokens) * groups(tokens, config.pooled_tokens);
    case Importance::kUserScores:
      return 0.0;
  }
  return 0.0;
}

/// A KV block as every query block and head of a batch element meets it.
struct KvBlock {
  Range keys;
  std::array<double, kNumLevelCodes> columns;  ///< pooled rows by level code
};

std::vector<KvBlock> kv_blocks(const Geometry& g, index_t kv_length) {
  std::vector<KvBlock> blocks;
  for (index_t j = 0; j < g.num_kv_blocks; ++j) {
    KvBlock block{semantics::block_range(j, g.config.block_kv, kv_length), {}};
    for (std::size_t code = 0; code < block.columns.size(); ++code) {
      if (!is_known(g.config, static_cast<LevelCode>(code))) continue;
      block.columns.at(code) =
          static_cast<double>(pooled_count(g, j, static_cast<LevelCode>(code), kv_length));
    }
    blocks.push_back(block);
  }
  return blocks;
}

/// Pairs of one query block; a map has hundreds of thousands, so what they share is kept.
class QueryBlock {
 public:
  QueryBlock(const Geometry& g, index_t q_block, index_t kv_length)
      : g_(g),
        kv_length_(kv_length),
        queries_(semantics::block_range(q_block, g.config.block_q, g.shape.len_q)),
        whole_block_macs_(selection_macs(g.config.block_kv)) {}

  [[nodiscard]] PairCost cost_of(const KvBlock& block, LevelCode code) const {
    const index_t tokens = block.keys.size();
    const auto visibility = semantics::block_visibility(g_.config.causal, queries_, block.keys,
                                                        g_.shape.len_q, kv_length_);
    if (visibility == semantics::Visibility::kHidden) return {0, 0, 0};
    const auto rows = static_cast<double>(queries_.size());
    return {rows * static_cast<double>(tokens), rows * block.columns[code],
            tokens == g_.config.block_kv ? whole_block_macs_ : selection_macs(tokens)};
  }

 private:
  [[nodiscard]] double selection_macs(index_t tokens) const {
    return is_dense(g_) ? 0.0 : estimator_macs(g_.config, queries_.size(), tokens);
  }

  const Geometry& g_;
  index_t kv_length_;
  Range queries_;
  double whole_block_macs_;
};

/// Multiply-adds of S-23 and S-25 in units of head_dim: the covariances of the blocks once per KV
/// head, for each query block their weighted sum, the variances of its logits and the product with
/// the rows, and what its probe rows meet.
class CorrectionMacs {
 public:
  explicit CorrectionMacs(const Geometry& g)
      : g_(g), probes_(static_cast<std::size_t>(g.num_q_blocks)) {
    for (index_t p = 0; p < semantics::probe_count(g.shape.len_q); ++p) {
      ++probes_.at(
          static_cast<std::size_t>(semantics::probe_row(p, g.shape.len_q) / g.config.block_q));
    }
  }

  /// Of the covariances of a batch element.
  [[nodiscard]] double of_keys(index_t kv_length) const {
    return is_linear() ? dim() * static_cast<double>(g_.shape.heads_kv * kv_length) : 0.0;
  }
  /// Of a query block that reads `means` block means.
  [[nodiscard]] double of_row(index_t q_block, index_t means, index_t kv_length) const {
    if (!is_linear() || means == 0) return 0.0;
    const Range queries = semantics::block_range(q_block, g_.config.block_q, g_.shape.len_q);
    const double of_block =
        dim() * static_cast<double>(means + queries.size()) + static_cast<double>(means);
    const double of_probe = static_cast<double>(3 * kv_length + 2 * means) + dim();
    return of_block + probes_[static_cast<std::size_t>(q_block)] * of_probe;
  }

 private:
  [[nodiscard]] bool is_linear() const { return g_.config.rest == Rest::kLinear; }
  [[nodiscard]] double dim() const { return static_cast<double>(g_.shape.head_dim); }
  const Geometry& g_;
  std::vector<double> probes_;  // [Nq], probe rows of each query block
};

/// Multiply-adds of S-27 and S-28 in units of head_dim, for the keys of a batch element.
double weight_macs(const Geometry& g, index_t kv_length) {
  if (!g.config.weigh_values || is_dense(g)) return 0.0;
  return static_cast<double>((weighs_keys(g.config) ? 2 : 1) * g.shape.heads_kv * kv_length);
}

double ratio(double part, double whole) { return whole > 0.0 ? part / whole : 0.0; }

}  // namespace

LevelStats measure_levels(const Geometry& geometry, const LevelCode* levels,
                          const std::int32_t* kv_lengths, double* row_density) {
  LevelStats stats;
  double all = 0;
  double computed = 0;
  double macs = 0;
  double correction = 0;
  const CorrectionMacs correction_macs(geometry);
  std::vector<KvBlock> blocks;  // of the batch element
  const index_t rows = geometry.shape.batch * geometry.shape.heads_q * geometry.num_q_blocks;
  for (index_t row = 0; row < rows; ++row) {
    const index_t batch = row / geometry.num_q_blocks / geometry.shape.heads_q;
    const index_t kv_length = kv_lengths == nullptr ? geometry.shape.len_kv : kv_lengths[batch];
    PairCost sum{0, 0, 0};
    index_t means = 0;
    if (row % (geometry.num_q_blocks * geometry.shape.heads_q) == 0) {
      blocks = kv_blocks(geometry, kv_length);
      correction += correction_macs.of_keys(kv_length);
      macs += weight_macs(geometry, kv_length);
    }
    const QueryBlock query_block(geometry, row % geometry.num_q_blocks, kv_length);
    for (std::size_t j = 0; j < blocks.size(); ++j) {
      const LevelCode code = levels[row * geometry.num_kv_blocks + static_cast<index_t>(j)];
      ++stats.blocks.at(code);
      if (code == kBlockMean) ++means;
      const PairCost cost = query_block.cost_of(blocks[j], code);
      sum.all_columns += cost.all_columns;
      sum.computed_columns += cost.computed_columns;
      sum.selection_macs += cost.selection_macs;
    }
    if (row_density != nullptr) row_density[row] = ratio(sum.computed_columns, sum.all_columns);
    all += sum.all_columns;
    computed += sum.computed_columns;
    macs += sum.selection_macs;
    correction += correction_macs.of_row(row % geometry.num_q_blocks, means, kv_length);
  }
  stats.density = ratio(computed, all);
  stats.selection_cost = ratio(macs, 2.0 * all);
  stats.correction_cost = ratio(correction, 2.0 * all);
  return stats;
}

void check_levels(const Geometry& geometry, const LevelCode* levels) {
  const bool allows_mean = reads_means(geometry.config.rest);
  const index_t size = geometry.shape.batch * geometry.shape.heads_q * geometry.num_q_blocks *
                       geometry.num_kv_blocks;
  for (index_t i = 0; i < size; ++i) {
    const LevelCode code = levels[i];
    if (is_known(geometry.config, code)) continue;
    throw Error(Status::kInvalidArgument,
                "levels[" + std::to_string(i) + "] is " + std::to_string(code) +
                    "; the plan allows 0.." + std::to_string(geometry.config.num_levels) +
                    (allows_mean ? " and 6 (block mean)" : " (6 needs rest = mean or linear)"));
  }
}

void skip_unknown_levels(const Geometry& geometry, std::span<LevelCode> levels) {
  for (LevelCode& code : levels) {
    if (!is_known(geometry.config, code)) code = kSkip;
  }
}

void build_schedule(const Geometry& geometry, const LevelCode* levels, index_t* row_begin,
                    ScheduleEntry* entries, index_t capacity) {
  const index_t rows = geometry.shape.batch * geometry.shape.heads_q * geometry.num_q_blocks;
  index_t count = 0;
  for (index_t row = 0; row < rows; ++row) {
    row_begin[row] = count;
    const LevelCode* codes = levels + row * geometry.num_kv_blocks;
    for (int code = semantics::kFinestLevel; code < kNumLevelCodes; ++code) {
      for (index_t j = 0; j < geometry.num_kv_blocks; ++j) {
        if (codes[j] != code) continue;
        if (entries != nullptr && count >= capacity) {
          throw Error(Status::kInvalidArgument,
                      "capacity is " + std::to_string(capacity) +
                          "; the schedule has more entries (ask with entries = NULL first)");
        }
        if (entries != nullptr) entries[count] = {static_cast<std::int32_t>(j), code};
        ++count;
      }
    }
  }
  row_begin[rows] = count;
}

}  // namespace psa::core
