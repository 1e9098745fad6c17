// SPDX-License-Identifier: Apache-2.0
#pragma once

// Pyramid levels: which tokens a pooled row averages, its weight and its logit bias (S-3 to S-6).

#include <cmath>
#include <cstdint>

#include "semantics/blocks.hpp"
#include "semantics/hd.hpp"

namespace psa::semantics {

/// S-3. Codes of a level map; the same values as psa::kSkip and psa::kBlockMean.
inline constexpr int kSkipCode = 0;
inline constexpr int kFinestLevel = 1;
inline constexpr int kCoarsestLevel = 5;
inline constexpr int kBlockMeanCode = 6;

/// S-3. Tokens per pooled row: 1, 2, 4, 8, 16 for levels 1..5, the whole block for its mean.
/// 0 for skip: no row at all.
PSA_HD constexpr index_t pool_factor(int code, index_t block_kv) {
  if (code == kSkipCode) return 0;
  return code == kBlockMeanCode ? block_kv : index_t{1} << (code - 1);
}

/// S-3. A level exists for a block size if its groups tile the block.
PSA_HD constexpr bool is_level_code(int code, index_t block_kv) {
  return code >= kSkipCode && code <= kBlockMeanCode && pool_factor(code, block_kv) <= block_kv;
}

/// S-4. Pooled rows of a sequence of `len` tokens at pool factor `factor`.
PSA_HD constexpr index_t pooled_rows(index_t len, index_t factor) { return ceil_div(len, factor); }

/// S-4. Real tokens that pooled row `row` stands for; `len` counts the valid tokens.
PSA_HD constexpr Range pooled_tokens(index_t row, index_t factor, index_t len) {
  return block_range(row, factor, len);
}

/// S-4. Pooled rows that KV block `block` reads at level `code`: those with at least one real
/// token.
PSA_HD constexpr Range pooled_range(index_t block, index_t block_kv, int code, index_t len) {
  const index_t factor = pool_factor(code, block_kv);
  const Range tokens = block_range(block, block_kv, len);
  if (factor == 0 || tokens.size() <= 0) return {0, 0};
  return {tokens.begin / factor, ceil_div(tokens.end, factor)};
}

/// S-5. Number of keys that a pooled row stands for in the soft-max.
PSA_HD constexpr index_t pooled_weight(index_t row, index_t factor, index_t len) {
  return pooled_tokens(row, factor, len).size();
}

/// S-5. Logit bias of a pooled row of weight `weight`: weight * exp(s) = exp(s + ln(weight)).
PSA_HD inline double pooled_bias(index_t weight) { return std::log(static_cast<double>(weight)); }

/// S-22. The published code pads the last block with copies of the last token before it pools, so
/// that every pooled row (not level 1) has the full weight, and row `row` averages positions
/// min(row * factor + u, len - 1).
PSA_HD constexpr index_t official_pooled_weight(index_t factor) { return factor; }
PSA_HD constexpr Range official_pooled_range(index_t block, index_t block_kv, int code,
                                             index_t len) {
  const Range exact = pooled_range(block, block_kv, code, len);
  if (code <= kFinestLevel || exact.size() <= 0) return exact;
  return {exact.begin, exact.begin + block_kv / pool_factor(code, block_kv)};
}

}  // namespace psa::semantics
