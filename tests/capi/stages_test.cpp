// SPDX-License-Identifier: Apache-2.0
// psa::stages of the installed C++ layer.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <psa/psa.hpp>
#include <vector>

#include "capi/call.hpp"

namespace psa::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

TEST(CxxStages, OneByOneMakeTheMapOfARun) {
  Call call;
  std::vector<float> importance(call.codes.size());
  stages::estimate_importance(call.plan, call.io, importance, call.workspace.bytes());
  EXPECT_THAT(importance, Each(::testing::Ge(0.0F)));
  stages::assign_levels(call.plan, call.io, importance, call.levels(), call.workspace.bytes());
  const std::vector<LevelCode> assigned = call.codes;
  stages::select_levels(call.plan, call.io, call.levels(), call.workspace.bytes());
  EXPECT_EQ(call.codes, assigned);
  call.io.levels_out = call.codes.data();
  call.run();
  EXPECT_EQ(call.codes, assigned);
}

TEST(CxxStages, DensePlansEstimateNothing) {
  Request request;
  request.config.budget.fill(1.0F);
  Call call(request);
  std::vector<float> importance(call.codes.size());
  expect_error(Status::kUnsupported, "budget[0] is 1", [&] {
    stages::estimate_importance(call.plan, call.io, importance, call.workspace.bytes());
  });
  stages::select_levels(call.plan, call.io, call.levels(), call.workspace.bytes());
  EXPECT_THAT(call.codes, Each(1));
}

TEST(CxxStages, RefuseBuffersOfAnotherSize) {
  Call call;
  std::vector<float> importance(call.codes.size() - 1);
  expect_error(Status::kInvalidArgument, "size of importance is 223; this plan needs 224", [&] {
    stages::estimate_importance(call.plan, call.io, importance, call.workspace.bytes());
  });
  expect_error(Status::kInvalidArgument, "size of importance is 223; this plan needs 224", [&] {
    stages::assign_levels(call.plan, call.io, importance, call.levels(), call.workspace.bytes());
  });
  LevelMapView levels = call.levels();
  levels.num_q_blocks = 3;
  expect_error(Status::kInvalidArgument, "levels.num_q_blocks is 3; this plan needs 4",
               [&] { stages::select_levels(call.plan, call.io, levels, call.workspace.bytes()); });
  expect_error(Status::kInvalidArgument, "levels.num_q_blocks is 3; this plan needs 4",
               [&] { (void)stages::build_schedule(call.plan, levels); });
  expect_error(Status::kInvalidArgument, "levels.num_q_blocks is 3; this plan needs 4",
               [&] { (void)stages::measure_levels(call.plan, levels); });
}

TEST(CxxStages, RefuseMissingTensors) {
  Call call;
  std::vector<float> importance(call.codes.size());
  expect_error(Status::kInvalidArgument, "k.data is null", [&] {
    stages::estimate_importance(call.plan, {.q = call.io.q}, importance, call.workspace.bytes());
  });
  expect_error(Status::kInvalidArgument, "v.data is null", [&] {
    stages::build_pyramid(call.plan, {.k = call.io.k}, 2, importance.data(), importance.data(),
                          call.workspace.bytes());
  });
}

TEST(CxxStages, PyramidAveragesRealTokens) {
  Call call;
  const std::size_t rows = 13;  // ceil(100 / 8); the last stands for 4 tokens
  std::vector<float> k_pooled(2 * 2 * rows * 16, -1.0F);
  std::vector<float> v_pooled(k_pooled.size(), -1.0F);
  call.v.assign(call.v.size(), 0.5F);
  stages::build_pyramid(call.plan, call.io, 4, k_pooled.data(), v_pooled.data(),
                        call.workspace.bytes());
  EXPECT_THAT(v_pooled, Each(0.5F));
  float sum = 0;
  for (std::size_t t = 96; t < 100; ++t) sum += call.k[t * 16 + 5];
  EXPECT_NEAR(k_pooled[12 * 16 + 5], sum / 4, 1e-6F);
  expect_error(Status::kInvalidArgument, "level is 7; allowed: 2..5", [&] {
    stages::build_pyramid(call.plan, call.io, 7, k_pooled.data(), v_pooled.data(),
                          call.workspace.bytes());
  });
}

TEST(CxxStages, ScheduleListsBlocksByLevel) {
  Call call;
  const LevelMapView levels = call.levels();
  levels.row(0, 0, 1)[6] = 1;
  levels.row(0, 0, 1)[0] = kBlockMean;
  levels.row(0, 0, 1)[2] = 1;
  levels.row(1, 3, 3)[4] = 2;
  const stages::Schedule schedule = stages::build_schedule(call.plan, levels);
  ASSERT_EQ(schedule.row_begin.size(), 33U);
  EXPECT_EQ(schedule.row_begin[1], 0);
  EXPECT_EQ(schedule.row_begin[2], 3);
  EXPECT_EQ(schedule.row_begin[31], 3);
  EXPECT_EQ(schedule.row_begin[32], 4);
  std::vector<int> flat;
  for (const psa_schedule_entry& entry : schedule.entries) {
    flat.push_back(entry.kv_block);
    flat.push_back(entry.level);
  }
  EXPECT_THAT(flat, ElementsAre(2, 1, 6, 1, 0, 6, 4, 2));
}

TEST(CxxStages, ScheduleOfNothingIsEmpty) {
  Call call;
  const stages::Schedule schedule = stages::build_schedule(call.plan, call.levels());
  EXPECT_TRUE(schedule.entries.empty());
  EXPECT_THAT(schedule.row_begin, Each(0));
}

TEST(CxxStages, S21DensityFollowsTheKeyLengths) {
  Call call;
  const LevelMapView levels = call.levels();
  levels.row(0, 0, 0)[0] = 1;  // 16 columns of 100, or of 50
  const std::vector<std::int32_t> lengths{50, 100};
  EXPECT_DOUBLE_EQ(stages::measure_levels(call.plan, levels).rows[0], 0.16);
  const stages::LevelDensity cut = stages::measure_levels(call.plan, levels, lengths.data());
  EXPECT_DOUBLE_EQ(cut.rows[0], 0.32);
  EXPECT_EQ(cut.rows.size(), 32U);
  EXPECT_EQ(cut.blocks[1], 1);
  EXPECT_DOUBLE_EQ(cut.density, 16.0 * 16 / (4 * 60 * (50 + 100)));
}

}  // namespace
}  // namespace psa::testing
