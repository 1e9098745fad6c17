// SPDX-License-Identifier: Apache-2.0

// Similarity stage: how coarsely each KV block may be pooled (S-16).
//
//   in   k     [B, Hkv, Lkv, D]
//   out  caps  [B, Hkv, Nk]: the coarsest level whose groups are alike; 1 for a block without keys
//
//   sim_l = mean over the groups of f_l positions of cos(first real key, last real key)
//
// Cost: Lkv / f_l cosines per level.

#include <array>
#include <cmath>
#include <vector>

#include "reference/rows.hpp"
#include "reference/stages.hpp"
#include "semantics/levels.hpp"
#include "semantics/pooling.hpp"

namespace psa::reference {
namespace {

using semantics::Range;

double cosine(const Row& a, const Row& b) {
  return dot(a, b) / (std::sqrt(dot(a, a)) * std::sqrt(dot(b, b)) + 1e-6);
}

/// sim_l of one block that has a key.
double group_similarity(const std::vector<Row>& keys, Range pooled, index_t factor,
                        index_t kv_length) {
  double sum = 0.0;
  for (index_t g = pooled.begin; g < pooled.end; ++g) {
    const Range group = semantics::pooled_tokens(g, factor, kv_length);
    sum += cosine(keys[to_size(group.begin)], keys[to_size(group.end - 1)]);
  }
  return sum / static_cast<double>(pooled.size());
}

int block_cap(const Config& config, const std::vector<Row>& keys, index_t kv_block,
              index_t kv_length) {
  std::array<float, kMaxLevels - 1> similarities{};
  for (int level = 2; level <= config.num_levels; ++level) {
    const Range pooled = semantics::pooled_range(kv_block, config.block_kv, level, kv_length);
    if (pooled.size() == 0) return semantics::kFinestLevel;
    const index_t factor = semantics::pool_factor(level, config.block_kv);
    similarities[to_size(level - 2)] =
        static_cast<float>(group_similarity(keys, pooled, factor, kv_length));
  }
  return semantics::similarity_cap(similarities.data(), config.similarity_cap->data(),
                                   config.num_levels);
}

}  // namespace

void similarity(const core::StageContext& context, const core::SimilarityParams& params) {
  const core::Geometry& geometry = context.geometry;
  std::uint8_t* cap = params.caps;
  for (index_t b = 0; b < geometry.shape.batch; ++b) {
    for (index_t h = 0; h < geometry.shape.heads_kv; ++h) {
      const auto keys = load_head(params.inputs.k, params.inputs.kv_order.of(b, h), b, h);
      for (index_t j = 0; j < geometry.num_kv_blocks; ++j) {
        *cap++ = static_cast<std::uint8_t>(
            block_cap(geometry.config, keys, j, key_length(geometry, params.inputs, b)));
      }
    }
  }
}

}  // namespace psa::reference
