// SPDX-License-Identifier: Apache-2.0
#pragma once

// The maps M of rest = linear (S-23), which the attention kernels apply to their queries.
//
//   block_moments   k, v               -> means of keys, covariances C       O(Lk · D²)
//   rest_weights    q, means, levels   -> weights w of the unread blocks     O(Nq · Nk · D)
//   sum_covariances w, C               -> M = sum of w · C                   O(Nq · Nk · D²)
//
// Letters: B batch, Hq and Hkv heads, D head_dim, Nq and Nk blocks; R = row elements. All products
// are of 16-bit numbers, summed in float, in the storage type of k and v. Scales keep them in the
// range of f16: what is stored is
//
//   covariance · unit = n · C                    unit a power of two, by KV block
//   map · factor      = M (transposed)           factor by query block

#include <cstddef>

#include "core/backend.hpp"

namespace psa::cuda {

using core::StageContext;

/// Pieces of the work memory of the attention stage.
struct FirstOrder {
  int row;            ///< R: elements of a row of a matrix, D up to a multiple of 8; the rest is 0
  int weight_row;     ///< elements of a row of weights, Nk up to a multiple of 8; the rest is 0
  float* key_mean;    ///< [B, Hkv, R, Nk]
  float* key_spread;  ///< [B, Hkv, Nk]: t of S-23
  float* unit;        ///< [B, Hkv, Nk]; NaN: the block has moments that are not finite
  std::byte* covariance;  ///< [B, Hkv, Nk, D, R]; row: channel of v, column: channel of k
  float* logits;          ///< [B, Hq, Nq, Nk], in log2 units
  std::byte* weights;     ///< [B, Hq, Nq, weight_row]
  std::byte* map;         ///< [B, Hq, Nq, D, R]; row: channel of out, column: channel of q
  float* factor;          ///< [B, Hq, Nq]; 0: no term
};

/// `work` may be null: only `bytes` counts then.
[[nodiscard]] FirstOrder carve_first_order(const core::Geometry& geometry, std::byte* work,
                                           std::size_t* bytes = nullptr);

/// core::Backend::attention_bytes.
[[nodiscard]] std::size_t first_order_bytes(const core::Geometry& geometry);

// The three steps, the last with mma.sync or with wgmma.
void block_moments(const StageContext& context, const core::Inputs& inputs, const FirstOrder& work);
void rest_weights(const StageContext& context, const core::AttentionParams& call,
                  const FirstOrder& work);
using SumCovariances = void(const StageContext& context, const core::Inputs& inputs,
                            const FirstOrder& work);
SumCovariances sum_covariances;
SumCovariances sum_covariances_sm90;

/// Fills the work memory. Launches on context.stream.
void make_first_order_maps(const StageContext& context, const core::AttentionParams& call,
                           SumCovariances& sum);

}  // namespace psa::cuda
