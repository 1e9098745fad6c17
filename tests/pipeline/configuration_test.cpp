// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <string>

#include "core/geometry.hpp"
#include "psa/error.hpp"

namespace psa::core {
namespace {

struct Request {
  ProblemShape shape{1, 4, 2, 1000, 1000, 64};
  TokenLayout layout;
  Config config;
};

struct BadField {
  const char* name;     ///< must appear in the message
  const char* allowed;  ///< likewise
  std::function<void(Request&)> spoil;
};

const float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

const BadField kBadFields[] = {
    {"batch", "1..", [](Request& r) { r.shape.batch = 0; }},
    {"heads_q", "1..", [](Request& r) { r.shape.heads_q = -1; }},
    {"heads_q", "multiple of heads_kv", [](Request& r) { r.shape.heads_kv = 3; }},
    {"len_q", "1..", [](Request& r) { r.shape.len_q = 0; }},
    {"len_kv", "1..", [](Request& r) { r.shape.len_kv = std::int64_t{1} << 40; }},
    {"head_dim", "1..256", [](Request& r) { r.shape.head_dim = 257; }},
    {"dtype_q", "0..2", [](Request& r) { r.shape.dtype_q = static_cast<DType>(9); }},
    {"block_q", "16, 32, 64, 128", [](Request& r) { r.config.block_q = 48; }},
    {"block_kv", "16, 32, 64, 128", [](Request& r) { r.config.block_kv = 256; }},
    {"num_levels", "1..5", [](Request& r) { r.config.num_levels = 6; }},
    {"budget[0]", "0..1", [](Request& r) { r.config.budget[0] = kNaN; }},
    {"budget[1]", "0..1", [](Request& r) { r.config.budget[1] = -0.1F; }},
    {"budget[2]", "0..1", [](Request& r) { r.config.budget[2] = 1.5F; }},
    {"budget[1]", "cumulative", [](Request& r) { r.config.budget[1] = 0.01F; }},
    // S-24
    {"head_density has 3 entries", "heads_q is 4",
     [](Request& r) {
       r.config.head_density = {0.1F, 0.2F, 0.3F};
     }},
    {"head_density[3] is nan", "more than 0.0078125 (the block means alone), up to 1",
     [](Request& r) {
       r.config.head_density = {0.1F, 0.2F, 0.3F, kNaN};
     }},
    {"head_density[1] is 1.5", "up to 1",
     [](Request& r) {
       r.config.head_density = {0.1F, 1.5F, 0.3F, 0.4F};
     }},
    {"head_density[0] is 0.0078125", "more than 0.0078125",
     [](Request& r) {
       r.config.head_density = {0.0078125F, 0.2F, 0.3F, 0.4F};
     }},
    {"head_density[2] is 0;", "more than 0, up to 1",
     [](Request& r) {
       r.config.rest = Rest::kSkip;
       r.config.head_density = {0.1F, 0.2F, 0, 0.4F};
     }},
    {"head_density has 4 entries", "rule = threshold",
     [](Request& r) {
       r.config.rule = LevelRule::kThreshold;
       r.config.head_density = {0.1F, 0.2F, 0.3F, 0.4F};
     }},
    {"head_density has 4 entries", "compat = official",
     [](Request& r) {
       r.config.rest = Rest::kSkip;
       r.config.compat = Compat::kOfficial;
       r.config.head_density = {0.1F, 0.2F, 0.3F, 0.4F};
     }},
    {"head_density has 4 entries", "budget[0] = 1",
     [](Request& r) {
       r.config.budget = {1, 1, 1, 1, 1};
       r.config.head_density = {0.1F, 0.2F, 0.3F, 0.4F};
     }},
    {"head_density[3] is 0.4", "must equal head_density[2] of the same KV head, which is 0.3",
     [](Request& r) {
       r.config.share_group_map = true;
       r.config.head_density = {0.1F, 0.1F, 0.3F, 0.4F};
     }},
    {"samples_q", "0..128", [](Request& r) { r.config.samples_q = 129; }},
    {"samples_kv", "0..128", [](Request& r) { r.config.samples_kv = -1; }},
    {"antidiagonal_stride", "4, 8, 16", [](Request& r) { r.config.antidiagonal_stride = 5; }},
    {"pooled_tokens", "8, 16", [](Request& r) { r.config.pooled_tokens = 32; }},
    {"similarity_cap[1]", "-1..1",
     [](Request& r) {
       r.config.similarity_cap = {{0, 2, 0, 0}};
     }},
    {"sink_blocks", "0..", [](Request& r) { r.config.sink_blocks = -1; }},
    {"rest_cutoff", "0..block_kv = 128", [](Request& r) { r.config.rest_cutoff = -0.5F; }},
    {"rest_cutoff", "0..block_kv = 128", [](Request& r) { r.config.rest_cutoff = 129.0F; }},
    {"rest_cutoff", "0..block_kv", [](Request& r) { r.config.rest_cutoff = std::nanf(""); }},
    {"min_full_blocks", "0..", [](Request& r) { r.config.min_full_blocks = -1; }},
    {"tile[1]", "1..", [](Request& r) { r.config.tile[1] = 0; }},
    {"clusters_kv", "1..4096", [](Request& r) { r.config.clusters_kv = 5000; }},
    {"kmeans_iterations", "1..100", [](Request& r) { r.config.kmeans_iterations = 0; }},
    {"softmax_scale", "finite", [](Request& r) { r.config.softmax_scale = kInf; }},
    {"softmax_scale", ">= 0", [](Request& r) { r.config.softmax_scale = -1.0F; }},
    {"rule", "0..1", [](Request& r) { r.config.rule = static_cast<LevelRule>(2); }},
    {"budget_scope", "0..1",
     [](Request& r) { r.config.budget_scope = static_cast<BudgetScope>(2); }},
    {"importance", "0..4", [](Request& r) { r.config.importance = static_cast<Importance>(7); }},
    {"text_tokens", "0..1000", [](Request& r) { r.layout.text_tokens = 1001; }},
    {"grid", "len_kv",
     [](Request& r) {
       r.layout.grid = {3, 10, 10};
     }},
    {"grid", "len_kv",
     [](Request& r) {
       r.layout.grid = {0, 10, 100};
     }},
    {"grid.frames", "0..",
     [](Request& r) {
       r.layout.grid = {-1, 10, 100};
     }},
    {"grid", "needs frames", [](Request& r) { r.config.reorder = Reorder::kGilbert; }},
    {"reorder", "own order",
     [](Request& r) {
       r.config.causal = true;
       r.config.reorder = Reorder::kKMeans;
     }},
    {"len_q", "len_q = len_kv",
     [](Request& r) {
       r.layout.grid = {10, 10, 10};
       r.shape.len_q = 500;
       r.config.reorder = Reorder::kTile3d;
     }},
    {"block_kv", "must be 128",
     [](Request& r) {
       r.config.compat = Compat::kOfficial;
       r.config.block_kv = 64;
     }},
    // S-28
    {"budget_scope is head", "rule = quota",
     [](Request& r) {
       r.config.budget_scope = BudgetScope::kHead;
       r.config.rule = LevelRule::kThreshold;
     }},
    {"budget_scope is head", "causal",
     [](Request& r) {
       r.config.budget_scope = BudgetScope::kHead;
       r.config.causal = true;
     }},
    {"budget_scope is head", "compat = official",
     [](Request& r) {
       r.config.budget_scope = BudgetScope::kHead;
       r.config.compat = Compat::kOfficial;
       r.config.rest = Rest::kSkip;
     }},
    {"budget_scope is head", "min_full_blocks = 2",
     [](Request& r) {
       r.config.budget_scope = BudgetScope::kHead;
       r.config.min_full_blocks = 2;
     }},
    {"weigh_values is true", "must be false",
     [](Request& r) {
       r.config.compat = Compat::kOfficial;
       r.config.rest = Rest::kSkip;
       r.config.weigh_values = true;
     }},
    {"rest is mean", "must be skip", [](Request& r) { r.config.compat = Compat::kOfficial; }},
    {"rest is linear", "must be skip",
     [](Request& r) {
       r.config.compat = Compat::kOfficial;
       r.config.rest = Rest::kLinear;
     }},
};

TEST(Configuration, NamesTheFieldAtFaultAndWhatIsAllowed) {
  for (const BadField& bad : kBadFields) {
    Request request;
    bad.spoil(request);
    try {
      (void)make_geometry(request.shape, request.layout, request.config);
      ADD_FAILURE() << bad.name << " (" << bad.allowed << ") was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), Status::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find(bad.name), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(bad.allowed), std::string::npos) << error.what();
    }
  }
}

TEST(Configuration, ResolvesDefaults) {
  Request request;
  const Geometry g = make_geometry(request.shape, request.layout, request.config);
  EXPECT_EQ(g.num_q_blocks, 8);
  EXPECT_EQ(g.num_kv_blocks, 8);
  EXPECT_EQ(g.config.samples_q, 32);
  EXPECT_FLOAT_EQ(g.scale, 0.125F);
}

TEST(Configuration, CoarsestLevelMustFitTheBlock) {
  Request request;
  request.config.block_kv = 16;
  request.config.num_levels = 5;  // 16 tokens: the whole block
  EXPECT_NO_THROW((void)make_geometry(request.shape, request.layout, request.config));
}

TEST(Configuration, S19StaticOrdersPutTextLastAndAreBijections) {
  for (const TextSide side : {TextSide::kFront, TextSide::kBack}) {
    for (const Reorder reorder : {Reorder::kGilbert, Reorder::kTile3d, Reorder::kHybrid}) {
      Request request;
      request.layout = {7, side, {5, 9, 7}};
      request.shape.len_q = request.shape.len_kv = 5 * 9 * 7 + 7;
      request.config.reorder = reorder;
      const Geometry g = make_geometry(request.shape, request.layout, request.config);
      const auto order = make_static_order(g);
      ASSERT_EQ(order.size(), 322U);
      EXPECT_EQ(std::set<std::int32_t>(order.begin(), order.end()).size(), 322U);
      EXPECT_EQ(order[315], side == TextSide::kFront ? 0 : 315);
      EXPECT_EQ(order[0], side == TextSide::kFront ? 7 : 0);
    }
  }
}

TEST(Configuration, S18TextIsForcedWhereItLies) {
  Request request;
  request.layout.text_tokens = 100;
  Geometry g = make_geometry(request.shape, request.layout, request.config);
  EXPECT_EQ(g.forced.text_kv.begin, 0);
  EXPECT_EQ(g.forced.text_q.end, 100);
  request.layout.text_side = TextSide::kBack;
  request.shape.len_q = 1000 - 1;  // text positions of q are unknown now
  g = make_geometry(request.shape, request.layout, request.config);
  EXPECT_EQ(g.forced.text_kv.begin, 900);
  EXPECT_EQ(g.forced.text_q.size(), 0);
  request.config.text_keys_full = false;
  g = make_geometry(request.shape, request.layout, request.config);
  EXPECT_EQ(g.forced.text_kv.size(), 0);
}

}  // namespace
}  // namespace psa::core
