// SPDX-License-Identifier: Apache-2.0

// How calls behave on a device: streams, graphs, threads, single stages, the public C++ API; and
// what the host decides before it.

#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "core/registry.hpp"
#include "cuda/backend.hpp"
#include "cuda/cuda_test.hpp"
#include "psa/error.hpp"
#include "psa/psa.hpp"
#include "support/device_copies.hpp"
#include "support/plan_call.hpp"

namespace psa::testing {
namespace {

constexpr Device kDevice{DeviceType::kCuda, 0};

Problem video() {
  Problem problem;
  problem.shape = {1, 4, 2, 333, 333, 64, DType::kBF16, DType::kBF16, DType::kBF16};
  problem.layout = {18, TextSide::kBack, {5, 7, 9}};
  problem.config.reorder = Reorder::kGilbert;
  problem.config.similarity_cap = {{0.0F, -0.1F, -0.1F, -0.1F}};
  problem.config.weigh_values = true;
  problem.config.budget_scope = BudgetScope::kHead;
  return problem;
}

core::Plan device_plan(const Problem& problem) { return make_plan(problem, {}, kDevice); }

struct DestroyStream {
  void operator()(cudaStream_t stream) const { static_cast<void>(cudaStreamDestroy(stream)); }
};
using OwnedStream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream>;

/// Does not wait for the default stream, nor that for it.
OwnedStream new_stream() {
  cudaStream_t stream = nullptr;
  EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  return OwnedStream(stream);
}

/// A call whose arguments stay on the device between runs.
class ResidentCall {
 public:
  ResidentCall(const core::Plan& plan, const Problem& problem, std::uint64_t seed)
      : plan_(plan),
        qkv_(random_qkv(problem, seed)),
        out_(qkv_.q.shape(), problem.shape.dtype_out),
        levels_(
            static_cast<std::size_t>(plan.geometry().shape.heads_q * plan.geometry().num_q_blocks *
                                     plan.geometry().num_kv_blocks)),
        workspace_(plan.workspace_bytes()),
        copies_(plan.memory()) {
    io_.q = copies_.in(qkv_.q.view());
    io_.k = copies_.in(qkv_.k.view());
    io_.v = copies_.in(qkv_.v.view());
    io_.out = copies_.out(out_.view());
    io_.levels_out = copies_.out(levels_.data(), static_cast<index_t>(levels_.size()));
    work_ = copies_.out(workspace_.data(), static_cast<index_t>(workspace_.size()));
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }

  void run(cudaStream_t stream, core::RunStats* stats = nullptr) {
    plan_.forward(io_, {work_, workspace_.size()}, stats, Stream{stream});
  }
  void spoil_result() {
    EXPECT_EQ(cudaMemset(io_.out.data, 0xFF, out_.buffer().size()), cudaSuccess);
    EXPECT_EQ(cudaMemset(io_.levels_out, 0xFF, levels_.size()), cudaSuccess);
    EXPECT_EQ(cudaMemset(work_, 0xFF, workspace_.size()), cudaSuccess);
    // It returns before it is done, and the tests' streams do not wait for the default stream.
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  /// Waits for every stream.
  void expect_result_of(QkvTensors& qkv) {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    copies_.finish();
    const CallResult want = call_plan(plan_, qkv);
    EXPECT_TRUE(out_.buffer().has_same_bytes(want.out.buffer()));
    EXPECT_EQ(levels_, want.levels);
  }
  [[nodiscard]] QkvTensors& qkv() { return qkv_; }
  [[nodiscard]] core::CallIo& io() { return io_; }
  [[nodiscard]] std::span<std::byte> workspace() { return {work_, workspace_.size()}; }
  [[nodiscard]] DeviceCopies& copies() { return copies_; }
  [[nodiscard]] const std::vector<LevelCode>& levels() const { return levels_; }

 private:
  const core::Plan& plan_;
  QkvTensors qkv_;
  Tensor out_;
  std::vector<LevelCode> levels_;
  GuardedBuffer workspace_;
  DeviceCopies copies_;
  core::CallIo io_;
  std::byte* work_ = nullptr;
};

class CudaCalls : public CudaTest {};

TEST_F(CudaCalls, RunInTheStreamTheyAreGiven) {
  const Problem problem = video();
  const core::Plan plan = device_plan(problem);
  ResidentCall call(plan, problem, 1);
  const OwnedStream stream = new_stream();
  call.run(stream.get());
  EXPECT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
  call.expect_result_of(call.qkv());
}

TEST_F(CudaCalls, CanBeCapturedInAGraphAndReplayed) {
  const Problem problem = video();
  const core::Plan plan = device_plan(problem);
  ResidentCall call(plan, problem, 2);
  const OwnedStream stream = new_stream();
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeGlobal), cudaSuccess);
  call.run(stream.get());
  ASSERT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaSuccess);
  cudaGraphExec_t replay = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&replay, graph, 0), cudaSuccess);
  for (int repeat = 0; repeat < 2; ++repeat) {
    call.spoil_result();
    ASSERT_EQ(cudaGraphLaunch(replay, stream.get()), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
    call.expect_result_of(call.qkv());
  }
  EXPECT_EQ(cudaGraphExecDestroy(replay), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST_F(CudaCalls, RefuseStatsDuringACapture) {
  const Problem problem = video();
  const core::Plan plan = device_plan(problem);
  ResidentCall call(plan, problem, 3);
  const OwnedStream stream = new_stream();
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), cudaSuccess);
  core::RunStats stats;
  try {
    call.run(stream.get(), &stats);
    ADD_FAILURE() << "stats were accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kInvalidArgument);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("captured"));
  }
  EXPECT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaSuccess) << "the capture was broken";
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST_F(CudaCalls, OfOnePlanMayRunInTwoStreams) {
  const Problem problem = video();
  const core::Plan plan = device_plan(problem);
  ResidentCall one(plan, problem, 4);
  ResidentCall two(plan, problem, 5);
  const OwnedStream first = new_stream();
  const OwnedStream second = new_stream();
  for (int repeat = 0; repeat < 10; ++repeat) {
    one.run(first.get());
    two.run(second.get());
  }
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  one.expect_result_of(one.qkv());
  two.expect_result_of(two.qkv());
}

TEST_F(CudaCalls, OfOnePlanMayComeFromManyThreads) {
  const Problem problem = video();
  const core::Plan plan = device_plan(problem);
  QkvTensors qkv = random_qkv(problem, 6);
  const CallResult want = call_plan(plan, qkv);
  std::vector<std::jthread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      QkvTensors own = random_qkv(problem, 6);
      for (int repeat = 0; repeat < 5; ++repeat) {
        const CallResult got = call_plan(plan, own);
        EXPECT_TRUE(got.out.buffer().has_same_bytes(want.out.buffer()));
        EXPECT_EQ(got.levels, want.levels);
      }
    });
  }
}

TEST_F(CudaCalls, StagesOneByOneGiveTheMapOfAWholeCall) {
  for (const Importance importance : {Importance::kSampledMass, Importance::kPooledLse}) {
    Problem problem = video();
    problem.config.importance = importance;
    const core::Plan plan = device_plan(problem);
    ResidentCall call(plan, problem, 7);
    call.run(nullptr);
    const auto size = static_cast<index_t>(call.levels().size());
    std::vector<float> importance_here(call.levels().size());
    std::vector<LevelCode> assigned(call.levels().size());
    std::vector<LevelCode> selected(call.levels().size());
    float* scores = call.copies().out(importance_here.data(), size);
    plan.estimate_importance(call.io(), scores, call.workspace());
    plan.assign_levels(call.io(), scores, call.copies().out(assigned.data(), size),
                       call.workspace());
    plan.select_levels(call.io(), call.copies().out(selected.data(), size), call.workspace());
    call.copies().finish();
    EXPECT_EQ(assigned, call.levels());
    EXPECT_EQ(selected, call.levels());
  }
}

TEST_F(CudaCalls, OfThePublicApiTakeDevicePointers) {
  const Problem problem = video();
  const psa::Plan plan = psa::Plan::create(problem.shape, problem.layout, problem.config, kDevice);
  EXPECT_THAT(plan.describe(), ::testing::HasSubstr("backend    cuda "));
  const core::Plan inner = device_plan(problem);
  ResidentCall call(inner, problem, 8);
  EXPECT_EQ(plan.workspace_bytes(), call.workspace().size());
  AttentionIo io;
  io.q = call.io().q;
  io.k = call.io().k;
  io.v = call.io().v;
  io.out = call.io().out;
  io.levels_out = call.io().levels_out;
  const OwnedStream stream = new_stream();
  psa::run(plan, io, call.workspace(), Stream{stream.get()});
  call.expect_result_of(call.qkv());
  io.k.device = {};
  EXPECT_THROW(psa::run(plan, io, call.workspace()), Error);
}

struct MemoryCase {
  ProblemShape shape;
  std::int32_t block_kv;
};

/// The shapes that speed is measured at: workspace <= 1.1 x (K + V) + 64 MiB.
TEST_F(CudaCalls, WorkspacesStayWithinTheBudget) {
  constexpr DType kHalf = DType::kBF16;
  const MemoryCase cases[] = {{{1, 12, 12, 75600, 75600, 128, kHalf, kHalf, kHalf}, 128},
                              {{1, 12, 12, 75600, 75600, 128, kHalf, kHalf, kHalf}, 64},
                              {{1, 12, 12, 32760, 32760, 128, kHalf, kHalf, kHalf}, 64},
                              {{1, 24, 24, 27280, 27280, 128, kHalf, kHalf, kHalf}, 64},
                              {{1, 48, 48, 17776, 17776, 64, kHalf, kHalf, kHalf}, 64},
                              {{1, 28, 4, 32768, 32768, 128, kHalf, kHalf, kHalf}, 128}};
  for (const MemoryCase& measured : cases) {
    for (const core::Backend* table : {&cuda::kSm90a, &cuda::kSm80}) {
      Problem problem;
      problem.shape = measured.shape;
      problem.config.block_q = 128;
      problem.config.block_kv = measured.block_kv;
      const core::Plan plan(problem.geometry(), *table, kDevice, {});
      const ProblemShape& s = problem.shape;
      const double kv_bytes =
          2.0 * static_cast<double>(s.batch * s.heads_kv * s.len_kv * s.head_dim) * 2.0;
      EXPECT_LE(static_cast<double>(plan.workspace_bytes()), 1.1 * kv_bytes + 0x1p26)
          << describe(problem) << " " << table->isa;
    }
  }
}

// ---- decided on the host, tested without a device ----------------------------------------------

Problem with_head_dim(index_t head_dim, DType dtype = DType::kBF16) {
  Problem problem;
  problem.shape = {1, 1, 1, 256, 256, head_dim, dtype, dtype, dtype};
  return problem;
}

std::string reason(const core::Backend& table, const Problem& problem) {
  const char* text = table.why_not(problem.geometry(), kDevice);
  return text == nullptr ? "" : text;
}

TEST(CudaPolicy, HopperKernelsTakeHeadsOfWholeSixteenByteRowsUpTo128) {
  for (const index_t head_dim : {8, 64, 96, 128}) {
    EXPECT_THAT(reason(cuda::kSm90a, with_head_dim(head_dim)),
                ::testing::Not(::testing::HasSubstr("head_dim")));
  }
  EXPECT_EQ(reason(cuda::kSm90a, with_head_dim(136)), "head_dim is above 128");
  EXPECT_THAT(reason(cuda::kSm90a, with_head_dim(60)), ::testing::HasSubstr("multiple of 8"));
  for (const index_t head_dim : {1, 60, 136, 256}) {
    EXPECT_THAT(reason(cuda::kSm80, with_head_dim(head_dim)),
                ::testing::Not(::testing::HasSubstr("head_dim")));
  }
}

TEST(CudaPolicy, WhatOnlyTheCpuComputesIsRefused) {
  for (const core::Backend* table : {&cuda::kSm90a, &cuda::kSm80}) {
    EXPECT_THAT(reason(*table, with_head_dim(64, DType::kF32)), ::testing::HasSubstr("f16"));
    Problem mixed = with_head_dim(64);
    mixed.shape.dtype_out = DType::kF32;
    EXPECT_THAT(reason(*table, mixed), ::testing::HasSubstr("out must all be"));
    Problem clustered = with_head_dim(64);
    clustered.config.reorder = Reorder::kKMeans;
    EXPECT_THAT(reason(*table, clustered), ::testing::HasSubstr("kmeans"));
    Problem official = with_head_dim(64);
    official.config.block_q = official.config.block_kv = 128;
    official.config.rest = Rest::kSkip;
    official.config.compat = Compat::kOfficial;
    EXPECT_THAT(reason(*table, official), ::testing::HasSubstr("compat"));
  }
}

/// Maps take D² elements for each query block: with grouped heads much more than K and V in one go.
TEST(CudaPolicy, MapsOfGroupedHeadsTakeAboutAsMuchAsKeysAndValues) {
  for (const index_t heads_q : {4, 12, 28}) {
    Problem problem;
    problem.shape = {1, heads_q, 4, 65536, 65536, 128, DType::kBF16, DType::kBF16, DType::kBF16};
    problem.config.block_q = problem.config.block_kv = 128;
    problem.config.rest = Rest::kLinear;
    constexpr std::size_t kKvBytes = std::size_t{2} * 4 * 65536 * 128 * 2;
    EXPECT_LE(cuda::kSm90a.attention_bytes(problem.geometry()), kKvBytes + kKvBytes / 4) << heads_q;
  }
}

/// K and V in working order lie where covariances were, or are a part of all heads at a time.
TEST(CudaPolicy, OrderedKeysAndValuesTakeAPartOfTheirMemory) {
  Problem problem;
  problem.shape = {1, 12, 12, 75600, 75600, 128, DType::kBF16, DType::kBF16, DType::kBF16};
  problem.layout.grid = {21, 45, 80};
  problem.config.block_q = problem.config.block_kv = 128;
  constexpr std::size_t kKvBytes = std::size_t{2} * 12 * 75600 * 128 * 2;
  const auto bytes_with = [&](Rest rest, Reorder reorder) {
    problem.config.rest = rest;
    problem.config.reorder = reorder;
    return cuda::kSm90a.attention_bytes(problem.geometry());
  };
  EXPECT_EQ(bytes_with(Rest::kMean, Reorder::kNone), 0);
  EXPECT_EQ(bytes_with(Rest::kMean, Reorder::kGilbert), kKvBytes / 6);
  EXPECT_EQ(bytes_with(Rest::kLinear, Reorder::kGilbert),
            bytes_with(Rest::kLinear, Reorder::kNone));
  // Launches would be too short.
  problem.shape.len_q = problem.shape.len_kv = 32760;
  problem.layout.grid = {21, 30, 52};
  EXPECT_EQ(bytes_with(Rest::kMean, Reorder::kGilbert), 0);
  // A single head would be too large.
  problem.shape.heads_q = problem.shape.heads_kv = 1;
  problem.shape.len_q = problem.shape.len_kv = 151200;
  problem.layout.grid = {42, 45, 80};
  EXPECT_EQ(bytes_with(Rest::kMean, Reorder::kGilbert), 0);
}

}  // namespace
}  // namespace psa::testing
