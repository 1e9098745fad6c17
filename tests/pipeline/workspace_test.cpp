// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "core/registry.hpp"
#include "psa/error.hpp"
#include "support/plan_call.hpp"

namespace psa::testing {
namespace {

/// Bytes that do not grow with the number of tokens or blocks: tiles of each thread.
std::size_t worker_bytes(const core::Plan& plan, int threads) {
  const core::Backend& backend = core::choose_backend("auto", "", plan.geometry());
  return static_cast<std::size_t>(threads) * backend.scratch_bytes(plan.geometry());
}

TEST(Workspace, StaysBelowTheMemoryRule) {
  for (const int block : {16, 64, 128}) {
    for (const Reorder reorder : {Reorder::kNone, Reorder::kGilbert, Reorder::kKMeans}) {
      for (const index_t head_dim : {64, 128}) {
        Problem problem;
        problem.shape = {1, 12, 12, 32760, 32760, head_dim};
        problem.shape.dtype_q = problem.shape.dtype_kv = problem.shape.dtype_out = DType::kBF16;
        problem.layout.grid = {21, 30, 52};
        problem.config.block_q = problem.config.block_kv = block;
        problem.config.reorder = reorder;
        core::PlanOptions options;
        options.num_threads = 2;
        const core::Plan plan = make_plan(problem, options);
        const auto kv_bytes = static_cast<std::size_t>(2 * 12 * 32760 * head_dim * 2);
        const core::Geometry& g = plan.geometry();
        const auto map_bytes = static_cast<std::size_t>(12 * g.num_q_blocks * g.num_kv_blocks);
        EXPECT_LT(plan.workspace_bytes() - worker_bytes(plan, 2), kv_bytes * 12 / 10 + map_bytes)
            << "block " << block << ", head_dim " << head_dim;
      }
    }
  }
}

TEST(Workspace, OfADenseCallHoldsNoPyramid) {
  Problem problem;
  problem.shape = {1, 4, 4, 16384, 16384, 64};
  problem.config.num_levels = 1;
  problem.config.budget = {1, 1, 1, 1, 1};
  problem.config.rest = Rest::kSkip;
  problem.config.block_q = problem.config.block_kv = 128;
  core::PlanOptions options;
  options.num_threads = 2;
  const core::Plan plan = make_plan(problem, options);
  EXPECT_LT(plan.workspace_bytes() - worker_bytes(plan, 2), std::size_t{2} << 20);
}

TEST(Workspace, TooSmallOrMisalignedIsRefused) {
  const Problem problem;
  QkvTensors qkv = random_qkv(problem, 1);
  const core::Plan plan = make_plan(problem, {});
  Tensor out(qkv.q.shape(), DType::kF32);
  core::CallIo io;
  io.q = qkv.q.view();
  io.k = qkv.k.view();
  io.v = qkv.v.view();
  io.out = out.view();
  GuardedBuffer workspace(plan.workspace_bytes() + 64);
  const auto status_of = [&](std::span<std::byte> bytes) {
    try {
      plan.forward(io, bytes, nullptr);
    } catch (const Error& error) {
      return error.status();
    }
    return Status::kOk;
  };
  EXPECT_EQ(status_of({workspace.data(), plan.workspace_bytes() - 1}), Status::kOutOfMemory);
  EXPECT_EQ(status_of({}), Status::kOutOfMemory);
  EXPECT_EQ(status_of({workspace.data() + 8, plan.workspace_bytes()}), Status::kInvalidArgument);
  EXPECT_EQ(status_of({workspace.data(), plan.workspace_bytes()}), Status::kOk);
}

TEST(Workspace, OnePlanServesManyThreads) {
  Problem problem;
  problem.shape = {1, 2, 2, 200, 200, 16};
  core::PlanOptions options;
  options.num_threads = 3;
  const core::Plan plan = make_plan(problem, options);
  QkvTensors qkv = random_qkv(problem, 2);
  const CallResult want = call_plan(plan, qkv);
  std::vector<std::jthread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      QkvTensors own = random_qkv(problem, 2);
      for (int repeat = 0; repeat < 5; ++repeat) {
        const CallResult got = call_plan(plan, own);
        EXPECT_TRUE(got.out.buffer().has_same_bytes(want.out.buffer()));
        EXPECT_EQ(got.levels, want.levels);
      }
    });
  }
}

}  // namespace
}  // namespace psa::testing
