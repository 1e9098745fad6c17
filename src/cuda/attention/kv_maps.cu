// SPDX-License-Identifier: Apache-2.0
#include <optional>

#include "cuda/attention/kv_maps.cuh"
#include "cuda/tensor_map.cuh"
#include "semantics/pooling.hpp"

namespace psa::cuda {
namespace {

constexpr int kGroupRows = 8;

/// A level's rows as the five dimensions above.
struct View {
  const void* data;
  cuuint64_t heads_inside, groups, heads_outside;
  cuuint64_t row_bytes, outside_bytes;
};

/// How a [B, H, L, D] tensor folds into the view: the launch's heads as one dimension, else, heads
/// next to the columns where they lie there ([B, L, H, D] memory), all heads. A map begins at a row
/// that is there: copies in working order hold the launch's heads alone, and the copy engine
/// touches the first address of a map even for boxes outside of it.
std::optional<HeadCoordinates> fold_heads(const TokenRows& t, const AttentionParams& p,
                                          View& view) {
  constexpr int kElementBytes = 2;
  const int halves = p.head_dim / 64;
  view.groups = static_cast<cuuint64_t>(p.len_kv / kGroupRows);
  view.row_bytes = static_cast<cuuint64_t>(t.token_stride * kElementBytes);
  if (p.batch == 1 || t.batch_stride == p.heads_kv * t.head_stride) {
    view.data = t.data + p.heads.first * t.head_stride * kElementBytes;
    view.heads_inside = 1;
    view.heads_outside = static_cast<cuuint64_t>(p.heads.count);
    view.outside_bytes = static_cast<cuuint64_t>(t.head_stride * kElementBytes);
    return HeadCoordinates{0, 1, p.heads_kv, p.heads.first};
  }
  if (t.head_stride != p.head_dim) return std::nullopt;
  view.data = t.data;
  view.heads_inside = static_cast<cuuint64_t>(p.heads_kv);
  view.heads_outside = static_cast<cuuint64_t>(p.batch);
  view.outside_bytes = static_cast<cuuint64_t>(t.batch_stride * kElementBytes);
  return HeadCoordinates{halves, 0, 1, 0};
}

View pooled_view(const AttentionParams& p, const std::byte* data, index_t rows) {
  const auto row_bytes = static_cast<cuuint64_t>(p.head_dim * 2);
  return {data,
          1,
          static_cast<cuuint64_t>(rows / kGroupRows),
          static_cast<cuuint64_t>(p.batch) * static_cast<cuuint64_t>(p.heads_kv),
          row_bytes,
          static_cast<cuuint64_t>(rows) * row_bytes};
}

/// False where the hardware's rules on strides and sizes do not allow the view.
bool encode(CUtensorMap* map, const View& view, int head_dim, int piece_rows, DType dtype) {
  const auto halves = static_cast<cuuint64_t>(head_dim / 64);
  if (view.groups == 0 || piece_rows < kGroupRows) return false;
  // A dimension of one element still needs a stride that the hardware accepts.
  const cuuint64_t outside = view.heads_outside == 1 ? view.row_bytes : view.outside_bytes;
  return encode_tensor_map(
      {.data = view.data,
       .sizes = {64, kGroupRows, halves * view.heads_inside, view.groups, view.heads_outside},
       .stride_bytes = {view.row_bytes, 128, kGroupRows * view.row_bytes, outside},
       .box = {64, kGroupRows, static_cast<cuuint32_t>(halves),
               static_cast<cuuint32_t>(piece_rows / kGroupRows), 1}},
      dtype, *map);
}

}  // namespace

KvMaps make_kv_maps(const AttentionParams& p, DType dtype) {
  KvMaps maps{};
  if (p.head_dim != 64 && p.head_dim != 128) return maps;
  View k{};
  View v{};
  const auto k_head = fold_heads(p.k, p, k);
  const auto v_head = fold_heads(p.v, p, v);
  if (k_head && v_head && p.kv_order.index == nullptr &&
      encode(&maps.k[0], k, p.head_dim, p.block_kv, dtype) &&
      encode(&maps.v[0], v, p.head_dim, p.block_kv, dtype)) {
    maps.k_head = *k_head;
    maps.v_head = *v_head;
    maps.mapped_codes |= 1U << semantics::kFinestLevel;
  }
  for (int code = semantics::kFinestLevel + 1; code < kNumLevelCodes; ++code) {
    if (((p.readable_codes >> code) & 1U) == 0) continue;
    const index_t piece = p.block_kv / semantics::pool_factor(code, p.block_kv);
    const index_t rows = p.pooled_rows[code];
    if (encode(&maps.k[code - 1], pooled_view(p, p.pooled_k[code], rows), p.head_dim,
               static_cast<int>(piece), dtype) &&
        encode(&maps.v[code - 1], pooled_view(p, p.pooled_v[code], rows), p.head_dim,
               static_cast<int>(piece), dtype)) {
      maps.mapped_codes |= 1U << code;
    }
  }
  return maps;
}

}  // namespace psa::cuda
