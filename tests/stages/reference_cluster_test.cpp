// SPDX-License-Identifier: Apache-2.0

// The cluster stage of the reference backend (S-20).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "reference/backend.hpp"
#include "semantics/importance.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

using Order = std::vector<std::int32_t>;

Problem cluster_problem(index_t len, std::int32_t clusters, std::int32_t rounds) {
  Problem problem;
  problem.shape.len_q = len;
  problem.shape.len_kv = len;
  problem.shape.head_dim = 2;
  problem.config.reorder = Reorder::kKMeans;
  problem.config.clusters_q = clusters;
  problem.config.clusters_kv = clusters;
  problem.config.kmeans_iterations = rounds;
  return problem;
}

ClusterResult run(const Problem& problem, QkvTensors& in, bool with_queries = true) {
  return StageRunner(reference::backend(), problem.geometry()).cluster(in.inputs(), with_queries);
}

/// Two channels of a token of q and of k.
void set_token(QkvTensors& in, index_t token, float x, float y) {
  for (Tensor* t : {&in.q, &in.k}) {
    t->set(0, 0, token, 0, x);
    t->set(0, 0, token, 1, y);
  }
}

TEST(ReferenceCluster, S20EqualTokensKeepTheirOrder) {
  const Problem problem = cluster_problem(20, 4, 3);
  QkvTensors in = random_qkv(problem, 1);
  in.q.fill(1.0F);
  in.k.fill(1.0F);
  Order identity(20);
  std::iota(identity.begin(), identity.end(), 0);
  const ClusterResult result = run(problem, in);
  EXPECT_EQ(result.q_index, identity) << "ties go to cluster 0";
  EXPECT_EQ(result.kv_index, identity);
}

// Cluster 0 starts from one of tokens 0..5, all at 0; cluster 1 from one of tokens 6..11, of which
// this seed draws one at 10 for q and for k.
TEST(ReferenceCluster, S20TokensAreSortedByClusterThenByToken) {
  Problem problem = cluster_problem(12, 2, 4);
  problem.config.seed = 0;
  QkvTensors in = random_qkv(problem, 2);
  for (index_t l = 0; l < 12; ++l) {
    const bool is_far = l >= 6 && l != 7 && l != 10;
    set_token(in, l, is_far ? 10.0F : 0.0F, 0.0F);
  }
  const Order near_then_far{0, 1, 2, 3, 4, 5, 7, 10, 6, 8, 9, 11};
  const ClusterResult result = run(problem, in);
  EXPECT_EQ(result.q_index, near_then_far);
  EXPECT_EQ(result.kv_index, near_then_far);
}

TEST(ReferenceCluster, S20TextFollowsInItsOwnOrder) {
  for (const TextSide side : {TextSide::kFront, TextSide::kBack}) {
    Problem problem = cluster_problem(30, 3, 2);
    problem.layout.text_tokens = 7;
    problem.layout.text_side = side;
    QkvTensors in = random_qkv(problem, 3);
    const index_t first = side == TextSide::kFront ? 0 : 23;
    for (const Order& order : {run(problem, in).q_index, run(problem, in).kv_index}) {
      for (index_t t = 0; t < 7; ++t) {
        EXPECT_EQ(order[static_cast<std::size_t>(23 + t)], first + t);
      }
    }
  }
}

TEST(ReferenceCluster, S20TextIsNotClustered) {
  // With the text left out the video tokens are one cluster around 0; text values are extreme.
  Problem problem = cluster_problem(12, 2, 4);
  problem.layout.text_tokens = 2;
  QkvTensors plain = random_qkv(problem, 4);
  QkvTensors extreme = plain;
  set_token(extreme, 0, 1e6F, -1e6F);
  set_token(extreme, 1, -1e6F, 1e6F);
  EXPECT_EQ(run(problem, plain).kv_index, run(problem, extreme).kv_index);
}

TEST(ReferenceCluster, S20OneTokenOrTextOnly) {
  Problem one = cluster_problem(1, 4, 1);
  QkvTensors in = random_qkv(one, 5);
  EXPECT_EQ(run(one, in).q_index, Order{0});
  Problem text = cluster_problem(3, 4, 1);
  text.layout.text_tokens = 3;
  QkvTensors text_in = random_qkv(text, 5);
  EXPECT_EQ(run(text, text_in).kv_index, (Order{0, 1, 2}));
}

TEST(ReferenceCluster, S20TokensWithoutADistanceGoToTheFirstCluster) {
  const Problem problem = cluster_problem(9, 3, 2);
  QkvTensors in = random_qkv(problem, 6);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (index_t l = 0; l < 9; ++l) set_token(in, l, nan, nan);
  Order identity(9);
  std::iota(identity.begin(), identity.end(), 0);
  EXPECT_EQ(run(problem, in).kv_index, identity);
}

TEST(ReferenceCluster, HybridLeavesTheQueriesAlone) {
  const Problem problem = cluster_problem(40, 4, 2);
  QkvTensors in = random_qkv(problem, 7);
  const ClusterResult both = run(problem, in);
  const ClusterResult keys = run(problem, in, /*with_queries=*/false);
  EXPECT_TRUE(keys.q_index.empty());
  EXPECT_EQ(keys.kv_index, both.kv_index);
}

TEST(ReferenceCluster, S20QueriesOfAnotherLengthHaveNoText) {
  Problem problem = cluster_problem(30, 3, 2);
  problem.layout.text_tokens = 5;
  problem.shape.len_q = 20;
  QkvTensors in = random_qkv(problem, 8);
  const ClusterResult with_text = run(problem, in);
  problem.layout.text_tokens = 0;
  EXPECT_EQ(run(problem, in).q_index, with_text.q_index);
}

// ---- a second evaluation ------------------------------------------------------------------------

struct Lloyd {
  std::int32_t clusters;
  std::int32_t rounds;
  std::uint64_t seed;
  semantics::Side side;
};

/// Labels of one head, without text.
std::vector<std::size_t> lloyd_labels(const Tensor& t, index_t b, index_t h, const Lloyd& lloyd) {
  const index_t tokens = t.shape()[2];
  const index_t clusters = std::min<index_t>(lloyd.clusters, tokens);
  using Point = std::vector<double>;
  std::vector<Point> points;
  for (index_t l = 0; l < tokens; ++l) {
    Point p;
    for (index_t c = 0; c < t.shape()[3]; ++c) p.push_back(static_cast<double>(t.get(b, h, l, c)));
    points.push_back(p);
  }
  std::vector<Point> centroids;
  for (index_t c = 0; c < clusters; ++c) {
    const index_t begin = c * tokens / clusters;
    const index_t count = (c + 1) * tokens / clusters - begin;
    const std::uint64_t hash = semantics::sample_hash(lloyd.seed, lloyd.side, b, h, c);
    const std::uint64_t offset = hash % static_cast<std::uint64_t>(count);
    centroids.push_back(points[static_cast<std::size_t>(begin) + offset]);
  }
  std::vector<std::size_t> labels(points.size());
  for (int round = 0; round < lloyd.rounds; ++round) {
    std::vector<Point> sums(centroids.size(), Point(points[0].size(), 0.0));
    std::vector<double> counts(centroids.size(), 0.0);
    for (std::size_t l = 0; l < points.size(); ++l) {
      double best = std::numeric_limits<double>::infinity();
      for (std::size_t c = 0; c < centroids.size(); ++c) {
        double squared = 0.0;  // |x - c|^2 orders as |c|^2 - 2 x.c
        for (std::size_t d = 0; d < points[l].size(); ++d) {
          squared += (points[l][d] - centroids[c][d]) * (points[l][d] - centroids[c][d]);
        }
        if (squared < best) {
          best = squared;
          labels[l] = c;
        }
      }
      counts[labels[l]] += 1.0;
      for (std::size_t d = 0; d < points[l].size(); ++d) sums[labels[l]][d] += points[l][d];
    }
    for (std::size_t c = 0; c < centroids.size(); ++c) {
      if (counts[c] == 0.0) continue;
      for (std::size_t d = 0; d < sums[c].size(); ++d) centroids[c][d] = sums[c][d] / counts[c];
    }
  }
  return labels;
}

Order lloyd_order(const Tensor& t, index_t b, index_t h, const Lloyd& lloyd) {
  const std::vector<std::size_t> labels = lloyd_labels(t, b, h, lloyd);
  std::vector<std::pair<std::size_t, std::int32_t>> keyed;
  for (std::size_t l = 0; l < labels.size(); ++l) {
    keyed.emplace_back(labels[l], static_cast<std::int32_t>(l));
  }
  std::sort(keyed.begin(), keyed.end());
  Order order;
  for (const auto& [label, token] : keyed) order.push_back(token);
  return order;
}

class ReferenceClusterCases : public ::testing::TestWithParam<ProblemCase> {};

TEST_P(ReferenceClusterCases, S20OrderIsThatOfLloydsAlgorithm) {
  Problem problem = GetParam().problem;
  if (problem.config.causal) problem.config.causal = false;  // causal calls are not reordered
  problem.config.reorder = Reorder::kKMeans;
  problem.config.clusters_q = 5;
  problem.config.clusters_kv = 7;
  problem.config.kmeans_iterations = 3;
  problem.config.seed = 77;
  const ProblemShape& s = problem.shape;
  QkvTensors in = GetParam().make_inputs(9);
  const ClusterResult result = run(problem, in);
  for (index_t b = 0; b < s.batch; ++b) {
    for (index_t h = 0; h < s.heads_q; ++h) {
      const auto first = result.q_index.begin() + (b * s.heads_q + h) * s.len_q;
      EXPECT_EQ(Order(first, first + s.len_q),
                lloyd_order(in.q, b, h, {5, 3, 77, semantics::Side::kQuery}));
    }
    for (index_t h = 0; h < s.heads_kv; ++h) {
      const auto first = result.kv_index.begin() + (b * s.heads_kv + h) * s.len_kv;
      EXPECT_EQ(Order(first, first + s.len_kv),
                lloyd_order(in.k, b, h, {7, 3, 77, semantics::Side::kKey}));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, ReferenceClusterCases, ::testing::ValuesIn(problem_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace psa::testing
