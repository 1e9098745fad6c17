// SPDX-License-Identifier: Apache-2.0
#pragma once

// Factors of the rest (S-25): what the kernels of probe_keys.cuh and rest_factors.cu share.

#include "cuda/attention/kv_stream.cuh"
#include "cuda/device/kv_rows.cuh"
#include "cuda/first_order/first_order.hpp"
#include "semantics/blocks.hpp"
#include "semantics/first_order.hpp"
#include "semantics/rest_probes.hpp"

namespace psa::cuda {

constexpr int kProbes = static_cast<int>(semantics::kMostProbes);
constexpr unsigned kAllLanes = 0xFFFFFFFFU;

struct ProbeParams {
  AttentionParams call;
  FirstOrder work;
  int probes;
  // Rows of q, k and v are whole pieces of 16 bytes, those of k and v less than 4 GiB apart.
  bool is_aligned;
};

/// A query block of head `head` of the launch.
__device__ inline QueryBlock block_of(const ProbeParams& p, int head, int q_block) {
  const int group = p.call.heads_q / p.call.heads_kv;
  const int kv_head = p.work.heads.first + head / group;
  QueryBlock q{};
  q.batch = kv_head / p.call.heads_kv;
  q.head_kv = kv_head % p.call.heads_kv;
  q.head = q.head_kv * group + head % group;
  q.q_block = q_block;
  const semantics::Range rows = semantics::block_range(q.q_block, p.call.block_q, p.call.len_q);
  q.q_begin = static_cast<int>(rows.begin);
  q.q_rows = static_cast<int>(rows.size());
  q.len_kv = static_cast<int>(key_length(p.call.kv_lengths, q.batch, p.call.len_kv));
  q.first_position =
      static_cast<int>(semantics::causal_position(q.q_begin, p.call.len_q, q.len_kv));
  return q;
}

/// That of a probe row.
__device__ inline QueryBlock probe_block(const ProbeParams& p, int head, int probe) {
  return block_of(p, head,
                  static_cast<int>(semantics::probe_row(probe, p.call.len_q)) / p.call.block_q);
}

/// Whether a KV block is in the rest set of the query block that begins at `q_begin`: its first row
/// alone decides what is full.
__device__ inline bool is_rest(const ProbeParams& p, int q_begin, int len_kv, int code, int block) {
  const auto visibility = semantics::block_visibility(
      p.call.is_causal, {q_begin, q_begin + 1},
      semantics::block_range(block, p.call.block_kv, len_kv), p.call.len_q, len_kv);
  return semantics::is_in_rest_set(code, visibility);
}

}  // namespace psa::cuda
