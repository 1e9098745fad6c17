// SPDX-License-Identifier: Apache-2.0
#include "core/geometry.hpp"
#include "cuda/attention/ordered_kv.hpp"
#include "cuda/device/kv_rows.cuh"
#include "cuda/grid.hpp"
#include "cuda/launch.cuh"

namespace psa::cuda {
namespace {

using Bits = std::uint16_t;  // an element, f16 or bf16

constexpr int kThreads = 256;
constexpr int kPieces = 4;  // of 16 bytes, of each side, that a thread has under way

struct CopyParams {
  KvRows<Bits> k, v;
  Bits* ordered_k;  // [heads, len_kv, row]
  Bits* ordered_v;
  HeadRange heads;
  std::uint32_t head_pieces;  // of a side: 32 GB where they are too many for 32 bits
  std::uint32_t ctas_per_head;
  int heads_kv, head_dim;
  int row;  // elements: head_dim up to a multiple of 8; the rest is 0
};

/// Elements of an ordered row: whole pieces, so that rows are aligned.
int row_elements(const core::Geometry& g) {
  return kThreadChannels * threads_per_row(g.shape.head_dim);
}

/// Elements of an ordered head.
index_t head_elements(const core::Geometry& g) { return g.shape.len_kv * row_elements(g); }

template <bool kAligned>
__global__ void __launch_bounds__(kThreads) copy_in_order(const __grid_constant__ CopyParams p) {
  const auto head = static_cast<int>(blockIdx.x / p.ctas_per_head);  // of the range
  const std::uint32_t first = blockIdx.x % p.ctas_per_head * (kThreads * kPieces) + threadIdx.x;
  const int of_call = p.heads.first + head;
  const KvHead<Bits> k = p.k.head(of_call / p.heads_kv, of_call % p.heads_kv);
  const KvHead<Bits> v = p.v.head(of_call / p.heads_kv, of_call % p.heads_kv);
  const std::uint32_t row_pieces = static_cast<std::uint32_t>(p.row) / kThreadChannels;
  uint4 keys[kPieces];
  uint4 values[kPieces];
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    // Behind the last piece it again, so that no load waits for a branch.
    const std::uint32_t piece = min(first + i * kThreads, p.head_pieces - 1);
    const index_t token = __ldg(k.order + piece / row_pieces);
    const int channel = static_cast<int>(piece % row_pieces) * kThreadChannels;
    keys[i] =
        load_channels<kAligned>(k.data + token * k.token_stride + channel, p.head_dim - channel);
    values[i] =
        load_channels<kAligned>(v.data + token * v.token_stride + channel, p.head_dim - channel);
  }
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const std::uint32_t piece = first + i * kThreads;
    if (piece >= p.head_pieces) return;
    const index_t to = index_t{head} * p.head_pieces + piece;
    reinterpret_cast<uint4*>(p.ordered_k)[to] = keys[i];
    reinterpret_cast<uint4*>(p.ordered_v)[to] = values[i];
  }
}

/// The ordered heads as a tensor of the call. Its data are those of head 0 of batch element 0,
/// which lie before the memory unless the range begins there.
TensorView ordered_view(const core::Geometry& g, const TensorView& given, HeadRange heads,
                        Bits* memory) {
  TensorView view = given;
  const index_t head = head_elements(g);
  view.data = memory - heads.first * head;
  view.stride = {g.shape.heads_kv * head, head, row_elements(g), 1};
  return view;
}

}  // namespace

std::size_t ordered_kv_bytes(const core::Geometry& g, int heads) {
  const bool is_ordered = g.config.reorder != Reorder::kNone && !core::is_dense(g);
  return is_ordered ? static_cast<std::size_t>(2 * heads * head_elements(g)) * sizeof(Bits) : 0;
}

core::AttentionParams with_ordered_kv(const core::StageContext& context,
                                      const core::AttentionParams& call, HeadRange heads,
                                      std::byte* memory) {
  const core::Geometry& g = context.geometry;
  if (call.inputs.kv_order.index == nullptr) return call;
  const index_t head = head_elements(g);
  CopyParams p{.k = kv_rows<Bits>(call.inputs.k, call.inputs.kv_order),
               .v = kv_rows<Bits>(call.inputs.v, call.inputs.kv_order),
               .ordered_k = reinterpret_cast<Bits*>(memory),
               .ordered_v = reinterpret_cast<Bits*>(memory) + heads.count * head,
               .heads = heads,
               .head_pieces = static_cast<std::uint32_t>(head / kThreadChannels),
               .ctas_per_head = 0,
               .heads_kv = static_cast<int>(g.shape.heads_kv),
               .head_dim = static_cast<int>(g.shape.head_dim),
               .row = row_elements(g)};
  p.ctas_per_head = (p.head_pieces + kThreads * kPieces - 1) / (kThreads * kPieces);
  const bool is_aligned = has_aligned_rows(call.inputs.k) && has_aligned_rows(call.inputs.v);
  const auto kernel = is_aligned ? copy_in_order<true> : copy_in_order<false>;
  const unsigned int ctas = grid_of(index_t{heads.count} * p.ctas_per_head);
  kernel<<<ctas, kThreads, 0, stream_of(context.stream)>>>(p);
  check_launch("copy_in_order");
  core::AttentionParams ordered = call;
  ordered.inputs.k = ordered_view(g, call.inputs.k, heads, p.ordered_k);
  ordered.inputs.v = ordered_view(g, call.inputs.v, heads, p.ordered_v);
  ordered.inputs.kv_order = {};
  return ordered;
}

}  // namespace psa::cuda
