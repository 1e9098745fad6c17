// SPDX-License-Identifier: Apache-2.0
#pragma once

// What rest = linear (S-23) adds to the block means: their mass, and the maps M, which the
// attention kernels apply to their queries.
//
//   block_moments   k, v                 -> means, variances, covariances C      O(Lk · D²)
//   rest_weights    q, moments, levels   -> mass 1 + v/2, weights w              O(Nq · Nk · D)
//   sum_covariances w, C                 -> M = sum of w · C                     O(Nq · Nk · D²)
//   fit_rest        probe rows           -> mass and M times their factors       O(P · Lk · D)
//
// Maps are large, D² elements for each query block, so a call may go head range by head range
// (attention/launches.hpp): maps, then the attention that reads them.
//
// Letters: n KV heads and m query heads of the range, D head_dim, Nq and Nk blocks; R = row
// elements. All products are of 16-bit numbers, summed in float, in the storage type of k and v.
// Scales keep them in the range of f16: what is stored is
//
//   covariance · unit = n · C                    unit a power of two, by KV block
//   map · factor      = M (transposed)           factor by query block

#include <cstddef>

#include "core/backend.hpp"
#include "cuda/attention/params.hpp"
#include "semantics/rest_probes.hpp"

namespace psa::cuda {

using core::StageContext;

/// Of fit_rest(), P = semantics::kMostProbes; sums in the place of the logits.
struct ProbeWork {
  int chunks;     ///< c, of keys; one more are the block means
  float* masses;  ///< [m, c + 1, P, 4]: log2 of the reference, masses: all, of what is read
  float* values;  ///< [m, c + 1, P, 2, R]: values with their weights: all, of what is read
  semantics::ProbeSums<float>* sums;       ///< [m, P]
  semantics::RestFactors<float>* factors;  ///< [m, P]: of the first n probes at place n - 1
};

/// Pieces of the work memory of the attention stage.
struct FirstOrder {
  HeadRange heads;
  int row;  ///< R: elements of a row of a matrix, D up to a multiple of 8; the rest is 0
  index_t matrix_bytes;  ///< of a matrix [D, R]
  int weight_row;        ///< elements of a row of weights, Nk up to a multiple of 8; the rest is 0
  float* key_mean;       ///< [n, R, Nk]
  float* key_variance;   ///< [n, R, Nk]
  float* unit;           ///< [n, Nk]; NaN: the block has moments that are not finite
  float* logits;         ///< [m, Nq, Nk], in log2 units; dead once there are weights
  float* mass;           ///< [m, Nq, Nk]: log2 of 1 + v/2; 0 outside of the rest sets
  std::byte* weights;    ///< [m, Nq, weight_row]
  std::byte* map;        ///< [m, Nq, D, R]; row: channel of out, column: channel of q
  float* factor;         ///< [m, Nq]; 0: no term
  ProbeWork probe;
  /// [n, Nk, D, R]; row: channel of v, column: channel of k. The last piece: dead once there are
  /// maps, when K and V in working order take its place (ordered_kv.hpp).
  std::byte* covariance;
  std::size_t bytes_before_covariance;
};

/// `work` may be null: only `bytes` counts then.
[[nodiscard]] FirstOrder carve_first_order(const core::Geometry& geometry, HeadRange heads,
                                           std::byte* work, std::size_t* bytes = nullptr);

// The steps; the third, and the first of the fourth (rest_probes.cuh), with mma.sync or with wgmma.
void block_moments(const StageContext& context, const core::Inputs& inputs, const FirstOrder& work);
void rest_weights(const StageContext& context, const core::AttentionParams& call,
                  const FirstOrder& work);
using SumCovariances = void(const StageContext& context, const core::Inputs& inputs,
                            const FirstOrder& work);
SumCovariances sum_covariances;
SumCovariances sum_covariances_sm90;
struct ProbeParams;
/// Fills masses and values of p.work.probe for `heads` query heads.
using MeetProbeKeys = void(const StageContext& context, const ProbeParams& p, unsigned int heads);
MeetProbeKeys meet_probe_keys;
MeetProbeKeys meet_probe_keys_sm90;
void fit_rest(const StageContext& context, const core::AttentionParams& call,
              const FirstOrder& work, MeetProbeKeys& meet_probe_keys);

/// Who multiplies.
struct FirstOrderProducts {
  SumCovariances& sum;
  MeetProbeKeys& meet_probe_keys;
};

/// Fills the work memory. Launches on context.stream.
void make_first_order_maps(const StageContext& context, const core::AttentionParams& call,
                           HeadRange heads, const FirstOrderProducts& products);

}  // namespace psa::cuda
