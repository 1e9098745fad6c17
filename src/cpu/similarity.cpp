// SPDX-License-Identifier: Apache-2.0

// Similarity stage: how coarsely each KV block may be pooled (S-16).
//
//   in   k     [B, Hkv, Lkv, D], read in working order
//   out  caps  [B, Hkv, Nk]
//
// One work item is one KV block of one head: its rows as floats, then one dot product per row for
// the lengths and one per group and level. Sums are float.

#include <algorithm>
#include <cmath>

#include "cpu/stages.hpp"
#include "semantics/levels.hpp"
#include "semantics/pooling.hpp"

namespace psa::cpu {
namespace {

using semantics::Range;

struct SimilarityScratch {
  float* rows;     // [block_kv, D]
  float* lengths;  // [block_kv]
};

SimilarityScratch carve(Ledger& ledger, const core::Geometry& g) {
  const auto tokens = static_cast<std::size_t>(g.config.block_kv);
  return {ledger.take<float>(tokens * static_cast<std::size_t>(g.shape.head_dim)),
          ledger.take<float>(tokens)};
}

/// The keys of one block.
struct KeyBlock {
  const RowKernels& kernels;
  int head_dim;
  Range tokens;
  SimilarityScratch scratch;

  [[nodiscard]] float cosine(index_t a, index_t b) const {
    const float* row_a = scratch.rows + a * head_dim;
    const float* row_b = scratch.rows + b * head_dim;
    return kernels.dot(row_a, row_b, head_dim) / (scratch.lengths[a] * scratch.lengths[b] + 1e-6F);
  }

  /// sim_l of S-16 for groups of `factor` positions.
  [[nodiscard]] float similarity(index_t factor) const {
    float sum = 0.0F;
    index_t groups = 0;
    for (index_t first = 0; first < tokens.size(); first += factor, ++groups) {
      sum += cosine(first, std::min(first + factor, tokens.size()) - 1);
    }
    return sum / static_cast<float>(groups);
  }
};

int block_cap(const Config& config, const KeyBlock& block) {
  if (block.tokens.size() <= 0) return semantics::kFinestLevel;
  for (index_t r = 0; r < block.tokens.size(); ++r) {
    const float* row = block.scratch.rows + r * block.head_dim;
    block.scratch.lengths[r] = std::sqrt(block.kernels.dot(row, row, block.head_dim));
  }
  std::array<float, kMaxLevels - 1> similarities{};
  for (int level = 2; level <= config.num_levels; ++level) {
    similarities[static_cast<std::size_t>(level - 2)] =
        block.similarity(semantics::pool_factor(level, config.block_kv));
  }
  return semantics::similarity_cap(similarities.data(), config.similarity_cap->data(),
                                   config.num_levels);
}

}  // namespace

void similarity(const Isa& isa, const StageContext& context, const core::SimilarityParams& params) {
  const core::Geometry& g = context.geometry;
  const index_t kv_heads = g.shape.batch * g.shape.heads_kv;
  context.executor.for_each(kv_heads * g.num_kv_blocks, [&](index_t item, int worker) {
    Ledger ledger(context.worker_scratch(worker));
    const index_t b = item / g.num_kv_blocks / g.shape.heads_kv;
    const index_t h = item / g.num_kv_blocks % g.shape.heads_kv;
    const KeyBlock block{.kernels = *isa.rows,
                         .head_dim = static_cast<int>(g.shape.head_dim),
                         .tokens = semantics::block_range(item % g.num_kv_blocks, g.config.block_kv,
                                                          params.inputs.kv_length(b)),
                         .scratch = carve(ledger, g)};
    block.kernels.load_floats(
        head_rows(params.inputs.k, params.inputs.kv_order, b, h, block.tokens.begin),
        static_cast<int>(block.tokens.size()), block.head_dim, block.scratch.rows);
    params.caps[item] = static_cast<std::uint8_t>(block_cap(g.config, block));
  });
}

std::size_t similarity_scratch(const core::Geometry& geometry) {
  Ledger ledger(nullptr);
  carve(ledger, geometry);
  return ledger.bytes();
}

}  // namespace psa::cpu
