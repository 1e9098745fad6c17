// SPDX-License-Identifier: Apache-2.0
#pragma once

// Factors of the rest of rest = linear (S-25), a part of the attention stage: what the probe rows
// of a head say, each met with all keys at level 1 and with its rest set as attention reads it.
//
// One work item is a pack of probe rows of one head. Each of its rows is two queries of the tile
// kernels: one meets all keys, the other those of the blocks outside the rest set, which differs
// from row to row, so that scores are masked.
//
// Cost: 4 * D multiply-adds per probe row and key, and D * D per probe row and block mean.

#include "cpu/first_order.hpp"
#include "cpu/stages.hpp"
#include "semantics/rest_probes.hpp"

namespace psa::cpu {

/// Probe rows of one work item, which fill a group of queries. Half of all leave some work to a
/// second core in calls of one head.
inline constexpr int kProbePack = kGroupQueries / 2;

using ProbeSums = semantics::ProbeSums<float>;

/// Of all query heads.
struct RestProbes {
  ProbeSums* sums = nullptr;               ///< [B, Hq, P]
  RestFactors* factors = nullptr;          ///< [B, Hq, P + 1]: of the first n probes at place n
  float* maps = nullptr;                   ///< [B, Hq, P], of the probes' query blocks
  std::int32_t* probe_of_block = nullptr;  ///< [Nq]: a probe of the query block, or -1
};

/// What a worker needs for a pack of probes, besides MapScratch.
struct RestProbeScratch {
  std::byte* queries;         ///< query pack: rows r and then r again
  std::byte* keys;            ///< key tile
  std::byte* values;          ///< value tile
  float* scores;              ///< S^T
  float* output;              ///< O^T
  SoftmaxState state;         ///< [queries] each
  std::int32_t* row;          ///< [2 kProbePack], row of q of each query
  std::int32_t* first_query;  ///< [kMaxTileKeys]
  float* query_rows;          ///< [2 kProbePack, D]
  float* terms;               ///< [kProbePack, D]: q M
  float* logits;       ///< [kProbePack, Nk], of block means (log2); -inf outside the rest set
  float* out;          ///< [2 kProbePack, D]
  float* lse;          ///< [2 kProbePack]
  float* mean_values;  ///< [kProbePack, D], sums over the rest sets
};

RestProbes carve_rest_probes(Ledger& ledger, const core::Geometry& geometry);
void find_probes(const core::Geometry& geometry, const RestProbes& probes);
RestProbeScratch carve_rest_probe_scratch(Ledger& ledger, const core::Geometry& geometry,
                                          Compute compute);

/// Map of a probe's query block.
[[nodiscard]] inline float* probe_map(const core::Geometry& g, const RestProbes& probes,
                                      index_t head, index_t probe) {
  const auto dim = static_cast<int>(g.shape.head_dim);
  const index_t place = head * semantics::probe_count(g.shape.len_q) + probe;
  return probes.maps + place * static_cast<index_t>(output_floats(dim, dim));
}

/// Factors that the first `count` probes of a head give.
[[nodiscard]] inline RestFactors& factors_of(const core::Geometry& g, const RestProbes& probes,
                                             index_t head, index_t count) {
  return probes.factors[head * (semantics::probe_count(g.shape.len_q) + 1) + count];
}

/// Packs of a head.
[[nodiscard]] inline index_t rest_probe_packs(const core::Geometry& g) {
  return semantics::ceil_div(semantics::probe_count(g.shape.len_q), kProbePack);
}

/// Pack `pack` of query head h of batch element b.
struct RestProbePack {
  index_t b, h, pack;
};

/// Fills the sums and maps of a pack.
void probe_rest(const Isa& isa, const core::Geometry& geometry, const core::AttentionParams& params,
                const RestProbePack& pack, const BlockMoments& moments,
                const RestProbeScratch& scratch, const MapScratch& map_scratch,
                const RestProbes& probes);

}  // namespace psa::cpu
