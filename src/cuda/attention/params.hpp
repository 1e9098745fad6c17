// SPDX-License-Identifier: Apache-2.0
#pragma once

// What an attention kernel is given, by value. Letters: B batch, Hq and Hkv heads, Lq and Lk
// lengths, D head_dim, Nq and Nk blocks. Strides are in elements.

#include <cstddef>
#include <cstdint>

#include "core/backend.hpp"

namespace psa::cuda {

/// A [B, H, L, D] tensor of the caller, or rows behind it in working order.
struct TokenRows {
  std::byte* data;
  index_t batch_stride;
  index_t head_stride;
  index_t token_stride;
};

/// core::TokenOrder for the device: token at a position, null for the identity.
struct OrderView {
  const std::int32_t* index;
  index_t batch_stride;
  index_t head_stride;
};

/// KV heads that a launch serves, with their query heads; counted over the whole batch: head h of
/// batch element b is b · Hkv + h.
struct HeadRange {
  int first, count;
};

struct AttentionParams {
  TokenRows q;  // [B, Hq, Lq, D]
  TokenRows k;  // [B, Hkv, Lk, D]
  TokenRows v;
  OrderView q_order;
  OrderView kv_order;
  // Pooled rows by level code, contiguous [B, Hkv, pooled_rows, D]; null where a level is missing.
  const std::byte* pooled_k[kNumLevelCodes];
  const std::byte* pooled_v[kNumLevelCodes];
  index_t pooled_rows[kNumLevelCodes];
  const std::uint8_t* levels;      // [B, Hq, Nq, Nk]
  const std::int32_t* kv_lengths;  // [B] or null
  TokenRows out;                   // [B, Hq, Lq, D], the caller's token order
  float* lse;                      // [B, Hq, Lq] or null
  HeadRange heads;                 // of this launch
  // rest = linear: the maps of first_order.hpp and their factors; else null. By query heads of
  // `heads`: n = heads.count · Hq / Hkv of them.
  const std::byte* map;     // [n, Nq, D, map_row]
  const float* map_factor;  // [n, Nq]
  const float* rest_mass;   // [n, Nq, Nk]: log2 of what block means count more
  int map_row;
  std::int32_t* next_item;  // work counter, zero when the kernel starts
  int batch, heads_q, heads_kv;
  int len_q, len_kv, head_dim;
  int block_q, block_kv;
  int num_q_blocks, num_kv_blocks;
  int full_q_begin, full_q_blocks;  // query blocks that read everything, because of their text
  float scale_log2;                 // soft-max scale · log2(e)
  bool is_causal;
  std::uint32_t readable_codes;  // bit c: level code c can be read
};

/// The parameters of a launch of a call for `heads`, which are some of those that maps were made
/// for; host code.
[[nodiscard]] AttentionParams make_attention_params(const core::StageContext& context,
                                                    const core::AttentionParams& call,
                                                    HeadRange heads, HeadRange mapped);

}  // namespace psa::cuda
