// SPDX-License-Identifier: Apache-2.0
#pragma once

// A backend is a table of stage functions. Each stage takes one parameter struct of views; what the
// stage computes is docs/semantics.md, what it may use is here. Stages allocate nothing that grows
// with the input: everything lies in the caller's workspace (plan.cpp carves it).

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/device_memory.hpp"
#include "core/parallel.hpp"
#include "psa/config.hpp"
#include "psa/level_map.hpp"
#include "psa/types.hpp"
#include "semantics/blocks.hpp"
#include "semantics/head_budget.hpp"
#include "semantics/levels.hpp"
#include "semantics/pooling.hpp"

namespace psa::core {

/// Everything about a call that is known when the plan is made.
struct Geometry {
  ProblemShape shape;
  TokenLayout layout;
  Config config;
  index_t num_q_blocks = 0;                         ///< ceil(len_q / block_q)
  index_t num_kv_blocks = 0;                        ///< ceil(len_kv / block_kv)
  float scale = 0.0F;                               ///< soft-max scale, resolved
  semantics::ForcedRule forced{{0, 0}, {0, 0}, 0};  ///< S-18, with S-22 already applied
  std::vector<float> head_budgets;  ///< S-24, [Hq, kMaxLevels]; empty: all have config.budget

  [[nodiscard]] index_t heads_per_kv() const { return shape.heads_q / shape.heads_kv; }
};

/// S-28. Whether the query blocks of a head share its budget.
[[nodiscard]] constexpr bool shares_budget(const Config& config) {
  return config.budget_scope == BudgetScope::kHead;
}

/// S-28. What the cuts of a head depend on beside its pairs and its budget.
[[nodiscard]] constexpr semantics::HeadRule head_rule(const Config& config) {
  return {config.num_levels, config.block_kv, reads_means(config.rest), config.rest_cutoff};
}

/// S-28. Whether the spread of the keys of a block counts where its values are weighed.
[[nodiscard]] constexpr bool weighs_keys(const Config& config) {
  return config.weigh_values && shares_budget(config) && config.rest == Rest::kLinear;
}

/// Rows per head of a pyramid level; with compat = official those of whole blocks (S-22a).
[[nodiscard]] constexpr index_t pyramid_rows(const Geometry& g, int code) {
  const index_t factor = semantics::pool_factor(code, g.config.block_kv);
  return g.config.compat == Compat::kOfficial ? g.num_kv_blocks * g.config.block_kv / factor
                                              : semantics::pooled_rows(g.shape.len_kv, factor);
}

/// Working order of a sequence (S-19): position w holds token index[w] of the caller's tensor.
/// `index` == nullptr is the identity. Strides of 0 share one order between batches and heads.
struct TokenOrder {
  const std::int32_t* index = nullptr;
  index_t batch_stride = 0;
  index_t head_stride = 0;

  [[nodiscard]] const std::int32_t* of(index_t b, index_t h) const {
    return index == nullptr ? nullptr : index + b * batch_stride + h * head_stride;
  }
};

/// The caller's tensors and the orders in which every stage reads them.
struct Inputs {
  TensorView q;  ///< [B, Hq, Lq, D]
  TensorView k;  ///< [B, Hkv, Lkv, D]
  TensorView v;  ///< [B, Hkv, Lkv, D]
  TokenOrder q_order;
  TokenOrder kv_order;  ///< per KV head
  /// [B] valid keys, 0..Lkv; null: all. On a device, where nobody could check them, stages clamp.
  const std::int32_t* kv_lengths = nullptr;

  [[nodiscard]] index_t kv_length(index_t b) const {
    return kv_lengths == nullptr ? k.shape[2] : kv_lengths[b];
  }
};

/// One pooled copy of K and V: contiguous [B, Hkv, rows, D] of dtype_kv, in working order.
/// rows = pyramid_rows(geometry, code); rows behind a batch element's valid keys are unspecified.
struct PyramidLevel {
  void* k = nullptr;
  void* v = nullptr;  ///< null when only the keys are needed (sub-block means of pooled_lse)
  index_t rows = 0;
};

/// Indexed by level code; entries 0 and 1 are unused (level 1 is the caller's K and V), entries
/// that no stage reads are null.
using KvPyramid = std::array<PyramidLevel, kNumLevelCodes>;

/// What every stage gets besides its own views.
struct StageContext {
  const Geometry& geometry;
  const Executor& executor;
  std::byte* scratch = nullptr;  ///< executor.workers() pieces of scratch_bytes, aligned
  std::size_t scratch_bytes = 0;
  Stream stream{};  ///< the caller's queue, for backends of a device

  [[nodiscard]] std::byte* worker_scratch(int worker) const {
    return scratch + static_cast<std::size_t>(worker) * scratch_bytes;
  }
};

/// Query blocks [q_block_begin, q_block_end) of all heads of batch elements [batch_begin,
/// batch_end). Importance of a chunk is contiguous [batches(), Hq, q_blocks(), num_kv_blocks].
struct RowChunk {
  index_t batch_begin = 0;
  index_t batch_end = 0;
  index_t q_block_begin = 0;
  index_t q_block_end = 0;

  [[nodiscard]] index_t batches() const { return batch_end - batch_begin; }
  [[nodiscard]] index_t q_blocks() const { return q_block_end - q_block_begin; }
};

/// S-20. Writes the working orders of content-based reordering; null pointers are not written.
struct ClusterParams {
  Inputs inputs;           ///< orders ignored
  std::int32_t* q_index;   ///< [B, Hq, Lq]
  std::int32_t* kv_index;  ///< [B, Hkv, Lkv]
  std::byte* work;         ///< workers x cluster_bytes(geometry), 64-byte aligned
};

/// S-4. Fills every level of the pyramid that is not null.
struct PyramidParams {
  Inputs inputs;
  KvPyramid pyramid;
};

/// S-16. caps [B, Hkv, num_kv_blocks]: coarsest level that a KV block may be pooled at.
struct SimilarityParams {
  Inputs inputs;
  std::uint8_t* caps;
};

/// S-27, S-28. weights [B, Hkv, num_kv_blocks]: what the importance of a KV block counts times.
struct ValueWeightsParams {
  Inputs inputs;
  float* weights;
};

/// S-9 to S-13. importance of the chunk's rows; hidden blocks (causal, key length) get 0. With
/// share_group_map every head of a group gets the group's importance. With user_scores `importance`
/// holds the caller's scores on entry, and the stage does only these two things.
struct ImportanceParams {
  Inputs inputs;
  KvPyramid pyramid;  ///< pooled_lse reads the keys of the level of its sub-blocks
  RowChunk chunk;
  float* importance;
};

/// S-13 to S-18, S-26, S-28. Levels of the chunk's rows, which are those of whole heads if a head's
/// query blocks share a budget.
struct LevelsParams {
  Inputs inputs;  ///< only the key lengths
  RowChunk chunk;
  const float* importance;    ///< null: all blocks equal (dense budgets need no estimate)
  const float* weights;       ///< null: values are not weighed (S-27)
  const std::uint8_t* caps;   ///< null: no similarity cap
  LevelMapView levels;        ///< whole map
  const float* head_budgets;  ///< S-24, [Hq, kMaxLevels]; null: all heads have config.budget

  /// Shares of levels 1..kMaxLevels for a query head, where the host may follow head_budgets.
  [[nodiscard]] const float* budget(const Config& config, index_t head_q) const {
    return head_budgets == nullptr ? config.budget.data() : head_budgets + head_q * kMaxLevels;
  }
};

/// S-5 to S-8, S-23, S-25. On a device, where nobody could check the map, codes above kBlockMean
/// and codes of levels that `pyramid` has no values of count as skip.
struct AttentionParams {
  Inputs inputs;
  KvPyramid pyramid;
  LevelMapView levels;
  TensorView out;             ///< [B, Hq, Lq, D], original token order
  float* lse;                 ///< [B, Hq, Lq] contiguous, original token order; null: not wanted
  std::byte* work = nullptr;  ///< attention_bytes(geometry), 64-byte aligned
};

/// A backend of this process. All pointers in its stages' parameters lie in `memory`.
struct Backend {
  const char* name;            ///< "reference", "cpu", ...
  const char* isa;             ///< instruction set; "" where there is no choice
  const DeviceMemory* memory;  ///< serves problems of this memory's type of device
  /// Why the backend cannot serve the geometry on this device; null: it can. Static text.
  const char* (*why_not)(const Geometry&, Device);
  /// Importance is estimated for as many rows at a time as fit in this, at least.
  std::size_t chunk_bytes;
  /// Per worker, the largest need of any stage on the current device; a multiple of 64.
  std::size_t (*scratch_bytes)(const Geometry&);
  std::size_t (*cluster_bytes)(const Geometry&);               ///< per worker, a multiple of 64
  std::size_t (*attention_bytes)(const Geometry&);             ///< in all
  void (*cluster)(const StageContext&, const ClusterParams&);  ///< may be null: see why_not
  void (*pyramid)(const StageContext&, const PyramidParams&);
  void (*similarity)(const StageContext&, const SimilarityParams&);
  void (*value_weights)(const StageContext&, const ValueWeightsParams&);
  void (*importance)(const StageContext&, const ImportanceParams&);
  void (*levels)(const StageContext&, const LevelsParams&);
  void (*attention)(const StageContext&, const AttentionParams&);
};

/// What a build offers, and whether this machine can run it. Static text.
struct BackendEntry {
  const Backend* backend;  ///< null: this machine cannot run it
  const char* name;
  const char* isa;
  const char* reason;  ///< why it is not available, or what it is for
};

}  // namespace psa::core
