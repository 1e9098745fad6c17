// SPDX-License-Identifier: Apache-2.0
#include "cuda/attention/params.hpp"

#include "cuda/first_order/first_order.hpp"
#include "cuda/stages.hpp"
#include "semantics/pooling.hpp"

namespace psa::cuda {
namespace {

constexpr float kLog2E = 1.4426950408889634F;

TokenRows rows_of(const TensorView& t) {
  return {static_cast<std::byte*>(t.data), t.stride[0], t.stride[1], t.stride[2]};
}

OrderView order_of(const core::TokenOrder& order) {
  return {order.index, order.batch_stride, order.head_stride};
}

/// S-18. Query blocks with text tokens that read everything; causal calls know longer rows first.
void set_full_blocks(const core::Geometry& g, AttentionParams& p) {
  const semantics::Range text = g.forced.text_q;
  if (text.size() <= 0 || g.config.causal) return;
  p.full_q_begin = static_cast<int>(text.begin / g.config.block_q);
  p.full_q_blocks =
      static_cast<int>(semantics::ceil_div(text.end, g.config.block_q)) - p.full_q_begin;
}

}  // namespace

AttentionParams make_attention_params(const core::StageContext& context,
                                      const core::AttentionParams& call, HeadRange heads,
                                      HeadRange mapped) {
  const core::Geometry& g = context.geometry;
  AttentionParams p{};
  p.q = rows_of(call.inputs.q);
  p.k = rows_of(call.inputs.k);
  p.v = rows_of(call.inputs.v);
  p.q_order = order_of(call.inputs.q_order);
  p.kv_order = order_of(call.inputs.kv_order);
  p.readable_codes = 1U << semantics::kFinestLevel;
  for (int code = semantics::kFinestLevel + 1; code < kNumLevelCodes; ++code) {
    const core::PyramidLevel& level = call.pyramid.at(static_cast<std::size_t>(code));
    if (level.k == nullptr || level.v == nullptr) continue;
    if (!semantics::is_level_code(code, g.config.block_kv)) continue;
    p.pooled_k[code] = static_cast<const std::byte*>(level.k);
    p.pooled_v[code] = static_cast<const std::byte*>(level.v);
    p.pooled_rows[code] = level.rows;
    p.readable_codes |= 1U << code;
  }
  p.levels = call.levels.data;
  p.kv_lengths = call.inputs.kv_lengths;
  p.out = rows_of(call.out);
  p.lse = call.lse;
  p.heads = heads;
  if (g.config.rest == Rest::kLinear) {
    const FirstOrder first_order = carve_first_order(g, mapped, call.work);
    const index_t blocks_before = (heads.first - mapped.first) * g.heads_per_kv() * g.num_q_blocks;
    p.map = first_order.map + blocks_before * first_order.matrix_bytes;
    p.map_factor = first_order.factor + blocks_before;
    p.rest_mass = first_order.mass + blocks_before * g.num_kv_blocks;
    p.map_row = first_order.row;
  }
  p.next_item = reinterpret_cast<std::int32_t*>(context.scratch);
  p.batch = static_cast<int>(g.shape.batch);
  p.heads_q = static_cast<int>(g.shape.heads_q);
  p.heads_kv = static_cast<int>(g.shape.heads_kv);
  p.len_q = static_cast<int>(g.shape.len_q);
  p.len_kv = static_cast<int>(g.shape.len_kv);
  p.head_dim = static_cast<int>(g.shape.head_dim);
  p.block_q = g.config.block_q;
  p.block_kv = g.config.block_kv;
  p.num_q_blocks = static_cast<int>(g.num_q_blocks);
  p.num_kv_blocks = static_cast<int>(g.num_kv_blocks);
  set_full_blocks(g, p);
  p.scale_log2 = g.scale * kLog2E;
  p.is_causal = g.config.causal;
  return p;
}

/// The work counter, alone on its line of L2.
std::size_t attention_scratch(const core::Geometry& /*geometry*/) { return 128; }

}  // namespace psa::cuda
