// SPDX-License-Identifier: Apache-2.0
#pragma once

// A causal call with probe rows (S-25), in which later tokens can be changed: which rows follow
// which tokens is the same question on every backend.

#include "core/backend.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {

/// A call of 16 probes whose rows have 400 keys before their first one; all tensors in `dtype`.
struct CausalProbes {
  static constexpr index_t kLenQ = 2100;
  static constexpr index_t kBlockQ = 64;

  Problem problem;
  QkvTensors in;

  explicit CausalProbes(DType dtype);

  /// q, k and v of all tokens from query position `begin` on become others.
  void change_from(index_t begin);
  /// The query of that row and of head 0.
  void change_query(index_t row);
  /// Puts `bad` into a number of the key, and of the value, at the position of query `row`.
  void spoil_key(index_t row, float bad);

  [[nodiscard]] AttentionResult attend(const core::Backend& backend);
};

/// A query of a block changes no row before the block, and rows behind it if it is a probe; and no
/// row follows a token behind its block.
void expect_rows_to_follow_earlier_probes(const core::Backend& backend, DType dtype);

/// NaN and Inf in a key and its value change no bit of query blocks that do not meet its KV block:
/// not even by way of the probe rows that do not see it.
void expect_bad_keys_to_leave_earlier_rows_alone(const core::Backend& backend, DType dtype);

}  // namespace psa::testing
