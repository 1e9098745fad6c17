// SPDX-License-Identifier: Apache-2.0

// What the host part of a call does for tensors on a device: it follows no pointer of theirs,
// waits for nothing, allocates nothing, and leaves the current device as it was. The device here is
// the walled one, so that this is tested where there is no hardware.

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "core/registry.hpp"
#include "psa/error.hpp"
#include "reference/backend.hpp"
#include "support/device_copies.hpp"
#include "support/plan_call.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"
#include "support/walled_device.hpp"

namespace psa::testing {
namespace {

constexpr Device kDevice{DeviceType::kCuda, 0};

core::Plan walled_plan(const Problem& problem, Device device = kDevice) {
  return {problem.geometry(), walled_backend(), device, {}};
}

core::Plan reference_plan(const Problem& problem) {
  core::PlanOptions options;
  options.backend = "reference";
  return make_plan(problem, options);
}

Problem video() {
  Problem problem;
  problem.shape = {2, 4, 2, 333, 333, 8};
  problem.layout = {18, TextSide::kBack, {5, 7, 9}};
  problem.config.importance = Importance::kPooledLse;
  problem.config.reorder = Reorder::kGilbert;
  problem.config.similarity_cap = {{0.0F, -0.1F, -0.1F, -0.1F}};
  problem.config.weigh_values = true;
  return problem;
}

void expect_same(const CallResult& got, const CallResult& want) {
  EXPECT_TRUE(got.out.buffer().has_same_bytes(want.out.buffer()));
  EXPECT_EQ(got.lse, want.lse);
  EXPECT_EQ(got.levels, want.levels);
  EXPECT_EQ(got.stats.density, want.stats.density);
  EXPECT_EQ(got.stats.selection_cost, want.stats.selection_cost);
  EXPECT_EQ(got.stats.blocks, want.stats.blocks);
}

TEST(DevicePlan, GivesWhatTheSameStagesGiveOnTheHost) {
  Problem causal;
  causal.shape = {2, 2, 1, 40, 90, 8};
  causal.config.causal = true;
  Problem dense = causal;
  dense.config.budget = {1, 1, 1, 1, 1};
  Problem clustered = video();
  clustered.config.reorder = Reorder::kHybrid;
  Problem per_head = video();  // S-24
  per_head.config.head_density = {0.1F, 0.3F, 1.0F, 0.2F};
  for (const Problem& problem : {video(), causal, dense, clustered, per_head}) {
    SCOPED_TRACE(describe(problem));
    QkvTensors qkv = random_qkv(problem, 1, MemoryLayout::kPadded);
    const auto len_kv = static_cast<std::int32_t>(problem.shape.len_kv);
    qkv.kv_lengths = {len_kv, len_kv - 9};
    const CallExtras extras{.out_layout = MemoryLayout::kPadded};
    const CallResult want = call_plan(reference_plan(problem), qkv, extras);
    expect_same(call_plan(walled_plan(problem), qkv, extras), want);
    const CallExtras given{.levels = want.levels};
    expect_same(call_plan(walled_plan(problem), qkv, given),
                call_plan(reference_plan(problem), qkv, given));
  }
}

TEST(DevicePlan, S13UserScoresAreGatheredChunkByChunk) {
  Problem problem = video();
  problem.config.importance = Importance::kUserScores;
  problem.shape.len_q = problem.shape.len_kv = 333;
  const core::Geometry g = problem.geometry();
  std::vector<float> scores(static_cast<std::size_t>(2 * 4 * g.num_q_blocks * g.num_kv_blocks));
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(i * 7919 % 101);
  QkvTensors qkv = random_qkv(problem, 2);
  const CallExtras extras{.scores = scores};
  expect_same(call_plan(walled_plan(problem), qkv, extras),
              call_plan(reference_plan(problem), qkv, extras));
}

TEST(DevicePlan, StagesOneByOneGiveTheMapOfAWholeCall) {
  const Problem problem = video();
  QkvTensors qkv = random_qkv(problem, 3);
  const core::Plan plan = walled_plan(problem);
  const CallResult whole = call_plan(plan, qkv);
  const auto map_size = static_cast<index_t>(whole.levels.size());
  std::vector<float> importance(whole.levels.size());
  std::vector<LevelCode> assigned(whole.levels.size());
  std::vector<LevelCode> selected(whole.levels.size());
  Pyramid pyramid(plan.geometry());
  Pyramid want = StageRunner(reference::backend(), plan.geometry()).pyramid(qkv.inputs());
  GuardedBuffer workspace(plan.workspace_bytes());

  DeviceCopies copies(plan.memory());
  core::CallIo io;
  io.q = copies.in(qkv.q.view());
  io.k = copies.in(qkv.k.view());
  io.v = copies.in(qkv.v.view());
  float* importance_there = copies.out(importance.data(), map_size);
  const std::span<std::byte> work{
      copies.out(workspace.data(), static_cast<index_t>(workspace.size())), workspace.size()};
  plan.estimate_importance(io, importance_there, work);
  plan.assign_levels(io, importance_there, copies.out(assigned.data(), map_size), work);
  plan.select_levels(io, copies.out(selected.data(), map_size), work);
  const index_t rows = pyramid.k(3).shape()[2];
  const index_t bytes = 2 * 2 * rows * 8 * 4;
  plan.build_pyramid(io, 3, copies.out(static_cast<std::byte*>(pyramid.k(3).view().data), bytes),
                     copies.out(static_cast<std::byte*>(pyramid.v(3).view().data), bytes), work);
  copies.finish();
  EXPECT_EQ(assigned, whole.levels);
  EXPECT_EQ(selected, whole.levels);
}

TEST(DevicePlan, CallsNeitherWaitNorAllocateUnlessStatsAreWanted) {
  const Problem problem = video();
  QkvTensors qkv = random_qkv(problem, 4);
  const core::Plan plan = walled_plan(problem);
  Tensor out(qkv.q.shape(), DType::kF32);
  GuardedBuffer workspace(plan.workspace_bytes());
  DeviceCopies copies(plan.memory());
  core::CallIo io;
  io.q = copies.in(qkv.q.view());
  io.k = copies.in(qkv.k.view());
  io.v = copies.in(qkv.v.view());
  io.out = copies.out(out.view());
  const std::span<std::byte> work{
      copies.out(workspace.data(), static_cast<index_t>(workspace.size())), workspace.size()};
  const WalledCounts before = walled_counts();
  plan.forward(io, work, nullptr);
  const WalledCounts after = walled_counts();
  EXPECT_EQ(after.waits, before.waits);
  EXPECT_EQ(after.allocations, before.allocations);
  core::RunStats stats;
  plan.forward(io, work, &stats);
  EXPECT_GT(walled_counts().waits, after.waits);
  EXPECT_GT(stats.attention_ms, 0.0);
  EXPECT_GT(stats.density, 0.0);
  copies.finish();
}

TEST(DevicePlan, ValuesThatCannotBeCheckedAreClampedAndSkipped) {
  Problem problem;
  problem.shape = {2, 1, 1, 64, 64, 8};
  problem.config.num_levels = 2;
  problem.config.rest = Rest::kSkip;
  QkvTensors qkv = random_qkv(problem, 5);
  std::vector<LevelCode> levels(2 * 4 * 4, 1);
  std::vector<LevelCode> read = levels;
  for (const auto& [place, code] : {std::pair{3, 3}, {9, 6}, {17, 7}, {30, 255}}) {
    levels[static_cast<std::size_t>(place)] = static_cast<LevelCode>(code);
    read[static_cast<std::size_t>(place)] = kSkip;
  }
  qkv.kv_lengths = {64, 0};
  const CallResult want = call_plan(reference_plan(problem), qkv, {.levels = read});
  qkv.kv_lengths = {std::numeric_limits<std::int32_t>::max(), -5};
  const CallResult got = call_plan(walled_plan(problem), qkv, {.levels = levels});
  EXPECT_TRUE(got.out.buffer().has_same_bytes(want.out.buffer()));
  EXPECT_EQ(got.stats.density, want.stats.density);
  EXPECT_EQ(got.stats.blocks, want.stats.blocks);
}

TEST(DevicePlan, RunsOnItsOwnDeviceAndLeavesTheCurrentOne) {
  const Problem problem = video();
  QkvTensors qkv = random_qkv(problem, 6);
  EXPECT_EQ(walled_counts().current, 0);
  const core::Plan plan = walled_plan(problem, {DeviceType::kCuda, 1});
  EXPECT_EQ(walled_counts().current, 0);
  Tensor out(qkv.q.shape(), DType::kF32);
  GuardedBuffer workspace(plan.workspace_bytes());
  DeviceCopies copies(plan.memory(), 1);
  core::CallIo io;
  io.q = copies.in(qkv.q.view());
  io.k = copies.in(qkv.k.view());
  io.v = copies.in(qkv.v.view());
  io.out = copies.out(out.view());
  plan.forward(
      io, {copies.out(workspace.data(), static_cast<index_t>(workspace.size())), workspace.size()},
      nullptr);
  EXPECT_EQ(walled_counts().last_stage_on, 1);
  EXPECT_EQ(walled_counts().current, 0);
  copies.finish();
  EXPECT_NE(plan.describe().find("device 1"), std::string::npos) << plan.describe();
}

TEST(DevicePlan, OwnsItsTokenOrderAndBudgetsUntilItEnds) {
  const int before = walled_counts().live_blocks;
  {
    core::Plan plan = walled_plan(video());
    EXPECT_EQ(walled_counts().live_blocks, before + 1);
    const core::Plan moved = std::move(plan);
    EXPECT_EQ(walled_counts().live_blocks, before + 1);
    Problem per_head = video();
    per_head.config.head_density = {0.1F, 0.3F, 1.0F, 0.2F};
    const core::Plan with_budgets = walled_plan(per_head);
    EXPECT_EQ(walled_counts().live_blocks, before + 3);
  }
  EXPECT_EQ(walled_counts().live_blocks, before);
  Problem identity = video();
  identity.config.reorder = Reorder::kNone;
  const core::Plan plan = walled_plan(identity);
  EXPECT_EQ(walled_counts().live_blocks, before);
}

TEST(DevicePlan, RefusesTensorsAndWorkspacesThatAreNotItsOwn) {
  const Problem problem;
  QkvTensors qkv = random_qkv(problem, 7);
  Tensor out(qkv.q.shape(), DType::kF32);
  const core::Plan plan = walled_plan(problem);
  DeviceCopies copies(plan.memory());
  core::CallIo good;
  good.q = copies.in(qkv.q.view());
  good.k = copies.in(qkv.k.view());
  good.v = copies.in(qkv.v.view());
  good.out = copies.out(out.view());
  const DeviceBuffer workspace(plan.memory(), plan.workspace_bytes() + 256);
  const auto message = [&](const std::function<void(core::CallIo*)>& spoil, std::size_t offset) {
    core::CallIo io = good;
    spoil(&io);
    try {
      plan.forward(io, {workspace.data() + offset, plan.workspace_bytes()}, nullptr);
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), Status::kInvalidArgument);
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(message([](core::CallIo* io) { io->k.device = {}; }, 0),
            "k is in host memory; this plan runs on CUDA device 0");
  EXPECT_EQ(message([](core::CallIo* io) { io->v.device.index = 1; }, 0),
            "v is on CUDA device 1; this plan runs on CUDA device 0");
  EXPECT_EQ(message([](core::CallIo*) {}, 64), "workspace is not aligned to 256 bytes");
  EXPECT_EQ(message([](core::CallIo*) {}, 0), "accepted");
  copies.finish();
}

TEST(DeviceStages, OfTheRunnerTakeAndGiveHostMemory) {
  for (const ProblemCase& problem_case : problem_cases()) {
    SCOPED_TRACE(problem_case.name);
    const core::Geometry g = problem_case.problem.geometry();
    QkvTensors tensors = problem_case.make_inputs(8);
    const RunOptions options{.chunk_q_blocks = 2, .out_layout = problem_case.layout};
    const StageRunner host(reference::backend(), g, options);
    const StageRunner device(walled_backend(), g, options);
    Pyramid pyramid = host.pyramid(tensors.inputs());
    Pyramid got = device.pyramid(tensors.inputs());
    EXPECT_TRUE(got.k(2).buffer().has_same_bytes(pyramid.k(2).buffer()));
    EXPECT_EQ(device.similarity(tensors.inputs()), host.similarity(tensors.inputs()));
    EXPECT_EQ(device.value_weights(tensors.inputs()), host.value_weights(tensors.inputs()));
    const std::vector<float> importance = host.importance(tensors.inputs(), pyramid);
    EXPECT_EQ(device.importance(tensors.inputs(), pyramid), importance);
    EXPECT_EQ(device.levels(tensors.kv_lengths, importance),
              host.levels(tensors.kv_lengths, importance));
    const std::vector<LevelCode> levels = random_levels(g, 9);
    const AttentionResult want = host.attention(tensors.inputs(), pyramid, levels);
    const AttentionResult result = device.attention(tensors.inputs(), pyramid, levels);
    EXPECT_TRUE(result.out.buffer().has_same_bytes(want.out.buffer()));
    EXPECT_EQ(result.lse, want.lse);
  }
}

}  // namespace
}  // namespace psa::testing
