// SPDX-License-Identifier: Apache-2.0
#include "oracle.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "output_errors.hpp"

namespace psa::cli {

TokenSample spread_tokens(index_t length, index_t wanted) {
  const index_t count = std::min(length, wanted);
  const index_t step = length / count;
  return {(length - (count - 1) * step) / 2, step, count};
}

// One token per call, so that causal needs no rule of its own: a query that stands alone sees all
// keys, and the key length of the call says how many there are for it (S-8).
OwnedTensor exact_attention(const Call& call, const TokenSample& sample) {
  Problem problem = dense_problem(call.problem);
  const ProblemShape& shape = call.problem.shape;
  problem.shape.len_q = 1;
  problem.shape.dtype_out = DType::kF32;
  problem.layout = {};
  PlanOptions options;
  options.backend = "reference";
  const Plan plan = Plan::create(problem.shape, problem.layout, problem.config, {}, options);
  Workspace workspace(plan.workspace_bytes());
  OwnedTensor exact({shape.batch, shape.heads_q, sample.count, shape.head_dim}, DType::kF32);
  std::vector<std::int32_t> lengths(static_cast<std::size_t>(shape.batch));
  for (index_t i = 0; i < sample.count; ++i) {
    const index_t token = sample.first + i * sample.step;
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      const index_t keys = call.kv_lengths.empty() ? shape.len_kv : call.kv_lengths[b];
      const index_t visible = problem.config.causal ? token + keys - shape.len_q + 1 : keys;
      lengths[b] = static_cast<std::int32_t>(std::clamp<index_t>(visible, 0, keys));
    }
    AttentionIo io = call.io();
    io.q = sampled_tokens(call.inputs.q, token, 1, 1);
    io.out = sampled_tokens(exact.view(), i, 1, 1);
    io.kv_lengths = lengths.data();
    run(plan, io, workspace.bytes());
  }
  return exact;
}

}  // namespace psa::cli
