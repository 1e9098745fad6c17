// SPDX-License-Identifier: Apache-2.0
#pragma once

// The first-order term of rest = linear (S-23), a part of the attention stage.

#include <vector>

#include "core/backend.hpp"
#include "reference/rows.hpp"

namespace psa::reference {

/// What the term needs of a KV block.
struct BlockMoments {
  Row key_mean;                 // [D]
  std::vector<Row> covariance;  // [D of the key][D of the value]
  Row key_variance;             // [D]
  index_t tokens;
};

/// keys and values [Lkv][D] in working order; only blocks with a real token.
[[nodiscard]] std::vector<BlockMoments> block_moments(const std::vector<Row>& keys,
                                                      const std::vector<Row>& values,
                                                      index_t block_kv, index_t kv_length);

/// How a query block reads its rest set.
struct RestReading {
  std::vector<double> mass_factor;  // [blocks of the rest set]
  std::vector<Row> map;             // M, [D][D]; zeros where the clause has no term
};

/// `rest` are the moments of the rest set of a query block, `queries` its real rows.
[[nodiscard]] RestReading read_rest(const std::vector<const BlockMoments*>& rest,
                                    const std::vector<Row>& queries, double scale);

/// query M; numbers that are not finite become 0.
[[nodiscard]] Row first_order_term(const Row& query, const std::vector<Row>& map);

}  // namespace psa::reference
