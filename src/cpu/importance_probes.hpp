// SPDX-License-Identifier: Apache-2.0
#pragma once

// What tells the estimators of importance apart: which queries and keys they look at, and how a
// pair of them becomes a logit (S-9 to S-12). The soft-max and its reduction to blocks are common
// to all and live in importance.cpp.

#include <array>
#include <cstddef>
#include <cstdint>

#include "cpu/stages.hpp"
#include "semantics/importance.hpp"

namespace psa::cpu {

/// S-9. Offsets of the samples in every block of one head, in rising order.
struct SampledOffsets {
  index_t batch = -1;  ///< whose they are; -1: not drawn yet
  index_t head = -1;
  int count = 0;
  std::array<std::int32_t, 128> offset{};
};

/// Buffers of one worker.
struct ProbeScratch {
  std::byte* queries;      ///< query packs, one for each part of a logit
  std::size_t pack_bytes;  ///< from one pack to the next
  std::byte* keys;         ///< key tile
  float* scores;           ///< S^T
  float* rows;             ///< [kMaxQueries, D] queries as floats
  float* zero_row;         ///< [D]
  std::int32_t* index;     ///< [kMaxQueries] tokens to gather
  SampledOffsets* q_samples;
  SampledOffsets* kv_samples;
};

/// The work of one item: some query blocks of one head.
struct ProbeItem {
  const core::Geometry& geometry;
  const core::ImportanceParams& params;
  index_t batch;
  index_t head_q;
  semantics::Range q_blocks;
  const ProbeScratch& scratch;

  [[nodiscard]] index_t head_kv() const { return head_q / geometry.heads_per_kv(); }
  [[nodiscard]] index_t kv_length() const { return params.inputs.kv_length(batch); }
  [[nodiscard]] const std::int32_t* q_order() const {
    return params.inputs.q_order.of(batch, head_q);
  }
  [[nodiscard]] const std::int32_t* kv_order() const {
    return params.inputs.kv_order.of(batch, head_kv());
  }
};

/// Queries of an item: samples or groups of tokens, block by block. `position` on the axis of the
/// keys decides what a query sees (S-8); it never falls.
struct ProbeQueries {
  int count = 0;
  std::array<int, kMaxQueries + 1> block_begin{};  ///< first query of each block, then `count`
  std::array<index_t, kMaxQueries> position{};
};

/// Keys of a tile: the same number for every KV block, fewer in a short last one. A key is visible
/// to a query if its `position` is not behind the query's.
struct ProbeKeys {
  int count = 0;
  std::array<index_t, kMaxTileKeys> position{};
  std::array<float, kMaxTileKeys> bias_log2{};
};

/// One estimator. The methods are called in the order: queries, then per tile keys and scores.
class Probe {
 public:
  Probe(const TileKernels& tiles, const RowKernels& rows) : tiles_(tiles), rows_(rows) {}
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;
  virtual ~Probe() = default;

  [[nodiscard]] const TileKernels& tiles() const { return tiles_; }
  [[nodiscard]] virtual int queries_per_block() const = 0;
  [[nodiscard]] virtual int keys_per_block() const = 0;
  /// Query packs that one logit is the sum over.
  [[nodiscard]] virtual int parts() const { return 1; }
  /// Factor of a dot product besides the soft-max scale.
  [[nodiscard]] virtual float scale() const { return 1.0F; }
  /// S-10. What a visible key of a block of `tokens` real tokens counts for.
  [[nodiscard]] virtual float key_weight(index_t /*tokens*/) const { return 1.0F; }

  /// Packs the queries of an item.
  virtual void load_queries(const ProbeItem& item, ProbeQueries& queries) const = 0;
  /// Loads the keys of KV blocks and writes their scores; `step` comes with shape and buffers.
  virtual void score_keys(const ProbeItem& item, semantics::Range kv_blocks, TileStep& step,
                          ProbeKeys& keys) const = 0;

 protected:
  const TileKernels& tiles_;
  const RowKernels& rows_;
};

/// S-9, S-10: samples of both sides.
class SampleProbe final : public Probe {
 public:
  SampleProbe(const Isa& isa, const core::Geometry& geometry);
  [[nodiscard]] int queries_per_block() const override { return samples_q_; }
  [[nodiscard]] int keys_per_block() const override { return samples_kv_; }
  [[nodiscard]] float key_weight(index_t tokens) const override;
  void load_queries(const ProbeItem& item, ProbeQueries& queries) const override;
  void score_keys(const ProbeItem& item, semantics::Range kv_blocks, TileStep& step,
                  ProbeKeys& keys) const override;

 private:
  int samples_q_;
  int samples_kv_;
};

/// S-11: sums along the antidiagonals of groups of tokens.
class AntidiagonalProbe final : public Probe {
 public:
  AntidiagonalProbe(const Isa& isa, const core::Geometry& geometry);
  [[nodiscard]] int queries_per_block() const override { return queries_per_block_; }
  [[nodiscard]] int keys_per_block() const override { return keys_per_block_; }
  [[nodiscard]] int parts() const override { return static_cast<int>(stride_); }
  [[nodiscard]] float scale() const override { return 1.0F / static_cast<float>(stride_); }
  void load_queries(const ProbeItem& item, ProbeQueries& queries) const override;
  void score_keys(const ProbeItem& item, semantics::Range kv_blocks, TileStep& step,
                  ProbeKeys& keys) const override;

 private:
  index_t stride_;
  int queries_per_block_;
  int keys_per_block_;
};

/// S-12: means of sub-blocks.
class PooledProbe final : public Probe {
 public:
  PooledProbe(const Isa& isa, const core::Geometry& geometry);
  [[nodiscard]] int queries_per_block() const override { return queries_per_block_; }
  [[nodiscard]] int keys_per_block() const override { return keys_per_block_; }
  void load_queries(const ProbeItem& item, ProbeQueries& queries) const override;
  void score_keys(const ProbeItem& item, semantics::Range kv_blocks, TileStep& step,
                  ProbeKeys& keys) const override;

 private:
  index_t factor_;
  float full_bias_log2_;
  int code_;  // level whose pool factor that is
  int queries_per_block_;
  int keys_per_block_;
};

}  // namespace psa::cpu
