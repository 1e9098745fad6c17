// SPDX-License-Identifier: Apache-2.0

// Pyramid stage: means of groups of neighbouring keys and values (S-4; S-22(a) for compat =
// official).
//
//   in   k, v         [B, Hkv, Lkv, D], in any order of tokens
//   out  pyramid[l]   [B, Hkv, rows, D] of the storage type of k and v, for every level that is not
//                     null; rows without a real position are not written
//
//   S-4      row g = mean of the real positions [g * f, min((g + 1) * f, n)), in double, rounded
//   once S-22(a)  the sequence is continued with copies of its last token up to whole blocks;
//   factor 2f =
//            means of pairs of factor f, rounded at each step
//
// Cost: about 2 * Lkv * D additions per level.

#include <algorithm>
#include <vector>

#include "reference/rows.hpp"
#include "reference/stages.hpp"
#include "semantics/pooling.hpp"

namespace psa::reference {
namespace {

using semantics::Range;

/// One head of k or v and where a level of it goes.
struct HeadTarget {
  TensorView level;  // [B, Hkv, rows, D]
  index_t batch;
  index_t kv_head;
};

/// S-4. `tokens` [Lkv][D], of which the first kv_length exist.
void pool_exact(const std::vector<Row>& tokens, index_t kv_length, index_t factor,
                const HeadTarget& target) {
  for (index_t g = 0; g < semantics::pooled_rows(kv_length, factor); ++g) {
    const Range group = semantics::pooled_tokens(g, factor, kv_length);
    store_row(target.level, target.batch, target.kv_head, g, mean_of(tokens, group));
  }
}

double rounded_to(DType dtype, double value) {
  float stored = 0.0F;
  core::store_element(&stored, dtype, 0, static_cast<float>(value));
  return static_cast<double>(core::load_element(&stored, dtype, 0));
}

/// S-22(a). All levels are made from the tokens again for each one that is wanted.
void pool_official(const std::vector<Row>& tokens, index_t kv_length, index_t factor,
                   index_t block_kv, const HeadTarget& target) {
  if (kv_length == 0) return;
  const index_t padded = semantics::ceil_div(kv_length, block_kv) * block_kv;
  std::vector<Row> level;
  for (index_t position = 0; position < padded; ++position) {
    level.push_back(tokens[to_size(std::min(position, kv_length - 1))]);
  }
  for (index_t f = 2; f <= factor; f *= 2) {
    std::vector<Row> coarser;
    for (index_t g = 0; g < padded / f; ++g) {
      Row mean = mean_of(level, {2 * g, 2 * g + 2});
      for (double& x : mean) x = rounded_to(target.level.dtype, x);
      coarser.push_back(mean);
    }
    level = coarser;
  }
  for (std::size_t g = 0; g < level.size(); ++g) {
    store_row(target.level, target.batch, target.kv_head, static_cast<index_t>(g), level[g]);
  }
}

}  // namespace

void pyramid(const core::StageContext& context, const core::PyramidParams& params) {
  const core::Geometry& geometry = context.geometry;
  const index_t block_kv = geometry.config.block_kv;
  const bool official = geometry.config.compat == Compat::kOfficial;
  for (int code = semantics::kFinestLevel + 1; code < kNumLevelCodes; ++code) {
    const core::PyramidLevel& level = params.pyramid[static_cast<std::size_t>(code)];
    const index_t factor = semantics::pool_factor(code, block_kv);
    for (const bool is_key : {true, false}) {
      void* data = is_key ? level.k : level.v;
      if (data == nullptr) continue;
      const TensorView& source = is_key ? params.inputs.k : params.inputs.v;
      const TensorView view = level_view(geometry, level.rows, data);
      for (index_t b = 0; b < geometry.shape.batch; ++b) {
        for (index_t h = 0; h < geometry.shape.heads_kv; ++h) {
          const auto tokens = load_head(source, params.inputs.kv_order.of(b, h), b, h);
          const index_t kv_length = key_length(geometry, params.inputs, b);
          if (official) {
            pool_official(tokens, kv_length, factor, block_kv, {view, b, h});
          } else {
            pool_exact(tokens, kv_length, factor, {view, b, h});
          }
        }
      }
    }
  }
}

}  // namespace psa::reference
