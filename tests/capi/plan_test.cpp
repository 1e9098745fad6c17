// SPDX-License-Identifier: Apache-2.0
// psa::Plan of the installed C++ layer: what it refuses, and with which words.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <psa/psa.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "capi/call.hpp"

namespace psa::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct BadRequest {
  const char* message;
  void (*spoil)(Request&);
};

void expect_refused(const std::vector<BadRequest>& all) {
  for (const BadRequest& bad : all) {
    Request request;
    bad.spoil(request);
    expect_error(Status::kInvalidArgument, bad.message, [&] { (void)request.plan(); });
  }
}

TEST(CxxPlan, RefusesBadShapes) {
  expect_refused({
      {"batch is 0; allowed: 1..", [](Request& r) { r.shape.batch = 0; }},
      {"len_q is 0; allowed: 1..", [](Request& r) { r.shape.len_q = 0; }},
      {"len_kv is -5; allowed: 1..", [](Request& r) { r.shape.len_kv = -5; }},
      {"head_dim is 0; allowed: 1..256", [](Request& r) { r.shape.head_dim = 0; }},
      {"head_dim is 257; allowed: 1..256", [](Request& r) { r.shape.head_dim = 257; }},
      {"heads_kv is 0; allowed: 1..", [](Request& r) { r.shape.heads_kv = 0; }},
      {"heads_q is 4; it must be a multiple of heads_kv, which is 3",
       [](Request& r) { r.shape.heads_kv = 3; }},
      {"dtype_q is 3; allowed: 0..2", [](Request& r) { r.shape.dtype_q = static_cast<DType>(3); }},
  });
}

TEST(CxxPlan, RefusesSizesWhoseProductsOverflow) {
  Request request;
  request.shape.batch = std::numeric_limits<std::int32_t>::max();
  request.shape.heads_q = std::numeric_limits<std::int32_t>::max();
  request.shape.heads_kv = request.shape.heads_q;
  request.shape.len_q = index_t{1} << 30;
  request.shape.len_kv = index_t{1} << 30;
  expect_error(Status::kInvalidArgument, "batch", [&] { (void)request.plan(); });
}

TEST(CxxPlan, RefusesBadBudgets) {
  expect_refused({
      {"budget[1] is nan; allowed: 0..1", [](Request& r) { r.config.budget[1] = std::nanf(""); }},
      {"budget[0] is -0.5; allowed: 0..1", [](Request& r) { r.config.budget[0] = -0.5F; }},
      {"budget[3] is 1.5; allowed: 0..1", [](Request& r) { r.config.budget[3] = 1.5F; }},
      {"budget[2] is 0.25; budgets are cumulative",
       [](Request& r) {
         r.config.budget = {0.25F, 0.5F, 0.25F, 0.5F, 0.5F};
       }},
      {"num_levels is 6; allowed: 1..5", [](Request& r) { r.config.num_levels = 6; }},
  });
}

TEST(CxxPlan, RefusesGridsThatDoNotMatchTheLength) {
  expect_refused({
      {"grid is 4x5x6; frames * height * width + text_tokens (0) must equal len_kv = 100",
       [](Request& r) {
         r.layout.grid = {4, 5, 6};
       }},
      {"text_tokens (9) must equal len_kv = 100",
       [](Request& r) {
         r.layout = {.text_tokens = 9, .grid = {2, 5, 9}};
       }},
      {"text_tokens is 101", [](Request& r) { r.layout.text_tokens = 101; }},
      {"grid is 0x0x0; this reorder needs frames, height and width",
       [](Request& r) { r.config.reorder = Reorder::kGilbert; }},
      {"len_q is 60; a reorder along the grid needs len_q = len_kv = 100",
       [](Request& r) {
         r.config.reorder = Reorder::kGilbert;
         r.layout.grid = {4, 5, 5};
       }},
  });
}

TEST(CxxPlan, RefusesBackendsThatItDoesNotHave) {
  Request request;
  request.options.backend = "gpu";
  expect_error(Status::kInvalidArgument, "backend is \"gpu\"; allowed: auto, cpu",
               [&] { (void)request.plan(); });
  request.options = {.num_threads = -1};
  expect_error(Status::kInvalidArgument, "num_threads is -1; allowed: 0",
               [&] { (void)request.plan(); });
  request.options = {};
  request.device = {DeviceType::kCuda, 4711};  // no machine has it
  expect_error(Status::kUnsupported, "device is CUDA 4711", [&] { (void)request.plan(); });
}

TEST(CxxPlan, TellsItsSizes) {
  const Request request;
  const Plan plan = request.plan();
  EXPECT_EQ(plan.num_q_blocks(), 4);
  EXPECT_EQ(plan.num_kv_blocks(), 7);
  EXPECT_EQ(plan.level_map_size(), 2 * 4 * 4 * 7);
  EXPECT_EQ(plan.shape().len_kv, 100);
  EXPECT_GT(plan.workspace_bytes(), 0U);
}

TEST(CxxPlan, DescribesWhatItChose) {
  Request request;
  request.options.backend = "reference";
  EXPECT_THAT(request.plan().describe(), HasSubstr("reference"));
}

TEST(CxxPlan, GivesTheTokenOrder) {
  Request request;
  request.shape.len_q = request.shape.len_kv = 9;
  request.layout = {.text_tokens = 1, .grid = {1, 2, 4}};
  request.config.reorder = Reorder::kTile3d;
  request.config.tile = {1, 2, 2};
  // Text is token 0; the boxes of 2 x 2 follow each other, then the text.
  EXPECT_THAT(request.plan().token_order(), ElementsAre(1, 2, 5, 6, 3, 4, 7, 8, 0));
  request.config.reorder = Reorder::kHybrid;
  const Plan by_content = request.plan();
  expect_error(Status::kUnsupported, "content", [&] { (void)by_content.token_order(); });
}

TEST(CxxPlan, LevelMapHasItsSize) {
  const Plan plan = Request{}.plan();
  std::vector<LevelCode> codes(static_cast<std::size_t>(plan.level_map_size()));
  EXPECT_EQ(plan.level_map(codes).row(1, 3, 3), codes.data() + (2 * 4 * 4 - 1) * 7);
  codes.pop_back();
  expect_error(Status::kInvalidArgument, "number of level codes is 223; this plan needs 224",
               [&] { (void)plan.level_map(codes); });
}

TEST(CxxPlan, MovesAndReportsUseAfterwards) {
  Plan from = Request{}.plan();
  const psa_plan* handle = from.handle();
  const Plan to = std::move(from);
  EXPECT_EQ(to.handle(), handle);
  // NOLINTNEXTLINE(bugprone-use-after-move): what it does is the point.
  expect_error(Status::kInvalidArgument, "plan is null", [&] { (void)from.workspace_bytes(); });
}

TEST(CxxPlan, MessagesBelongToTheirThread) {
  expect_error(Status::kInvalidArgument, "len_q is 0", [] {
    Request request;
    request.shape.len_q = 0;
    (void)request.plan();
  });
  std::string of_other_thread = "not run";
  std::thread([&] { of_other_thread = psa_last_error(); }).join();
  EXPECT_EQ(of_other_thread, "");
  EXPECT_THAT(psa_last_error(), HasSubstr("len_q is 0"));
}

TEST(CxxWorkspace, IsAlignedAndRefusesTheImpossible) {
  Workspace workspace(100);
  EXPECT_EQ(workspace.bytes().size(), 100U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(workspace.bytes().data()) % 64, 0U);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  // The allocators of the sanitizers end the program instead of failing.
  expect_error(Status::kOutOfMemory, "no memory for a workspace of",
               [] { const Workspace huge(std::size_t{1} << 60); });
#endif
}

}  // namespace
}  // namespace psa::testing
