// SPDX-License-Identifier: Apache-2.0
#pragma once

// The first-order term of rest = linear (S-23), a part of the attention stage:
//
//   block_moments   per KV block: mean and variance of the keys, n x covariance with the values
//   make_maps       per run of query blocks: M, the weighted sum of the covariances of the rest
//   set,
//                   and the biases of the block means, which are their masses to second order
//   add_first_order per query block: O^T += share of the rest x (q M)
//
// All in float whatever the types of q, k and v. Covariances and maps are stored transposed and cut
// into groups of 64 key channels, as `accumulate` of tile.hpp writes them.
//
// Cost: D * D multiply-adds per KV token, per block mean read and per query row. A run of query
// blocks reads each covariance once, because the cache's bandwidth and not the sums is the limit.

#include <array>

#include "cpu/stages.hpp"
#include "semantics/rest_probes.hpp"

namespace psa::cpu {

using RestFactors = semantics::RestFactors<float>;

/// Query blocks whose maps are summed at once: one work item of the attention stage.
inline constexpr index_t kMapRun = 4;

/// Of all KV heads, [B, Hkv, Nk] each.
struct BlockMoments {
  float* key_mean = nullptr;      ///< [D]
  float* key_variance = nullptr;  ///< [D]
  float* covariance = nullptr;    ///< [output_floats(D, D)], times the tokens of the block
};

/// What a worker needs to make moments.
struct MomentScratch {
  float* keys;     ///< [block_kv, D], then less their mean
  float* values;   ///< the same
  float* mean;     ///< [D], of the values
  float* operand;  ///< keys as an operand of `accumulate`
  float* ones;     ///< [kMaxQueries]
};

/// What a worker needs to make maps and to add their terms.
struct MapScratch {
  std::array<float*, kMapRun> maps;       ///< [output_floats(D, D)] each
  std::array<float*, kMapRun> weights;    ///< [Nk] each
  std::array<float*, kMapRun> bias_log2;  ///< [Nk] each: log2 of what masses are multiplied by
  float* rows;                            ///< [block_q, D]
  float* mean;                            ///< [D]
  float* square;                          ///< [D]
  float* queries;                         ///< query pack in float
  float* tile;                            ///< key tile in float: rows of M, transposed
  float* terms;                           ///< q M, one S^T for each kMaxTileKeys channels
  float* rest_max_log2;                   ///< [queries], state of the soft-max after the rest
  float* rest_sum;                        ///< [queries]
};

BlockMoments carve_moments(Ledger& ledger, const core::Geometry& geometry);
MomentScratch carve_moment_scratch(Ledger& ledger, const core::Geometry& geometry);
MapScratch carve_map_scratch(Ledger& ledger, const core::Geometry& geometry);

/// A KV block of all KV heads of a call: block j of KV head h of batch element b.
struct KvBlock {
  index_t b, h, j;
};

void make_moments(const Isa& isa, const core::Geometry& geometry, const core::Inputs& inputs,
                  const KvBlock& block, const BlockMoments& moments, const MomentScratch& scratch);

/// A query block and where its map lies.
struct MapTask {
  index_t q_block = 0;
  float* map = nullptr;  ///< [output_floats(D, D)]
  bool is_made = false;  ///< the map is there
  RestFactors factors{};
};

/// Some query blocks of a head.
struct QueryBlocks {
  index_t b, h;
  std::array<MapTask, kMapRun> tasks;
  std::size_t count;
};

/// Whether KV block j belongs to the rest set of a query block; `codes` is its level-map row.
[[nodiscard]] bool is_rest_block(const core::Geometry& geometry, const LevelCode* codes,
                                 semantics::Range queries, index_t j, index_t kv_length);

/// Makes the maps that are not there, without the slope, and fills scratch.bias_log2, the mass
/// factor included.
void make_maps(const Isa& isa, const core::Geometry& geometry, const core::AttentionParams& params,
               const QueryBlocks& queries, const BlockMoments& moments, const MapScratch& scratch);

/// term = query M of one row, [D] floats; numbers that are not finite become 0.
void multiply_map(const Isa& isa, int head_dim, const float* query, const float* map, float* term);

/// Keeps what the soft-max holds, when it has met the block means and nothing else.
void keep_rest(const PackShape& shape, const SoftmaxState& state, const MapScratch& scratch);

/// Adds the term to the output of a query pack that has met all of its rows. `queries` are the rows
/// of the pack, `map` that of their block, `slope` the slope of S-25.
void add_first_order(const Isa& isa, const PackShape& shape, const InputRows& queries,
                     const float* map, float slope, const SoftmaxState& state,
                     const MapScratch& scratch, float* output);

}  // namespace psa::cpu
