// SPDX-License-Identifier: Apache-2.0

// Cluster stage: content-based working orders (S-20; the place of the text: S-19).
//
//   in   q [B, Hq, Lq, D], k [B, Hkv, Lkv, D]
//   out  q_index [B, Hq, Lq], kv_index [B, Hkv, Lkv]; each may be null
//
// Per head, on the video tokens: C = min(configured, tokens) centroids start as drawn tokens; each
// round assigns every token to the centroid of least |c|^2 - 2 x.c (ties to the lower c, NaN as
// +inf) and moves each non-empty cluster to its mean. The order is by (last label, token), the text
// follows in its own order.
//
// Cost: 2 * tokens * C * D per round.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "reference/rows.hpp"
#include "reference/stages.hpp"
#include "semantics/importance.hpp"
#include "semantics/reorder.hpp"

namespace psa::reference {
namespace {

using semantics::Range;
using semantics::Side;

/// What is clustered: the queries or the keys of one head.
struct ClusterTask {
  Side side;
  index_t batch;
  index_t head;
  index_t clusters;  // configured
  Range text;        // tokens of the caller's sequence
};

/// |c|^2 - 2 x.c: the squared distance without |x|^2, which is the same for every c.
double distance(const Row& x, const Row& centroid) {
  const double d = dot(centroid, centroid) - 2.0 * dot(x, centroid);
  return std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
}

std::size_t nearest(const Row& x, const std::vector<Row>& centroids) {
  std::size_t best = 0;
  for (std::size_t c = 1; c < centroids.size(); ++c) {
    if (distance(x, centroids[c]) < distance(x, centroids[best])) best = c;
  }
  return best;
}

/// Empty clusters keep their centroid.
void move_to_means(const std::vector<Row>& rows, const std::vector<std::size_t>& labels,
                   std::vector<Row>& centroids) {
  for (std::size_t c = 0; c < centroids.size(); ++c) {
    Row sum(centroids[c].size(), 0.0);
    double members = 0.0;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      if (labels[r] != c) continue;
      members += 1.0;
      for (std::size_t d = 0; d < sum.size(); ++d) sum[d] += rows[r][d];
    }
    if (members == 0.0) continue;
    for (std::size_t d = 0; d < sum.size(); ++d) centroids[c][d] = sum[d] / members;
  }
}

/// Label of each row. `rows` is not empty.
std::vector<std::size_t> cluster_rows(const Config& config, const ClusterTask& task,
                                      const std::vector<Row>& rows) {
  const auto tokens = static_cast<index_t>(rows.size());
  const index_t clusters = std::min(task.clusters, tokens);
  std::vector<Row> centroids;
  for (index_t c = 0; c < clusters; ++c) {
    const std::uint64_t hash =
        semantics::sample_hash(config.seed, task.side, task.batch, task.head, c);
    centroids.push_back(rows[to_size(semantics::initial_centroid(c, clusters, tokens, hash))]);
  }
  std::vector<std::size_t> labels(rows.size(), 0);
  for (int round = 0; round < config.kmeans_iterations; ++round) {
    for (std::size_t r = 0; r < rows.size(); ++r) labels[r] = nearest(rows[r], centroids);
    move_to_means(rows, labels, centroids);
  }
  return labels;
}

/// Writes the working order of one head: order[w] = token at position w.
void order_head(const Config& config, const ClusterTask& task, const TensorView& tensor,
                std::int32_t* order) {
  const auto rows = load_head(tensor, nullptr, task.batch, task.head);
  std::vector<std::int32_t> video_tokens;
  std::vector<Row> video_rows;
  std::vector<std::int32_t> text_tokens;
  for (index_t token = 0; token < tensor.shape[2]; ++token) {
    if (token >= task.text.begin && token < task.text.end) {
      text_tokens.push_back(static_cast<std::int32_t>(token));
      continue;
    }
    video_tokens.push_back(static_cast<std::int32_t>(token));
    video_rows.push_back(rows[to_size(token)]);
  }
  if (!video_tokens.empty()) {
    const std::vector<std::size_t> labels = cluster_rows(config, task, video_rows);
    std::vector<std::size_t> position(video_tokens.size());
    std::iota(position.begin(), position.end(), std::size_t{0});
    std::stable_sort(position.begin(), position.end(),
                     [&](std::size_t a, std::size_t b) { return labels[a] < labels[b]; });
    for (const std::size_t p : position) *order++ = video_tokens[p];
  }
  std::copy(text_tokens.begin(), text_tokens.end(), order);
}

/// S-18: where the text of q lies is known only when len_q = len_kv.
Range text_of(const core::Geometry& geometry, index_t len) {
  const TokenLayout& layout = geometry.layout;
  if (len != geometry.shape.len_kv) return {0, 0};
  return semantics::text_positions(layout.text_tokens, layout.text_side == TextSide::kFront, len);
}

}  // namespace

void cluster(const core::StageContext& context, const core::ClusterParams& params) {
  const core::Geometry& geometry = context.geometry;
  const ProblemShape& shape = geometry.shape;
  const Config& config = geometry.config;
  for (index_t b = 0; b < shape.batch; ++b) {
    for (index_t h = 0; params.q_index != nullptr && h < shape.heads_q; ++h) {
      order_head(config, {Side::kQuery, b, h, config.clusters_q, text_of(geometry, shape.len_q)},
                 params.inputs.q, params.q_index + (b * shape.heads_q + h) * shape.len_q);
    }
    for (index_t h = 0; params.kv_index != nullptr && h < shape.heads_kv; ++h) {
      order_head(config, {Side::kKey, b, h, config.clusters_kv, text_of(geometry, shape.len_kv)},
                 params.inputs.k, params.kv_index + (b * shape.heads_kv + h) * shape.len_kv);
    }
  }
}

}  // namespace psa::reference
