// SPDX-License-Identifier: Apache-2.0
// psa::run of the installed C++ layer: what it computes and what it refuses.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <psa/psa.hpp>
#include <vector>

#include "capi/call.hpp"

namespace psa::testing {
namespace {

using ::testing::Each;

struct BadTensor {
  const char* message;
  void (*spoil)(Call&);
};

const BadTensor kBadTensors[] = {
    {"q.data is null", [](Call& c) { c.io.q.data = nullptr; }},
    {"out.data is null", [](Call& c) { c.io.out.data = nullptr; }},
    {"q.shape[2] (token) is 59; the plan was made for 60", [](Call& c) { c.io.q.shape[2] = 59; }},
    {"q.shape[1] (head) is 2; the plan was made for 4", [](Call& c) { c.io.q.shape[1] = 2; }},
    {"v.shape[2] (token) is 99; the plan was made for 100", [](Call& c) { c.io.v.shape[2] = 99; }},
    {"k.shape[3] (channel) is 8; the plan was made for 16", [](Call& c) { c.io.k.shape[3] = 8; }},
    {"out.shape[0] (batch) is 1; the plan was made for 2", [](Call& c) { c.io.out.shape[0] = 1; }},
    {"k is bf16; the plan was made for f32", [](Call& c) { c.io.k.dtype = DType::kBF16; }},
    {"q is dtype 9; the plan", [](Call& c) { c.io.q.dtype = static_cast<DType>(9); }},
    {"v is not in host memory", [](Call& c) { c.io.v.device.type = DeviceType::kCuda; }},
    {"q.stride[3] (channel) is 2; allowed: 1", [](Call& c) { c.io.q.stride[3] = 2; }},
    {"k.stride[1] is -1600; allowed: >= 0", [](Call& c) { c.io.k.stride[1] = -1600; }},
    {"out.stride[1] is 0", [](Call& c) { c.io.out.stride[1] = 0; }},
    {"out overlaps q", [](Call& c) { c.io.out.data = c.io.q.data; }},
    {"out overlaps k", [](Call& c) { c.io.out.data = c.k.data() + 16; }},
    {"out overlaps v",
     [](Call& c) {
       c.v.resize(c.v.size() + c.out.size());
       c.io.v.data = c.v.data();
       c.io.out.data = c.v.data() + 1;
     }},
};

TEST(CxxRun, RefusesBadTensorsBeforeItWrites) {
  for (const BadTensor& bad : kBadTensors) {
    Call call;
    bad.spoil(call);
    expect_error(Status::kInvalidArgument, bad.message, [&] { call.run(); });
    EXPECT_THAT(call.out, Each(7.0F)) << bad.message;
  }
}

TEST(CxxRun, RefusesBadWorkspaces) {
  Call call;
  const std::span<std::byte> good = call.workspace.bytes();
  expect_error(Status::kOutOfMemory, "this plan needs",
               [&] { psa::run(call.plan, call.io, good.first(good.size() - 1)); });
  expect_error(Status::kOutOfMemory, "workspace has 0 bytes",
               [&] { psa::run(call.plan, call.io, {}); });
  Workspace larger(good.size() + 8);
  expect_error(Status::kInvalidArgument, "workspace is not aligned to 64 bytes",
               [&] { psa::run(call.plan, call.io, larger.bytes().subspan(8)); });
  EXPECT_THAT(call.out, Each(7.0F));
}

TEST(CxxRun, RefusesBadKeyLengths) {
  Call call;
  std::vector<std::int32_t> lengths{100, 101};
  call.io.kv_lengths = lengths.data();
  expect_error(Status::kInvalidArgument, "kv_lengths[1] is 101; allowed: 0..100",
               [&] { call.run(); });
  lengths = {-1, 100};
  expect_error(Status::kInvalidArgument, "kv_lengths[0] is -1", [&] { call.run(); });
  lengths = {0, 100};
  call.run();
  EXPECT_EQ(call.out[0], 0.0F);
}

TEST(CxxRun, NeedsScoresWhenTheCallerGivesThem) {
  Request request;
  request.config.importance = Importance::kUserScores;
  Call call(request);
  expect_error(Status::kInvalidArgument, "scores is null", [&] { call.run(); });
  const std::vector<float> scores(call.codes.size(), 1.0F);
  call.io.scores = scores.data();
  call.run();
}

TEST(CxxRun, RefusesForeignLevelMaps) {
  Call call;
  LevelMapView levels = call.levels();
  const auto run = [&] {
    psa::run_with_levels(call.plan, call.io, levels, call.workspace.bytes());
  };
  levels.heads = 2;
  expect_error(Status::kInvalidArgument, "levels.heads is 2; this plan needs 4", run);
  levels = call.levels();
  levels.num_kv_blocks = 8;
  expect_error(Status::kInvalidArgument, "levels.num_kv_blocks is 8; this plan needs 7", run);
  levels = call.levels();
  levels.data = nullptr;
  expect_error(Status::kInvalidArgument, "levels.data is null", run);
  levels = call.levels();
  call.codes[3] = 5;  // the plan has 4 levels
  expect_error(Status::kInvalidArgument, "levels[3] is 5; the plan allows 0..4 and 6", run);
  EXPECT_THAT(call.out, Each(7.0F));
}

TEST(CxxRun, ReportsWhatItDid) {
  Call call;
  call.io.levels_out = call.codes.data();
  std::vector<float> lse(static_cast<std::size_t>(2 * 4 * 60), -1e30F);
  call.io.lse = lse.data();
  RunStats stats;
  psa::run(call.plan, call.io, call.workspace.bytes(), {}, &stats);
  EXPECT_EQ(std::accumulate(stats.blocks.begin(), stats.blocks.end(), index_t{0}),
            call.plan.level_map_size());
  EXPECT_GT(stats.blocks[1], 0);
  EXPECT_GT(stats.density, 0.0);
  EXPECT_LT(stats.density, 1.0);
  EXPECT_GT(stats.selection_cost, 0.0);
  EXPECT_DOUBLE_EQ(stats.total_ms(), stats.reorder_ms + stats.pyramid_ms + stats.importance_ms +
                                         stats.levels_ms + stats.attention_ms);
  EXPECT_THAT(call.codes, Each(::testing::Lt(kNumLevelCodes)));
  EXPECT_THAT(lse, Each(::testing::Gt(-20.0F)));
}

TEST(CxxRun, TakesTheMapOfAnotherRun) {
  Call call;
  call.io.levels_out = call.codes.data();
  call.run();
  const std::vector<float> selected = call.out;
  call.io.levels_out = nullptr;
  call.out.assign(call.out.size(), 7.0F);
  psa::run_with_levels(call.plan, call.io, call.levels(), call.workspace.bytes());
  EXPECT_EQ(call.out, selected);
}

TEST(CxxRun, ReadsTokenMajorMemoryAsAView) {
  Call call;
  call.run();
  const ProblemShape& s = call.shape;
  std::vector<float> q_blhd(call.q.size());
  for (index_t i = 0; i < std::ssize(call.q); ++i) {
    const index_t c = i % s.head_dim;
    const index_t t = i / s.head_dim % s.len_q;
    const index_t h = i / s.head_dim / s.len_q % s.heads_q;
    const index_t b = i / s.head_dim / s.len_q / s.heads_q;
    q_blhd[static_cast<std::size_t>(((b * s.len_q + t) * s.heads_q + h) * s.head_dim + c)] =
        call.q[static_cast<std::size_t>(i)];
  }
  const std::vector<float> from_bhld = call.out;
  call.io.q.data = q_blhd.data();
  call.io.q.stride = {s.len_q * s.heads_q * s.head_dim, s.head_dim, s.heads_q * s.head_dim, 1};
  call.run();
  EXPECT_EQ(call.out, from_bhld);
}

TEST(CxxRun, UsesTheCallersThreads) {
  int calls = 0;
  Request request;
  request.options.num_threads = 2;
  request.options.parallel_context = &calls;
  request.options.parallel_for = [](void* context, std::int32_t workers, void (*task)(void*, int),
                                    void* task_arg) {
    ++*static_cast<int*>(context);
    for (std::int32_t worker = workers - 1; worker >= 0; --worker) task(task_arg, worker);
  };
  Call hooked(request);
  hooked.run();
  Call plain;
  plain.run();
  EXPECT_GT(calls, 0);
  EXPECT_EQ(hooked.out, plain.out);
}

}  // namespace
}  // namespace psa::testing
