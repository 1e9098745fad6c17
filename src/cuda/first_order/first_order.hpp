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
// Maps are large, D² elements for each query block, so a call whose maps would not fit in as much
// memory as K and V takes goes head range by head range: maps, then the attention that reads them.
//
// Letters: n KV heads and m query heads of the range, D head_dim, Nq and Nk blocks; R = row
// elements. All products
// are of 16-bit numbers, summed in float, in the storage type of k and v. Scales keep them in the
// range of f16: what is stored is
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
  int row;          ///< R: elements of a row of a matrix, D up to a multiple of 8; the rest is 0
  int weight_row;   ///< elements of a row of weights, Nk up to a multiple of 8; the rest is 0
  float* key_mean;  ///< [n, R, Nk]
  float* key_variance;    ///< [n, R, Nk]
  float* unit;            ///< [n, Nk]; NaN: the block has moments that are not finite
  std::byte* covariance;  ///< [n, Nk, D, R]; row: channel of v, column: channel of k
  float* logits;          ///< [m, Nq, Nk], in log2 units; dead once there are weights
  float* mass;            ///< [m, Nq, Nk]: log2 of 1 + v/2; 0 outside of the rest sets
  std::byte* weights;     ///< [m, Nq, weight_row]
  std::byte* map;         ///< [m, Nq, D, R]; row: channel of out, column: channel of q
  float* factor;          ///< [m, Nq]; 0: no term
  ProbeWork probe;
};

/// `work` may be null: only `bytes` counts then.
[[nodiscard]] FirstOrder carve_first_order(const core::Geometry& geometry, HeadRange heads,
                                           std::byte* work, std::size_t* bytes = nullptr);

/// KV heads of a launch: as many as the memory is for, with rest = linear; else all.
[[nodiscard]] int heads_per_launch(const core::Geometry& geometry);

/// core::Backend::attention_bytes.
[[nodiscard]] std::size_t first_order_bytes(const core::Geometry& geometry);

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

/// Calls `attend` with the parameters of each launch of a call, behind the maps that it reads.
template <typename Attend>
void for_each_launch(const StageContext& context, const core::AttentionParams& call,
                     const FirstOrderProducts& products, const Attend& attend) {
  const core::Geometry& g = context.geometry;
  const auto all = static_cast<int>(g.shape.batch * g.shape.heads_kv);
  const int most = heads_per_launch(g);
  for (int first = 0; first < all; first += most) {
    const HeadRange heads{first, all - first < most ? all - first : most};
    if (g.config.rest == Rest::kLinear) make_first_order_maps(context, call, heads, products);
    attend(make_attention_params(context, call, heads));
  }
}

}  // namespace psa::cuda
