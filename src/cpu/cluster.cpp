// SPDX-License-Identifier: Apache-2.0

// Cluster stage: content-based working orders (S-20; the place of the text: S-19).
//
//   in   q [B, Hq, Lq, D], k [B, Hkv, Lkv, D]
//   out  q_index [B, Hq, Lq], kv_index [B, Hkv, Lkv]; each may be null
//
// One work item is the queries or the keys of one head: Lloyd's algorithm on its video tokens. In a
// round 128 tokens at a time meet all centroids through the score kernel (tokens are the lanes,
// centroids the keys), so that the nearest centroid of a token is found without a reduction across
// lanes. The last round does not move the centroids, because only the labels are wanted. A counting
// sort by label keeps the tokens of a cluster in their own order.
//
// Cost: tokens * C * D multiply-adds per round.

#include <algorithm>
#include <limits>

#include "cpu/stages.hpp"
#include "semantics/importance.hpp"
#include "semantics/reorder.hpp"

namespace psa::cpu {
namespace {

using semantics::Range;
using semantics::Side;

struct ClusterScratch {
  float* centroids;      // [clusters, D]
  float* norms;          // [clusters], squared lengths
  float* sums;           // [clusters, D]
  std::int32_t* counts;  // [clusters + 1]
  std::int32_t* labels;  // [len + padding of the last pack]
  float* rows;           // [kMaxQueries, D]
  std::byte* tokens;     // query pack
  std::byte* keys;       // key tile
  float* scores;         // S^T
  float* distance;       // [kMaxQueries]
};

ClusterScratch carve(Ledger& ledger, const core::Geometry& g) {
  const auto dim = static_cast<std::size_t>(g.shape.head_dim);
  const index_t most = std::max(g.config.clusters_q, g.config.clusters_kv);
  const auto clusters = static_cast<std::size_t>(most);
  const auto tokens = static_cast<std::size_t>(std::max(g.shape.len_q, g.shape.len_kv));
  const int channels = static_cast<int>(g.shape.head_dim);
  ClusterScratch s{};
  s.centroids = ledger.take<float>(clusters * dim);
  s.norms = ledger.take<float>(clusters);
  s.sums = ledger.take<float>(clusters * dim);
  s.counts = ledger.take<std::int32_t>(clusters + 1);
  s.labels = ledger.take<std::int32_t>(tokens + kMaxQueries);
  s.rows = ledger.take<float>(output_floats(kMaxQueries, channels));
  s.tokens = ledger.take<std::byte>(query_pack_bytes(Compute::kF32, kMaxQueries, channels));
  s.keys = ledger.take<std::byte>(tile_bytes(Compute::kF32, channels));
  s.scores = ledger.take<float>(score_floats(kMaxQueries));
  s.distance = ledger.take<float>(kMaxQueries);
  return s;
}

/// The queries or the keys of one head.
struct ClusterHead {
  const Isa& isa;
  Side side;
  index_t batch;
  index_t head;
  InputRows rows;  // of the first video token
  index_t tokens;  // video tokens
  index_t clusters;
  int head_dim;

  [[nodiscard]] InputRows rows_from(index_t token) const {
    InputRows from = rows;
    from.first += token;
    return from;
  }
};

void start_centroids(const ClusterHead& head, std::uint64_t seed, const ClusterScratch& s) {
  for (index_t c = 0; c < head.clusters; ++c) {
    const std::uint64_t hash = semantics::sample_hash(seed, head.side, head.batch, head.head, c);
    const index_t token = semantics::initial_centroid(c, head.clusters, head.tokens, hash);
    head.isa.rows->load_floats(head.rows_from(token), 1, head.head_dim,
                               s.centroids + c * head.head_dim);
  }
}

/// Labels of `count` tokens from `first` on.
void label_pack(const ClusterHead& head, index_t first, int count, const ClusterScratch& s) {
  const TileKernels& tiles = *head.isa.f32;
  TileStep step;
  step.shape = {count, head.head_dim};
  step.queries = s.tokens;
  step.key_tile = s.keys;
  step.scores = s.scores;
  tiles.pack_queries(step.shape, head.rows_from(first), s.tokens);
  std::fill_n(s.distance, kMaxQueries, std::numeric_limits<float>::infinity());
  std::int32_t* labels = s.labels + first;
  std::fill_n(labels, padded_queries(count), 0);
  for (index_t c = 0; c < head.clusters; c += kMaxTileKeys) {
    step.keys = static_cast<int>(std::min<index_t>(kMaxTileKeys, head.clusters - c));
    tiles.load_keys({.data = s.centroids, .stride = head.head_dim, .first = c},
                    {s.keys, head.head_dim, 0, step.keys});
    tiles.scores(step, /*accumulate=*/false);
    head.isa.rows->nearest({.shape = step.shape,
                            .scores = s.scores,
                            .norm = s.norms + c,
                            .first = static_cast<std::int32_t>(c),
                            .count = step.keys,
                            .distance = s.distance,
                            .label = labels});
  }
}

void label_tokens(const ClusterHead& head, const ClusterScratch& s) {
  for (index_t c = 0; c < head.clusters; ++c) {
    const float* centroid = s.centroids + c * head.head_dim;
    s.norms[c] = head.isa.rows->dot(centroid, centroid, head.head_dim);
  }
  for (index_t first = 0; first < head.tokens; first += kMaxQueries) {
    const index_t count = std::min<index_t>(kMaxQueries, head.tokens - first);
    label_pack(head, first, static_cast<int>(count), s);
  }
}

/// Empty clusters keep their centroid.
void move_centroids(const ClusterHead& head, const ClusterScratch& s) {
  const index_t dim = head.head_dim;
  std::fill_n(s.sums, head.clusters * dim, 0.0F);
  std::fill_n(s.counts, head.clusters, 0);
  for (index_t first = 0; first < head.tokens; first += kMaxQueries) {
    const index_t count = std::min<index_t>(kMaxQueries, head.tokens - first);
    head.isa.rows->load_floats(head.rows_from(first), static_cast<int>(count), head.head_dim,
                               s.rows);
    for (index_t r = 0; r < count; ++r) {
      const std::int32_t label = s.labels[first + r];
      head.isa.rows->add(s.rows + r * dim, head.head_dim, s.sums + label * dim);
      ++s.counts[label];
    }
  }
  for (index_t c = 0; c < head.clusters; ++c) {
    if (s.counts[c] == 0) continue;
    head.isa.rows->store_mean(s.sums + c * dim, static_cast<float>(s.counts[c]), head.head_dim,
                              DType::kF32, s.centroids + c * dim);
  }
}

/// order[w] = video token at position w, by (label, token).
void sort_by_label(const ClusterHead& head, const ClusterScratch& s, index_t first_token,
                   std::int32_t* order) {
  std::fill_n(s.counts, head.clusters + 1, 0);
  for (index_t t = 0; t < head.tokens; ++t) ++s.counts[s.labels[t] + 1];
  for (index_t c = 0; c < head.clusters; ++c) s.counts[c + 1] += s.counts[c];
  for (index_t t = 0; t < head.tokens; ++t) {
    order[s.counts[s.labels[t]]++] = static_cast<std::int32_t>(first_token + t);
  }
}

/// Tokens that are text; unknown where the sequence is not that of the keys (S-18).
Range text_of(const core::Geometry& g, index_t len) {
  if (len != g.shape.len_kv) return {0, 0};
  return semantics::text_positions(g.layout.text_tokens, g.layout.text_side == TextSide::kFront,
                                   len);
}

void order_head(const core::Geometry& g, ClusterHead head, index_t len, const ClusterScratch& s,
                std::int32_t* order) {
  const Range text = text_of(g, len);
  const index_t first_video = text.begin == 0 ? text.end : 0;
  head.tokens = len - text.size();
  head.clusters = std::min(head.clusters, head.tokens);
  head.rows.first = first_video;
  if (head.tokens > 0) {
    start_centroids(head, g.config.seed, s);
    label_tokens(head, s);
    for (int round = 1; round < g.config.kmeans_iterations; ++round) {
      move_centroids(head, s);
      label_tokens(head, s);
    }
    sort_by_label(head, s, first_video, order);
  }
  for (index_t t = 0; t < text.size(); ++t) {
    order[head.tokens + t] = static_cast<std::int32_t>(text.begin + t);
  }
}

}  // namespace

void cluster(const Isa& isa, const StageContext& context, const core::ClusterParams& params) {
  const core::Geometry& g = context.geometry;
  const index_t work_bytes = static_cast<index_t>(cluster_bytes(g));
  const auto order_all = [&](Side side, const TensorView& tensor, index_t clusters,
                             std::int32_t* index) {
    if (index == nullptr) return;
    const index_t heads = tensor.shape[1];
    const index_t len = tensor.shape[2];
    context.executor.for_each(tensor.shape[0] * heads, [&](index_t item, int worker) {
      Ledger ledger(params.work + worker * work_bytes);
      const ClusterScratch scratch = carve(ledger, g);
      const ClusterHead head{.isa = isa,
                             .side = side,
                             .batch = item / heads,
                             .head = item % heads,
                             .rows = head_rows(tensor, {}, item / heads, item % heads, 0),
                             .tokens = 0,
                             .clusters = clusters,
                             .head_dim = static_cast<int>(g.shape.head_dim)};
      order_head(g, head, len, scratch, index + item * len);
    });
  };
  order_all(Side::kQuery, params.inputs.q, g.config.clusters_q, params.q_index);
  order_all(Side::kKey, params.inputs.k, g.config.clusters_kv, params.kv_index);
}

std::size_t cluster_bytes(const core::Geometry& geometry) {
  Ledger ledger(nullptr);
  carve(ledger, geometry);
  return ledger.bytes();
}

}  // namespace psa::cpu
