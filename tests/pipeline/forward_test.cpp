// SPDX-License-Identifier: Apache-2.0

// The pipeline as a whole: its parts together give what each gives alone, and every backend gives
// what the reference gives.

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "core/level_stats.hpp"
#include "core/registry.hpp"
#include "psa/error.hpp"
#include "support/compare.hpp"
#include "support/plan_call.hpp"
#include "support/problem_cases.hpp"
#include "support/stage_runner.hpp"

namespace psa::testing {
namespace {

core::PlanOptions reference() {
  core::PlanOptions options;
  options.backend = "reference";
  return options;
}

Problem video(Importance importance) {
  Problem problem;
  problem.shape = {2, 4, 2, 333, 333, 40};
  problem.layout = {18, TextSide::kBack, {5, 7, 9}};
  problem.config.importance = importance;
  problem.config.reorder = Reorder::kGilbert;
  problem.config.budget = {0.1F, 0.3F, 0.5F, 0.7F, 0.7F};
  problem.config.similarity_cap = {{0.0F, -0.1F, -0.1F, -0.1F}};
  problem.config.weigh_values = true;
  return problem;
}

/// The same with a budget that the query blocks of a head share (S-28), one level and rest linear.
Problem shared_budget_video(Importance importance) {
  Problem problem = video(importance);
  problem.config.budget_scope = BudgetScope::kHead;
  problem.config.num_levels = 1;
  problem.config.rest = Rest::kLinear;
  problem.config.rest_cutoff = 2.0F;
  return problem;
}

/// The reference's map is given to every backend, so that near-ties of the importance cannot make
/// the outputs differ.
TEST(Forward, AttentionOfEveryBackendMatchesTheReferenceOnItsMap) {
  const Problem problem = video(Importance::kSampledMass);
  QkvTensors qkv = random_qkv(problem, 1);
  qkv.kv_lengths = {333, 320};
  const CallResult want = call_plan(make_plan(problem, reference()), qkv);
  for (const core::PlanOptions& options : every_backend()) {
    const CallResult got = call_plan(make_plan(problem, options), qkv, {.levels = want.levels});
    EXPECT_LT(relative_l2(got.out, want.out), 2e-6) << describe(options);
    EXPECT_EQ(got.levels, want.levels);
  }
}

TEST(Forward, LevelMapsOfEveryBackendNearlyAlwaysMatchTheReference) {
  for (const Importance importance : {Importance::kSampledMax, Importance::kSampledMass,
                                      Importance::kAntidiagonal, Importance::kPooledLse}) {
    for (const Problem& problem : {video(importance), shared_budget_video(importance)}) {
      QkvTensors qkv = random_qkv(problem, 2);
      const CallResult want = call_plan(make_plan(problem, reference()), qkv);
      for (const core::PlanOptions& options : every_backend()) {
        const CallResult got = call_plan(make_plan(problem, options), qkv);
        const auto differing = std::inner_product(
            got.levels.begin(), got.levels.end(), want.levels.begin(), std::size_t{0},
            std::plus<>(), [](LevelCode a, LevelCode b) { return a != b ? 1U : 0U; });
        EXPECT_LE(differing, want.levels.size() / 500) << describe(options);
      }
    }
  }
}

TEST(Forward, S13UserScoresDecideTheLevels) {
  Problem problem = video(Importance::kUserScores);
  problem.config.similarity_cap.reset();
  problem.config.text_keys_full = problem.config.text_queries_full = false;
  const core::Geometry g = problem.geometry();
  std::vector<float> scores(static_cast<std::size_t>(2 * 4 * g.num_q_blocks * g.num_kv_blocks));
  for (std::size_t i = 0; i < scores.size(); ++i) {
    scores[i] = static_cast<float>(i % static_cast<std::size_t>(g.num_kv_blocks));  // last is best
  }
  QkvTensors qkv = random_qkv(problem, 3);
  for (const core::PlanOptions& options : every_backend()) {
    const core::Plan plan = make_plan(problem, options);
    const CallResult got = call_plan(plan, qkv, {.scores = scores});
    for (std::size_t row = 0; row < got.levels.size(); row += 21) {
      EXPECT_EQ(got.levels[row + 20], 1);
      EXPECT_EQ(got.levels[row], kBlockMean);
    }
    EXPECT_THROW((void)call_plan(plan, qkv), Error) << "scores are missing";
  }
}

void expect_map_of_whole_call_by_stages(const Problem& problem) {
  for (const core::PlanOptions& options : every_backend()) {
    QkvTensors qkv = random_qkv(problem, 4);
    const core::Plan plan = make_plan(problem, options);
    const CallResult whole = call_plan(plan, qkv);
    GuardedBuffer workspace(plan.workspace_bytes());
    const std::span<std::byte> bytes{workspace.data(), workspace.size()};
    core::CallIo io;
    io.q = qkv.q.view();
    io.k = qkv.k.view();
    io.v = qkv.v.view();
    std::vector<float> importance(whole.levels.size(), -1.0F);
    plan.estimate_importance(io, importance.data(), bytes);
    std::vector<LevelCode> levels(whole.levels.size(), 99);
    plan.assign_levels(io, importance.data(), levels.data(), bytes);
    EXPECT_EQ(levels, whole.levels);
    std::fill(levels.begin(), levels.end(), LevelCode{99});
    plan.select_levels(io, levels.data(), bytes);
    EXPECT_EQ(levels, whole.levels);
    const CallResult reused = call_plan(plan, qkv, {.levels = levels});
    EXPECT_TRUE(reused.out.buffer().has_same_bytes(whole.out.buffer()));
    EXPECT_TRUE(workspace.is_intact());
  }
}

TEST(Forward, StagesOneByOneGiveTheMapOfAWholeCall) {
  expect_map_of_whole_call_by_stages(video(Importance::kPooledLse));
  expect_map_of_whole_call_by_stages(shared_budget_video(Importance::kPooledLse));
}

TEST(Forward, ADensePlanHasNoImportanceToGive) {
  Problem problem;
  problem.config.budget = {1, 1, 1, 1, 1};
  QkvTensors qkv = random_qkv(problem, 7);
  const core::Plan plan = make_plan(problem, {});
  GuardedBuffer workspace(plan.workspace_bytes());
  core::CallIo io;
  io.q = qkv.q.view();
  io.k = qkv.k.view();
  std::vector<float> importance(16);
  EXPECT_THROW(
      plan.estimate_importance(io, importance.data(), {workspace.data(), workspace.size()}), Error);
}

TEST(Forward, S4PyramidStageGivesOneLevelAlone) {
  for (const Compat compat : {Compat::kNone, Compat::kOfficial}) {
    for (const core::PlanOptions& options : every_backend()) {
      Problem problem;
      problem.shape = {1, 2, 2, 300, 300, 8};
      problem.shape.dtype_kv = DType::kBF16;
      problem.config.block_q = problem.config.block_kv = 128;
      problem.config.compat = compat;
      problem.config.rest = Rest::kSkip;
      QkvTensors qkv = random_qkv(problem, 5);
      Pyramid want =
          StageRunner(core::choose_backend("reference", "", problem.geometry()), problem.geometry())
              .pyramid(qkv.inputs());
      const core::Plan plan = make_plan(problem, options);
      GuardedBuffer workspace(plan.workspace_bytes());
      core::CallIo io;
      io.k = qkv.k.view();
      io.v = qkv.v.view();
      const index_t rows = compat == Compat::kOfficial ? 96 : 75;  // official: of whole blocks
      Tensor k({1, 2, rows, 8}, DType::kBF16);
      Tensor v({1, 2, rows, 8}, DType::kBF16);
      plan.build_pyramid(io, 3, k.view().data, v.view().data, {workspace.data(), workspace.size()});
      // One unit in the last place of bf16 where the exact mean lies near a rounding boundary.
      EXPECT_TRUE(is_close(values_of(k), values_of(want.k(3)), 0x1p-7)) << describe(options);
      EXPECT_TRUE(is_close(values_of(v), values_of(want.v(3)), 0x1p-7)) << describe(options);
    }
  }
}

TEST(Forward, RefusesLevelMapsThatThePlanCannotRead) {
  Problem problem;
  problem.config.num_levels = 2;
  problem.config.rest = Rest::kSkip;
  QkvTensors qkv = random_qkv(problem, 6);
  const core::Plan plan = make_plan(problem, reference());
  for (const LevelCode bad : {LevelCode{3}, LevelCode{6}, LevelCode{200}}) {
    std::vector<LevelCode> levels(16, 1);
    levels[5] = bad;
    try {
      (void)call_plan(plan, qkv, {.levels = levels});
      ADD_FAILURE() << "code " << int{bad} << " was accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("levels[5]"), std::string::npos) << error.what();
    }
  }
}

TEST(Forward, S21DensityCountsComputedColumns) {
  Problem problem;  // 4 x 4 blocks of 16
  const core::Geometry g = problem.geometry();
  const std::vector<LevelCode> levels{1, 2, 3, 4, 0, 0, 0, 0, 6, 6, 6, 6, 1, 1, 1, 1};
  std::vector<double> rows(4);
  const auto stats = core::measure_levels(g, levels.data(), nullptr, rows.data());
  EXPECT_DOUBLE_EQ(rows[0], (16 + 8 + 4 + 2) / 64.0);
  EXPECT_DOUBLE_EQ(rows[1], 0.0);
  EXPECT_DOUBLE_EQ(rows[2], 4 / 64.0);
  EXPECT_DOUBLE_EQ(rows[3], 1.0);
  EXPECT_DOUBLE_EQ(stats.density, (30 + 4 + 64) / 256.0);
  EXPECT_EQ(stats.blocks, (std::array<index_t, 7>{4, 5, 1, 1, 1, 0, 4}));
  // pooled_lse: one sub-block pair per block pair of 16 x 16, at half the cost of a logit.
  EXPECT_DOUBLE_EQ(stats.selection_cost, 0.5 / 256);
}

// The map of the test before; head_dim 8 multiply-adds make a unit, two units a computed column.
TEST(Forward, S21CorrectionCountsCovariancesMapsAndTheirProducts) {
  Problem problem;
  const std::vector<LevelCode> levels{1, 2, 3, 4, 0, 0, 0, 0, 6, 6, 6, 6, 1, 1, 1, 1};
  const auto cost = [&](Rest rest) {
    problem.config.rest = rest;
    return core::measure_levels(problem.geometry(), levels.data(), nullptr, nullptr)
        .correction_cost;
  };
  EXPECT_EQ(cost(Rest::kMean), 0.0);
  // 64 keys, 4 covariances in one map, 16 rows, each 8 x 8; 4 variances of 8 channels. 64 x 64
  // columns of 2 x 8.
  EXPECT_DOUBLE_EQ(cost(Rest::kLinear), ((64 + 4 + 16) * 64.0 + 4 * 8) / (64 * 64 * 16.0));
}

// Query blocks of 16: of the probes 0 to 7 two lie in the blocks 0 and 12, and none in block 1.
TEST(Forward, S21CorrectionCountsProbesOfBlocksThatReadMeans) {
  Problem problem;
  problem.shape.len_q = 1024;
  problem.config.rest = Rest::kLinear;
  const core::Geometry g = problem.geometry();
  std::vector<LevelCode> levels = uniform_levels(g, 1);
  const auto cost = [&] {
    return core::measure_levels(g, levels.data(), nullptr, nullptr).correction_cost;
  };
  std::fill_n(levels.begin() + 4, 3, kBlockMean);
  const double of_block = cost();
  std::fill_n(levels.begin(), 3, kBlockMean);
  std::fill_n(levels.begin() + 48, 2, kBlockMean);
  // 64 keys, 3 multiply-adds of 8 channels each, 2 per mean, and a product with the map.
  const double of_probes = 2 * (3 * 64 * 8 + 64) + 2 * (3 + 2) * 8;
  const double of_means = (3 + 16 + 2 + 16) * 64 + (3 + 2) * 8;
  EXPECT_NEAR(cost() - of_block, (of_probes + of_means) / (1024 * 64 * 16.0), 1e-15);
}

TEST(Forward, ScheduleListsEveryReadBlockOnceByLevel) {
  Problem problem;
  const core::Geometry g = problem.geometry();
  const std::vector<LevelCode> levels{2, 1, 0, 6, 0, 0, 0, 0, 1, 2, 1, 2, 6, 4, 3, 1};
  std::vector<index_t> row_begin(5);
  core::build_schedule(g, levels.data(), row_begin.data(), nullptr, 0);
  ASSERT_EQ(row_begin, (std::vector<index_t>{0, 3, 3, 7, 11}));
  std::vector<core::ScheduleEntry> entries(11);
  core::build_schedule(g, levels.data(), row_begin.data(), entries.data(), 11);
  const int want[][2] = {{1, 1}, {0, 2}, {3, 6}, {0, 1}, {2, 1}, {1, 2},
                         {3, 2}, {3, 1}, {2, 3}, {1, 4}, {0, 6}};
  for (std::size_t e = 0; e < 11; ++e) {
    EXPECT_EQ(entries[e].kv_block, want[e][0]);
    EXPECT_EQ(entries[e].level, want[e][1]);
  }
  EXPECT_THROW(core::build_schedule(g, levels.data(), row_begin.data(), entries.data(), 10), Error);
}

}  // namespace
}  // namespace psa::testing
