// SPDX-License-Identifier: Apache-2.0

// Content orders of the CPU backend on every instruction set of this machine. Where clusters are
// well apart, rounding cannot move a token, and the order is that of the reference.

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>
#include <string>

#include "cpu/backend.hpp"
#include "reference/backend.hpp"
#include "semantics/importance.hpp"
#include "semantics/reorder.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

/// Tokens around as many points as there are clusters, much closer to theirs than the points to
/// each other. Each cluster starts at a token of another point.
void draw_clusters(Tensor& tensor, const core::Geometry& g, semantics::Side side) {
  std::mt19937_64 generator(82);
  std::normal_distribution<float> near(0.0F, 0.05F);
  const bool is_query = side == semantics::Side::kQuery;
  const index_t clusters = is_query ? g.config.clusters_q : g.config.clusters_kv;
  const auto [batch, heads, tokens, channels] = tensor.shape();
  const index_t video = tokens - g.layout.text_tokens;
  const index_t first_video = g.layout.text_side == TextSide::kFront ? g.layout.text_tokens : 0;
  for (index_t i = 0; i < batch * heads; ++i) {
    std::vector<index_t> point(static_cast<std::size_t>(tokens));
    for (index_t& p : point) p = static_cast<index_t>(generator() % 64) % clusters;
    for (index_t c = 0; c < clusters && clusters <= video; ++c) {
      const auto hash = semantics::sample_hash(g.config.seed, side, i / heads, i % heads, c);
      const index_t token = semantics::initial_centroid(c, clusters, video, hash);
      point[static_cast<std::size_t>(first_video + token)] = c;
    }
    for (index_t t = 0; t < tokens; ++t) {
      for (index_t c = 0; c < channels; ++c) {
        const bool high = (point[static_cast<std::size_t>(t)] >> (c % 4) & 1) != 0;
        tensor.set(i / heads, i % heads, t, c, (high ? 4.0F : -4.0F) + near(generator));
      }
    }
  }
}

Problem cluster_problem(DType dtype) {
  Problem problem;
  problem.shape = {.batch = 2,
                   .heads_q = 2,
                   .heads_kv = 1,
                   .len_q = 333,
                   .len_kv = 333,
                   .head_dim = 20,
                   .dtype_q = dtype,
                   .dtype_kv = dtype};
  problem.config.reorder = Reorder::kKMeans;
  problem.config.clusters_q = 7;
  problem.config.clusters_kv = 150;
  return problem;
}

TEST(CpuCluster, OrdersWellSeparatedTokensLikeTheReference) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const index_t text : {0, 30, 333}) {
      for (const TextSide side : {TextSide::kFront, TextSide::kBack}) {
        Problem problem = cluster_problem(dtype);
        problem.config.clusters_kv = 9;
        problem.layout = {.text_tokens = text, .text_side = side};
        const core::Geometry g = problem.geometry();
        QkvTensors tensors = random_qkv(problem, 81, MemoryLayout::kPadded);
        draw_clusters(tensors.q, g, semantics::Side::kQuery);
        draw_clusters(tensors.k, g, semantics::Side::kKey);
        const auto expected = StageRunner(reference::backend(), g).cluster(tensors.inputs());
        for (const core::Backend& backend : cpu::all_backends()) {
          const auto order = StageRunner(backend, g, {.threads = 2}).cluster(tensors.inputs());
          EXPECT_EQ(order.q_index, expected.q_index) << backend.isa << " text " << text;
          EXPECT_EQ(order.kv_index, expected.kv_index) << backend.isa << " text " << text;
        }
      }
    }
  }
}

/// Every token becomes a copy of one of the first `points`.
void repeat_points(Tensor& tensor, index_t points) {
  const auto [batch, heads, tokens, channels] = tensor.shape();
  for (index_t i = 0; i < batch * heads; ++i) {
    for (index_t t = points; t < tokens; ++t) {
      for (index_t c = 0; c < channels; ++c) {
        const float x = tensor.get(i / heads, i % heads, t % points, c);
        tensor.set(i / heads, i % heads, t, c, x);
      }
    }
  }
}

TEST(CpuCluster, MovesCentroidsLikeTheReference) {
  // With 60 points for 25 clusters some clusters start at the same point, stay empty in the first
  // round and win tokens later.
  for (const index_t points : {index_t{333}, index_t{60}}) {
    Problem problem = cluster_problem(DType::kF32);
    problem.config.clusters_kv = 25;
    QkvTensors tensors = random_qkv(problem, 85);
    repeat_points(tensors.q, points);
    repeat_points(tensors.k, points);
    const auto expected =
        StageRunner(reference::backend(), problem.geometry()).cluster(tensors.inputs());
    for (const core::Backend& backend : cpu::all_backends()) {
      const auto order = StageRunner(backend, problem.geometry()).cluster(tensors.inputs());
      EXPECT_EQ(order.q_index, expected.q_index) << backend.isa;
      EXPECT_EQ(order.kv_index, expected.kv_index) << backend.isa;
    }
    problem.config.kmeans_iterations -= 1;
    const auto fewer =
        StageRunner(reference::backend(), problem.geometry()).cluster(tensors.inputs());
    EXPECT_NE(fewer.q_index, expected.q_index) << "the last round moved nothing";
  }
}

TEST(CpuCluster, GivesAPermutationOfAnyTokens) {
  Problem problem = cluster_problem(DType::kBF16);
  problem.layout.text_tokens = 11;
  const core::Geometry g = problem.geometry();
  QkvTensors tensors = random_qkv(problem, 84);
  tensors.k.set(1, 0, 100, 3, std::numeric_limits<float>::quiet_NaN());
  tensors.k.set(0, 0, 200, 3, std::numeric_limits<float>::infinity());
  for (const core::Backend& backend : cpu::all_backends()) {
    const auto one = StageRunner(backend, g).cluster(tensors.inputs(), /*with_queries=*/false);
    const auto many = StageRunner(backend, g, {.threads = 3}).cluster(tensors.inputs());
    EXPECT_TRUE(one.q_index.empty());
    EXPECT_EQ(one.kv_index, many.kv_index) << backend.isa;
    for (const auto* index : {&many.q_index, &many.kv_index}) {
      for (std::size_t first = 0; first < index->size(); first += 333) {
        const auto begin = index->begin() + static_cast<index_t>(first);
        std::vector<std::int32_t> sorted(begin, begin + 333);
        EXPECT_EQ(sorted[322], 0) << "text comes last, in its own order";
        std::sort(sorted.begin(), sorted.end());
        std::vector<std::int32_t> all(333);
        std::iota(all.begin(), all.end(), 0);
        EXPECT_EQ(sorted, all) << backend.isa;
      }
    }
  }
}

}  // namespace
}  // namespace psa::testing
