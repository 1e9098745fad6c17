// SPDX-License-Identifier: Apache-2.0

// Value weights stage: how far the values of a KV block lie from those that a row sees on average
// (S-27), and where query blocks share a budget its keys from their mean (S-28).
//
//   in   v        [B, Hkv, Lkv, D]; k likewise where its spread counts
//   out  weights  [B, Hkv, Nk]; 0 for a block without keys
//
// Cost: two passes over V, one over K.

#include <cmath>
#include <vector>

#include "reference/rows.hpp"
#include "reference/stages.hpp"
#include "semantics/levels.hpp"

namespace psa::reference {
namespace {

using semantics::Range;

/// Mean of |row - center|² over the rows of a range that is not empty.
double mean_square_from(const std::vector<Row>& rows, Range range, const Row& center) {
  double sum = 0.0;
  for (index_t r = range.begin; r < range.end; ++r) {
    for (std::size_t c = 0; c < center.size(); ++c) {
      const double difference = rows[to_size(r)][c] - center[c];
      sum += difference * difference;
    }
  }
  return sum / static_cast<double>(range.size());
}

/// The same from the mean of the rows themselves.
double spread_of(const std::vector<Row>& rows, Range range) {
  return mean_square_from(rows, range, mean_of(rows, range));
}

bool is_finite_float(double x) { return std::isfinite(static_cast<float>(x)); }

/// Mean of the values of those of the blocks 0..last that are finite.
Row center_of(const std::vector<Row>& values, const std::vector<Range>& blocks,
              const std::vector<bool>& is_finite, std::size_t last) {
  Row sum(values.front().size(), 0.0);
  double count = 0.0;
  for (std::size_t j = 0; j <= last; ++j) {
    if (!is_finite[j]) continue;
    for (index_t r = blocks[j].begin; r < blocks[j].end; ++r) {
      for (std::size_t c = 0; c < sum.size(); ++c) sum[c] += values[to_size(r)][c];
      count += 1.0;
    }
  }
  for (double& x : sum) x /= std::max(count, 1.0);
  return sum;
}

}  // namespace

void value_weights(const core::StageContext& context, const core::ValueWeightsParams& params) {
  const core::Geometry& geometry = context.geometry;
  const auto num_kv_blocks = to_size(geometry.num_kv_blocks);
  float* weight = params.weights;
  for (index_t b = 0; b < geometry.shape.batch; ++b) {
    for (index_t h = 0; h < geometry.shape.heads_kv; ++h) {
      const auto values = load_head(params.inputs.v, params.inputs.kv_order.of(b, h), b, h);
      const auto keys = core::weighs_keys(geometry.config)
                            ? load_head(params.inputs.k, params.inputs.kv_order.of(b, h), b, h)
                            : std::vector<Row>();
      std::vector<Range> blocks;
      std::vector<bool> is_finite;
      for (index_t j = 0; j < geometry.num_kv_blocks; ++j) {
        const Range block = semantics::block_range(j, geometry.config.block_kv,
                                                   key_length(geometry, params.inputs, b));
        blocks.push_back(block);
        is_finite.push_back(block.size() > 0 && is_finite_float(spread_of(values, block)));
      }
      for (std::size_t j = 0; j < num_kv_blocks; ++j) {
        const Range block = blocks[j];
        const Row center =
            center_of(values, blocks, is_finite, geometry.config.causal ? j : num_kv_blocks - 1);
        *weight = block.size() > 0 ? semantics::value_weight(static_cast<float>(
                                         mean_square_from(values, block, center)))
                                   : 0.0F;
        if (core::weighs_keys(geometry.config) && block.size() > 0) {
          *weight = semantics::error_weight(*weight, static_cast<float>(spread_of(keys, block)));
        }
        ++weight;
      }
    }
  }
}

}  // namespace psa::reference
