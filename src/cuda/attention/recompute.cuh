// SPDX-License-Identifier: Apache-2.0
#pragma once

// Repairs output rows that met a NaN or Inf which they must not see.
//
// Tensor cores multiply whole tiles. A key behind the causal diagonal has probability 0 there, and
// 0 times a NaN or Inf of its value is NaN. Such an output element is always NaN, never just wrong,
// and lse is right, because values do not enter it. So a causal kernel writes what it has and hands
// the rows that hold a NaN to recompute_row, which reads nothing but what the row sees.
//
// Cost: one warp per row, all keys one after the other; finite inputs never come here.

#include "cuda/attention/kv_stream.cuh"
#include "cuda/attention/params.hpp"
#include "cuda/device/element.cuh"
#include "semantics/online_softmax.hpp"

namespace psa::cuda {

/// One row of out in the making, channel c of a row being out[c / 32] of lane c % 32; max and
/// logits are in log2 units.
struct SlowRow {
  static constexpr int kLaneChannels = 8;  // head_dim <= 256
  float query[kLaneChannels] = {};
  float out[kLaneChannels] = {};
  semantics::SoftmaxState<float> state;
  float rest_sum = 0.0F;  // of the block means, part of state.sum
};

/// Takes one key that the row sees. All lanes of a warp.
template <typename Element>
__device__ inline void add_key(const AttentionParams& p, const QueryBlock& q, const KvRow& key,
                               SlowRow& row) {
  const KvAddress address = address_of(p, q, key, sizeof(Element));
  const auto* k = reinterpret_cast<const Element*>(address.k);
  const auto* v = reinterpret_cast<const Element*>(address.v);
  const int lane = static_cast<int>(threadIdx.x % 32);
  float dot = 0.0F;
#pragma unroll
  for (int i = 0; i < SlowRow::kLaneChannels; ++i) {
    const int channel = 32 * i + lane;
    if (channel < p.head_dim) dot += row.query[i] * to_float(k[channel]);
  }
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) dot += __shfl_xor_sync(0xFFFFFFFFU, dot, lanes);
  const float logit = p.scale_log2 * dot + log2_weight(key.weight) + log2_rest_mass(p, q, key);
  const float max = fmaxf(row.state.max, logit);
  const float rescale = row.state.max == max ? 1.0F : exp2f(row.state.max - max);
  const float probability = logit == -INFINITY ? 0.0F : exp2f(logit - max);
  row.state = {max, row.state.sum * rescale + probability};
  row.rest_sum = row.rest_sum * rescale + (key.code == semantics::kBlockMeanCode ? probability : 0);
#pragma unroll
  for (int i = 0; i < SlowRow::kLaneChannels; ++i) {
    const int channel = 32 * i + lane;
    if (channel < p.head_dim) {
      row.out[i] = row.out[i] * rescale + probability * to_float(v[channel]);
    }
  }
}

/// Whether every channel is NaN already, so that no further key changes anything.
__device__ inline bool is_all_nan(const SlowRow& row, int head_dim) {
  bool is_nan = true;
#pragma unroll
  for (int i = 0; i < SlowRow::kLaneChannels; ++i) {
    const int channel = 32 * i + static_cast<int>(threadIdx.x % 32);
    is_nan = is_nan && (channel >= head_dim || isnan(row.out[i]));
  }
  return __all_sync(0xFFFFFFFFU, is_nan) != 0;
}

/// Adds the first-order term (S-23). All lanes of a warp.
template <typename Element>
__device__ inline void add_first_order(const AttentionParams& p, const QueryBlock& q,
                                       SlowRow& row) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float share = row.rest_sum * p.map_factor[first_order_block_of(p, q)];
  float term[SlowRow::kLaneChannels] = {};
#pragma unroll
  for (int j = 0; j < SlowRow::kLaneChannels; ++j) {
    for (int source = 0; source < 32 && 32 * j + source < p.head_dim; ++source) {
      const float query = __shfl_sync(0xFFFFFFFFU, row.query[j], source);
#pragma unroll
      for (int i = 0; i < SlowRow::kLaneChannels; ++i) {
        const int channel = 32 * i + lane;
        if (channel >= p.head_dim) continue;
        const auto* map =
            reinterpret_cast<const Element*>(first_order_row(p, q, channel, sizeof(Element)));
        term[i] += query * to_float(map[32 * j + source]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < SlowRow::kLaneChannels; ++i) {
    if (isfinite(term[i] * share)) row.out[i] += term[i] * share;
  }
}

/// Writes row `row_in_block` of the query block to out again; lse stays as it is. All lanes of a
/// warp; what they wrote to that row before must be ordered by __syncwarp.
template <typename Element>
__device__ void recompute_row(const AttentionParams& p, const QueryBlock& q, int row_in_block) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const index_t token = query_token(p, q, q.q_begin + row_in_block);
  const auto* query = reinterpret_cast<const Element*>(p.q.data) + q.batch * p.q.batch_stride +
                      q.head * p.q.head_stride + token * p.q.token_stride;
  SlowRow row;
#pragma unroll
  for (int i = 0; i < SlowRow::kLaneChannels; ++i) {
    const int channel = 32 * i + lane;
    if (channel < p.head_dim) row.query[i] = to_float(query[channel]);
  }
  const std::uint8_t* codes = p.levels + map_row_of(p, q) * p.num_kv_blocks;
  const int blocks = readable_blocks(p, q);
  for (int block = 0; block < blocks && !is_all_nan(row, p.head_dim); ++block) {
    const int code = codes[block];
    if (code >= kNumLevelCodes || ((p.readable_codes >> code) & 1U) == 0) continue;
    const semantics::Range pooled = semantics::pooled_range(block, p.block_kv, code, q.len_kv);
    for (index_t r = pooled.begin; r < pooled.end; ++r) {
      const semantics::Range tokens =
          semantics::pooled_tokens(r, semantics::pool_factor(code, p.block_kv), q.len_kv);
      KvRow key{};
      key.is_real = true;
      key.code = code;
      key.block = block;
      key.row = static_cast<int>(r);
      key.weight = static_cast<int>(tokens.size());
      key.last = static_cast<int>(tokens.end) - 1;
      if (!semantics::is_visible(p.is_causal, key.last, q.first_position + row_in_block)) break;
      add_key<Element>(p, q, key, row);
    }
  }
  if (p.map != nullptr) add_first_order<Element>(p, q, row);
  auto* out = reinterpret_cast<Element*>(p.out.data) + q.batch * p.out.batch_stride +
              q.head * p.out.head_stride + token * p.out.token_stride;
#pragma unroll
  for (int i = 0; i < SlowRow::kLaneChannels; ++i) {
    const int channel = 32 * i + lane;
    if (channel < p.head_dim) {
      out[channel] = from_float<Element>(row.out[i] * semantics::normaliser(row.state));
    }
  }
}

}  // namespace psa::cuda
