// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "call_options.hpp"
#include "tensors_in.hpp"

namespace psa::cli {

/// Every `step`-th token, from `first` on.
struct TokenSample {
  index_t first = 0;
  index_t step = 1;
  index_t count = 0;
};

/// `wanted` tokens (or all, if there are fewer) spread evenly over `length`.
[[nodiscard]] TokenSample spread_tokens(index_t length, index_t wanted);

/// Dense attention of the sampled query tokens by the reference backend, in double: [B, Hq, count,
/// D] of float. Slow: one pass over all keys per token.
[[nodiscard]] OwnedTensor exact_attention(const Call& call, const TokenSample& sample);

}  // namespace psa::cli
