// SPDX-License-Identifier: Apache-2.0
#include "cuda/first_order/first_order.hpp"

#include "core/ledger.hpp"

namespace psa::cuda {
namespace {

constexpr index_t kElementBytes = 2;  // backend.cu: all tensors are f16 or bf16

index_t up_to_8(index_t count) { return semantics::ceil_div(count, 8) * 8; }

}  // namespace

FirstOrder carve_first_order(const core::Geometry& g, std::byte* work, std::size_t* bytes) {
  const ProblemShape& shape = g.shape;
  const index_t row = up_to_8(shape.head_dim);
  const index_t weight_row = up_to_8(g.num_kv_blocks);
  const index_t kv_blocks = shape.batch * shape.heads_kv * g.num_kv_blocks;
  const index_t q_blocks = shape.batch * shape.heads_q * g.num_q_blocks;
  const index_t matrix_bytes = shape.head_dim * row * kElementBytes;
  core::Ledger ledger(work);
  const auto floats = [&ledger](index_t count) {
    return ledger.take<float>(static_cast<std::size_t>(count));
  };
  const auto raw = [&ledger](index_t count) {
    return ledger.take<std::byte>(static_cast<std::size_t>(count));
  };
  const FirstOrder pieces{.row = static_cast<int>(row),
                          .weight_row = static_cast<int>(weight_row),
                          .key_mean = floats(kv_blocks * row),
                          .key_spread = floats(kv_blocks),
                          .unit = floats(kv_blocks),
                          .covariance = raw(kv_blocks * matrix_bytes),
                          .logits = floats(q_blocks * g.num_kv_blocks),
                          .weights = raw(q_blocks * weight_row * kElementBytes),
                          .map = raw(q_blocks * matrix_bytes),
                          .factor = floats(q_blocks)};
  if (bytes != nullptr) *bytes = ledger.bytes();
  return pieces;
}

std::size_t first_order_bytes(const core::Geometry& g) {
  std::size_t bytes = 0;
  static_cast<void>(carve_first_order(g, nullptr, &bytes));
  return bytes;
}

void make_first_order_maps(const StageContext& context, const core::AttentionParams& call,
                           SumCovariances& sum) {
  const FirstOrder work = carve_first_order(context.geometry, call.work);
  block_moments(context, call.inputs, work);
  rest_weights(context, call, work);
  sum(context, call.inputs, work);
}

}  // namespace psa::cuda
