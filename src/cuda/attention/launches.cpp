// SPDX-License-Identifier: Apache-2.0
#include "cuda/attention/launches.hpp"

#include <algorithm>

namespace psa::cuda {
namespace {

constexpr std::size_t kElementBytes = 2;  // backend.cu: all tensors are f16 or bf16
/// Rows in working order that a call without maps may have, where a fifth of K and V is less.
constexpr std::size_t kOrderedBytes = std::size_t{32} << 20;

/// head_dim from which copies pay: rows of 128 bytes come as fast as boxes.
constexpr index_t kLeastOrderedDim = 65;
/// Query blocks that a launch has at least where copies make several of one: with 512 the ends of
/// launches cost what boxes save (Wan 480p with four levels, H200), with 1182 they do not.
constexpr index_t kLeastQueryBlocks = 1024;

std::size_t bytes_of(const core::Geometry& g, HeadCounts counts) {
  const std::size_t ordered = counts.copies ? ordered_kv_bytes(g, counts.launched) : 0;
  if (g.config.rest != Rest::kLinear) return ordered;
  std::size_t bytes = 0;
  const FirstOrder work = carve_first_order(g, {0, counts.mapped}, nullptr, &bytes);
  return std::max(bytes, work.bytes_before_covariance + ordered);
}

/// With maps a quarter above K and V: one range for as many query as KV heads, in blocks of
/// head_dim rows. Else there is a pyramid beside it.
std::size_t most_bytes(const core::Geometry& g) {
  const ProblemShape& s = g.shape;
  const auto kv_bytes =
      static_cast<std::size_t>(2 * s.batch * s.heads_kv * s.len_kv * s.head_dim) * kElementBytes;
  if (g.config.rest == Rest::kLinear) return kv_bytes + kv_bytes / 4;
  return std::max(kv_bytes / 5, kOrderedBytes);
}

/// Heads of the largest of as few parts of `all` as `fits` allows.
template <typename Fits>
int part_of(int all, const Fits& fits) {
  int parts = 1;
  const auto heads = [&] { return (all + parts - 1) / parts; };
  while (heads() > 1 && !fits(heads())) ++parts;
  return heads();
}

}  // namespace

HeadCounts heads_at_a_time(const core::Geometry& g) {
  const auto all = static_cast<int>(g.shape.batch * g.shape.heads_kv);
  const std::size_t most = most_bytes(g);
  const int mapped = part_of(all, [&](int heads) {
    return bytes_of(g, {heads, heads, false}) <= most;
  });
  const HeadCounts whole{mapped, mapped, false};
  if (g.shape.head_dim < kLeastOrderedDim || ordered_kv_bytes(g, 1) == 0) return whole;
  const int launched = part_of(mapped, [&](int heads) {
    return bytes_of(g, {mapped, heads, true}) <= most;
  });
  const index_t query_blocks = launched * g.heads_per_kv() * g.num_q_blocks;
  const HeadCounts copied{mapped, launched, true};
  const bool fits = bytes_of(g, copied) <= std::max(most, bytes_of(g, whole));
  const bool pays = launched == mapped || query_blocks >= kLeastQueryBlocks;
  return fits && pays ? copied : whole;
}

std::size_t attention_bytes(const core::Geometry& g) { return bytes_of(g, heads_at_a_time(g)); }

}  // namespace psa::cuda
