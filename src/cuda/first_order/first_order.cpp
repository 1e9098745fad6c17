// SPDX-License-Identifier: Apache-2.0
#include "cuda/first_order/first_order.hpp"

#include "core/ledger.hpp"

namespace psa::cuda {
namespace {

constexpr index_t kElementBytes = 2;  // backend.cu: all tensors are f16 or bf16

index_t up_to_8(index_t count) { return semantics::ceil_div(count, 8) * 8; }

// Of probe_keys: chunks of keys per head. Not by the number of heads: a head has the same bits
// whatever heads it is computed with, so that devices may share them out. With a CTA for the means
// 12 heads fill the 264 places of an H100 in one wave, 24 in two.
constexpr index_t kMostChunks = 21;  // fewer than the lanes of a warp (rest_factors.cu)
constexpr index_t kKeysPerChunk = 512;

index_t probe_chunks(index_t len_kv) {
  return semantics::max_of(semantics::min_of(kMostChunks, len_kv / kKeysPerChunk), 1);
}

}  // namespace

FirstOrder carve_first_order(const core::Geometry& g, HeadRange heads, std::byte* work,
                             std::size_t* bytes) {
  const ProblemShape& shape = g.shape;
  const index_t row = up_to_8(shape.head_dim);
  const index_t weight_row = up_to_8(g.num_kv_blocks);
  const index_t kv_blocks = heads.count * g.num_kv_blocks;
  const index_t q_blocks = heads.count * g.heads_per_kv() * g.num_q_blocks;
  const index_t matrix_bytes = shape.head_dim * row * kElementBytes;
  const index_t heads_q = heads.count * g.heads_per_kv();
  const index_t logits = q_blocks * g.num_kv_blocks;
  const bool has_probes = semantics::probe_count(shape.len_q) > 0;
  const index_t chunks = has_probes ? probe_chunks(shape.len_kv) : 0;
  const index_t probe_rows = has_probes ? (chunks + 1) * heads_q * semantics::kMostProbes : 0;
  const index_t probe_floats = probe_rows * (4 + 2 * row);
  core::Ledger ledger(work);
  const auto floats = [&ledger](index_t count) {
    return ledger.take<float>(static_cast<std::size_t>(count));
  };
  const auto raw = [&ledger](index_t count) {
    return ledger.take<std::byte>(static_cast<std::size_t>(count));
  };
  FirstOrder pieces{.heads = heads,
                    .row = static_cast<int>(row),
                    .matrix_bytes = matrix_bytes,
                    .weight_row = static_cast<int>(weight_row),
                    .key_mean = floats(kv_blocks * row),
                    .key_variance = floats(kv_blocks * row),
                    .unit = floats(kv_blocks),
                    .logits = floats(semantics::max_of(logits, probe_floats)),
                    .mass = floats(q_blocks * g.num_kv_blocks),
                    .weights = raw(q_blocks * weight_row * kElementBytes),
                    .map = raw(q_blocks * matrix_bytes),
                    .factor = floats(q_blocks),
                    .probe = {},
                    .covariance = nullptr,
                    .bytes_before_covariance = 0};
  pieces.probe.chunks = static_cast<int>(chunks);
  pieces.probe.masses = pieces.logits;
  if (work != nullptr) {
    pieces.probe.values = pieces.logits + probe_rows * 4;
  }
  pieces.probe.sums = ledger.take<semantics::ProbeSums<float>>(
      static_cast<std::size_t>(heads_q * semantics::kMostProbes));
  pieces.probe.factors = ledger.take<semantics::RestFactors<float>>(
      static_cast<std::size_t>(heads_q * semantics::kMostProbes));
  pieces.bytes_before_covariance = ledger.bytes();
  pieces.covariance = raw(kv_blocks * matrix_bytes);
  if (bytes != nullptr) *bytes = ledger.bytes();
  return pieces;
}

void make_first_order_maps(const StageContext& context, const core::AttentionParams& call,
                           HeadRange heads, const FirstOrderProducts& products) {
  const FirstOrder work = carve_first_order(context.geometry, heads, call.work);
  block_moments(context, call.inputs, work);
  rest_weights(context, call, work);
  products.sum(context, call.inputs, work);
  fit_rest(context, call, work, products.meet_probe_keys);
}

}  // namespace psa::cuda
