// SPDX-License-Identifier: Apache-2.0

// Value weights stage: how far the values of a KV block lie from those that a row sees on average
// (S-27), and where query blocks share a budget its keys from their mean (S-28).
//
//   in   v        [B, Hkv, Lkv, D], read in working order; k likewise where its spread counts
//   out  weights  [B, Hkv, Nk]; 0 for a block without keys
//
// One work item is one KV head. A pass over its values leaves the mean of each block and how far
// its values lie from that. With the mean of what a row sees, which in causal calls moves from
// block to block, |v - center|² is on average the sum of both squared distances. Another pass is
// over the keys. Sums are float.

#include <algorithm>
#include <cmath>

#include "cpu/stages.hpp"
#include "semantics/levels.hpp"

namespace psa::cpu {
namespace {

struct WeightScratch {
  float* rows;    // [block_kv, D]
  float* means;   // [Nk, D]
  float* spread;  // [Nk]: mean |v - mean|² of the block; infinite: not finite in float
  float* center;  // [D]: mean of the values that a row sees
};

WeightScratch carve(Ledger& ledger, const core::Geometry& g) {
  const auto dim = static_cast<std::size_t>(g.shape.head_dim);
  const auto blocks = static_cast<std::size_t>(g.num_kv_blocks);
  return {ledger.take<float>(static_cast<std::size_t>(g.config.block_kv) * dim),
          ledger.take<float>(blocks * dim), ledger.take<float>(blocks), ledger.take<float>(dim)};
}

/// One KV head.
struct ValueHead {
  const RowKernels& kernels;
  const core::Geometry& geometry;
  InputRows values;
  InputRows keys;
  index_t kv_length;
  WeightScratch scratch;

  [[nodiscard]] int dim() const { return static_cast<int>(geometry.shape.head_dim); }
  [[nodiscard]] int tokens(index_t j) const {
    return static_cast<int>(semantics::block_range(j, geometry.config.block_kv, kv_length).size());
  }
  [[nodiscard]] float* mean(index_t j) const { return scratch.means + j * dim(); }

  /// Mean and spread of those of `all` that lie in a block that is not empty.
  void measure(InputRows all, index_t j) const {
    all.first = j * geometry.config.block_kv;
    kernels.load_floats(all, tokens(j), dim(), scratch.rows);
    const float share = 1.0F / static_cast<float>(tokens(j));
    std::fill_n(mean(j), dim(), 0.0F);
    for (int r = 0; r < tokens(j); ++r) {
      kernels.add_scaled(scratch.rows + r * dim(), share, dim(), mean(j));
    }
    scratch.spread[j] = 0.0F;
    for (int r = 0; r < tokens(j); ++r) {
      float* row = scratch.rows + r * dim();
      kernels.add_scaled(mean(j), -1.0F, dim(), row);
      scratch.spread[j] += share * kernels.dot(row, row, dim());
    }
  }

  /// Takes the values of block j into the center, which is the mean of `seen` values; returns how
  /// many those are then.
  [[nodiscard]] index_t move_center(index_t j, index_t seen) const {
    if (!std::isfinite(scratch.spread[j])) return seen;
    seen += tokens(j);
    const float share = static_cast<float>(tokens(j)) / static_cast<float>(seen);
    for (int c = 0; c < dim(); ++c) {
      scratch.center[c] += share * (mean(j)[c] - scratch.center[c]);
    }
    return seen;
  }

  /// Takes the center off the mean.
  [[nodiscard]] float weight(index_t j) const {
    kernels.add_scaled(scratch.center, -1.0F, dim(), mean(j));
    return semantics::value_weight(scratch.spread[j] + kernels.dot(mean(j), mean(j), dim()));
  }

  void weigh(float* weights) const {
    const index_t blocks = semantics::ceil_div(kv_length, geometry.config.block_kv);
    const bool causal = geometry.config.causal;
    index_t seen = 0;
    std::fill_n(scratch.center, dim(), 0.0F);
    for (index_t j = 0; j < blocks; ++j) {
      measure(values, j);
      seen = move_center(j, seen);
      if (causal) weights[j] = weight(j);
    }
    for (index_t j = 0; j < blocks && !causal; ++j) weights[j] = weight(j);
    std::fill(weights + blocks, weights + geometry.num_kv_blocks, 0.0F);
    if (!core::weighs_keys(geometry.config)) return;
    for (index_t j = 0; j < blocks; ++j) {
      measure(keys, j);
      weights[j] = semantics::error_weight(weights[j], scratch.spread[j]);
    }
  }
};

}  // namespace

void value_weights(const Isa& isa, const StageContext& context,
                   const core::ValueWeightsParams& params) {
  const core::Geometry& g = context.geometry;
  context.executor.for_each(g.shape.batch * g.shape.heads_kv, [&](index_t item, int worker) {
    Ledger ledger(context.worker_scratch(worker));
    const index_t b = item / g.shape.heads_kv;
    const index_t h = item % g.shape.heads_kv;
    const auto rows = [&](const TensorView& t) {
      return head_rows(t, params.inputs.kv_order, b, h, 0);
    };
    const ValueHead head{.kernels = *isa.rows,
                         .geometry = g,
                         .values = rows(params.inputs.v),
                         .keys = core::weighs_keys(g.config) ? rows(params.inputs.k) : InputRows{},
                         .kv_length = params.inputs.kv_length(b),
                         .scratch = carve(ledger, g)};
    head.weigh(params.weights + item * g.num_kv_blocks);
  });
}

std::size_t value_weights_scratch(const core::Geometry& geometry) {
  if (!geometry.config.weigh_values) return 0;
  Ledger ledger(nullptr);
  carve(ledger, geometry);
  return ledger.bytes();
}

}  // namespace psa::cpu
