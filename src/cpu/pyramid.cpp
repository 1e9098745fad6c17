// SPDX-License-Identifier: Apache-2.0

// Pyramid stage: means of groups of neighbouring keys and values (S-4, S-22(a)).
//
//   in   k, v        [B, Hkv, Lkv, D], read in working order
//   out  pyramid[l]  [B, Hkv, rows, D] of the storage type of k and v, every level that is not null
//
// One work item is a run of KV blocks of one head. It reads each row once: 16 rows at a time, every
// level from the means of the level below (in float, not rounded), one rounding per stored mean.
//
// Cost: Lkv * D loads and additions for K and for V; the memory traffic of one read of K and V and
// one write of the pyramid, which is what bounds it.

#include <algorithm>

#include "cpu/stages.hpp"
#include "semantics/pooling.hpp"

namespace psa::cpu {
namespace {

using semantics::Range;

constexpr index_t kItemTokens = 1024;

struct PyramidScratch {
  float* sum;      // [D]
  float* block;    // [block_kv, D], compat = official only
  float* rounded;  // [D], compat = official only: a mean of a level that nobody wants
};

PyramidScratch carve(Ledger& ledger, const core::Geometry& g) {
  const auto row = static_cast<std::size_t>(g.shape.head_dim);
  return {ledger.take<float>(row),
          ledger.take<float>(row * static_cast<std::size_t>(g.config.block_kv)),
          ledger.take<float>(row)};
}

/// K or V of one head and where its pooled rows go.
struct PoolHead {
  const RowKernels& kernels;
  InputRows rows;  // of the first position
  index_t kv_length;
  index_t block_kv;
  int head_dim;
  std::array<std::byte*, kNumLevelCodes> levels;  // first pooled row of the head; null: not wanted

  [[nodiscard]] void* row(int code, index_t r) const {
    std::byte* level = levels[static_cast<std::size_t>(code)];
    return level == nullptr ? nullptr : level + r * head_dim * size();
  }
  [[nodiscard]] index_t size() const { return static_cast<index_t>(size_of(rows.dtype)); }
};

void pool_block(const PoolHead& head, index_t kv_block, const PyramidScratch& scratch) {
  const Range tokens = semantics::block_range(kv_block, head.block_kv, head.kv_length);
  const bool wants_mean = head.row(kBlockMean, kv_block) != nullptr;
  std::fill_n(scratch.sum, head.head_dim, 0.0F);
  for (index_t r = tokens.begin; r < tokens.end; r += kPoolRows) {
    PoolTask task{.rows = head.rows,
                  .count = static_cast<int>(std::min<index_t>(kPoolRows, tokens.end - r)),
                  .head_dim = head.head_dim,
                  .to = head.rows.dtype,
                  .part = wants_mean ? scratch.sum : nullptr};
    task.rows.first = r;
    for (int code = 2; code <= semantics::kCoarsestLevel; ++code) {
      task.means[code - 2] = head.row(code, r / semantics::pool_factor(code, head.block_kv));
    }
    head.kernels.pool(task);
  }
  if (wants_mean && tokens.size() > 0) {
    const float share = static_cast<float>(tokens.size()) / kMaxBlockRows;
    head.kernels.store_mean(scratch.sum, share, head.head_dim, head.rows.dtype,
                            head.row(kBlockMean, kv_block));
  }
}

/// Code of the level that pools `factor` tokens; kSkip if there is none.
int code_of(index_t factor, index_t block_kv) {
  for (int code = 2; code < kNumLevelCodes; ++code) {
    if (semantics::pool_factor(code, block_kv) == factor) return code;
  }
  return kSkip;
}

/// S-22(a): copies of the last token fill the block; each level is made of the rounded level below.
void pool_block_official(const PoolHead& head, index_t kv_block, const PyramidScratch& scratch) {
  const index_t begin = kv_block * head.block_kv;
  if (begin >= head.kv_length) return;
  const int dim = head.head_dim;
  for (index_t u = 0; u < head.block_kv; ++u) {
    InputRows row = head.rows;
    row.first = std::min(begin + u, head.kv_length - 1);
    head.kernels.load_floats(row, 1, dim, scratch.block + u * dim);
  }
  for (index_t factor = 2; factor <= head.block_kv; factor *= 2) {
    const int code = code_of(factor, head.block_kv);
    for (index_t r = 0; r < head.block_kv / factor; ++r) {
      std::copy_n(scratch.block + 2 * r * dim, dim, scratch.sum);
      head.kernels.add(scratch.block + (2 * r + 1) * dim, dim, scratch.sum);
      void* wanted = code == kSkip ? nullptr : head.row(code, begin / factor + r);
      void* mean = wanted != nullptr ? wanted : scratch.rounded;
      head.kernels.store_mean(scratch.sum, 2.0F, dim, head.rows.dtype, mean);
      head.kernels.load_floats({.data = mean, .dtype = head.rows.dtype}, 1, dim,
                               scratch.block + r * dim);
    }
  }
}

/// Which of K and V, and which head of it.
struct HeadChoice {
  bool is_key;
  index_t batch;
  index_t head;
};

PoolHead make_head(const Isa& isa, const core::Geometry& g, const core::PyramidParams& params,
                   const HeadChoice& choice) {
  const auto [is_key, b, h] = choice;
  PoolHead head{.kernels = *isa.rows,
                .rows = head_rows(is_key ? params.inputs.k : params.inputs.v,
                                  params.inputs.kv_order, b, h, 0),
                .kv_length = params.inputs.kv_length(b),
                .block_kv = g.config.block_kv,
                .head_dim = static_cast<int>(g.shape.head_dim),
                .levels = {}};
  for (std::size_t code = 2; code < head.levels.size(); ++code) {
    const core::PyramidLevel& level = params.pyramid[code];
    auto* data = static_cast<std::byte*>(is_key ? level.k : level.v);
    if (data == nullptr) continue;
    const index_t first_row = (b * g.shape.heads_kv + h) * level.rows;
    head.levels[code] = data + first_row * g.shape.head_dim * head.size();
  }
  return head;
}

bool is_wanted(const PoolHead& head) {
  return std::any_of(head.levels.begin(), head.levels.end(),
                     [](const std::byte* level) { return level != nullptr; });
}

}  // namespace

void pyramid(const Isa& isa, const StageContext& context, const core::PyramidParams& params) {
  const core::Geometry& g = context.geometry;
  const index_t blocks_per_item = std::max<index_t>(1, kItemTokens / g.config.block_kv);
  const index_t items_per_head = semantics::ceil_div(g.num_kv_blocks, blocks_per_item);
  const index_t items = g.shape.batch * g.shape.heads_kv * items_per_head;
  const bool official = g.config.compat == Compat::kOfficial;
  context.executor.for_each(items, [&](index_t item, int worker) {
    Ledger ledger(context.worker_scratch(worker));
    const PyramidScratch scratch = carve(ledger, g);
    const index_t b = item / items_per_head / g.shape.heads_kv;
    const index_t h = item / items_per_head % g.shape.heads_kv;
    const index_t first = item % items_per_head * blocks_per_item;
    const index_t end = std::min(first + blocks_per_item, g.num_kv_blocks);
    for (const bool is_key : {true, false}) {
      const PoolHead head = make_head(isa, g, params, {is_key, b, h});
      if (!is_wanted(head)) continue;
      for (index_t j = first; j < end; ++j) {
        official ? pool_block_official(head, j, scratch) : pool_block(head, j, scratch);
      }
    }
  });
}

std::size_t pyramid_scratch(const core::Geometry& geometry) {
  Ledger ledger(nullptr);
  carve(ledger, geometry);
  return ledger.bytes();
}

}  // namespace psa::cpu
