// SPDX-License-Identifier: Apache-2.0
#include "problem.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "psa/error.hpp"
#include "psa/presets.hpp"

namespace psa::cli {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::string message_of(const std::string& line) {
  try {
    (void)parse_problem(line);
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kInvalidArgument);
    return error.what();
  }
  return "accepted";
}

TEST(Problem, ReadsAllSizes) {
  const ProblemShape s = parse_problem("b2h28/4q4096k8192d128:bf16").shape;
  EXPECT_EQ(s.batch, 2);
  EXPECT_EQ(s.heads_q, 28);
  EXPECT_EQ(s.heads_kv, 4);
  EXPECT_EQ(s.len_q, 4096);
  EXPECT_EQ(s.len_kv, 8192);
  EXPECT_EQ(s.head_dim, 128);
  EXPECT_EQ(s.dtype_q, DType::kBF16);
  EXPECT_EQ(s.dtype_kv, DType::kBF16);
  EXPECT_EQ(s.dtype_out, DType::kBF16);
}

TEST(Problem, LeavesOutBatchKeysAndType) {
  const ProblemShape s = parse_problem("h3q100d64").shape;
  EXPECT_EQ(s.batch, 1);
  EXPECT_EQ(s.heads_kv, 3);
  EXPECT_EQ(s.len_kv, 100);
  EXPECT_EQ(s.dtype_q, DType::kF32);
}

TEST(Problem, ReadsATypeForEachTensor) {
  const ProblemShape s = parse_problem("h1q16d64:f32/f16/bf16").shape;
  EXPECT_EQ(s.dtype_q, DType::kF32);
  EXPECT_EQ(s.dtype_kv, DType::kF16);
  EXPECT_EQ(s.dtype_out, DType::kBF16);
}

TEST(Problem, ReadsTheLineOfTheIssue) {
  const Problem p =
      parse_problem("b1h12q32760k32760d128:bf16 grid=21x30x52 rule=quota,.10,.15,.15,.35");
  EXPECT_EQ(p.layout.grid.frames, 21);
  EXPECT_EQ(p.layout.grid.height, 30);
  EXPECT_EQ(p.layout.grid.width, 52);
  EXPECT_EQ(p.config.rule, LevelRule::kQuota);
  EXPECT_EQ(p.config.num_levels, 4);
  EXPECT_THAT(p.config.budget, ElementsAre(0.10F, 0.15F, 0.15F, 0.35F, 0.35F));
}

TEST(Problem, ReadsEverySetting) {
  const Problem p = parse_problem(
      "b1h4/2q512d64 text=12 text_side=back causal rule=threshold,.5,.6 rest=skip block=64x32 "
      "rest_cutoff=1.5 min_full=2 sink=1 sim=.7,.65 share_group_map importance=antidiagonal "
      "samples_q=8 "
      "samples_kv=4 stride=16 pooled=8 weigh_values seed=7 text_keys=sparse text_queries=sparse "
      "tile=1x4x4 "
      "clusters=8x9 iterations=3 scale=.25");
  const Config& c = p.config;
  EXPECT_EQ(p.layout.text_tokens, 12);
  EXPECT_EQ(p.layout.text_side, TextSide::kBack);
  EXPECT_TRUE(c.causal);
  EXPECT_EQ(c.rule, LevelRule::kThreshold);
  EXPECT_EQ(c.num_levels, 2);
  EXPECT_EQ(c.rest, Rest::kSkip);
  EXPECT_EQ(c.rest_cutoff, 1.5F);
  EXPECT_EQ(c.block_q, 64);
  EXPECT_EQ(c.block_kv, 32);
  EXPECT_EQ(c.min_full_blocks, 2);
  EXPECT_EQ(c.sink_blocks, 1);
  ASSERT_TRUE(c.similarity_cap.has_value());
  EXPECT_THAT(*c.similarity_cap, ElementsAre(0.7F, 0.65F, 0.65F, 0.65F));
  EXPECT_TRUE(c.share_group_map);
  EXPECT_EQ(c.importance, Importance::kAntidiagonal);
  EXPECT_EQ(c.samples_q, 8);
  EXPECT_EQ(c.samples_kv, 4);
  EXPECT_EQ(c.antidiagonal_stride, 16);
  EXPECT_EQ(c.pooled_tokens, 8);
  EXPECT_TRUE(c.weigh_values);
  EXPECT_EQ(c.seed, 7U);
  EXPECT_FALSE(c.text_keys_full);
  EXPECT_FALSE(c.text_queries_full);
  EXPECT_THAT(c.tile, ElementsAre(1, 4, 4));
  EXPECT_EQ(c.clusters_q, 8);
  EXPECT_EQ(c.clusters_kv, 9);
  EXPECT_EQ(c.kmeans_iterations, 3);
  EXPECT_EQ(c.softmax_scale, 0.25F);
}

// S-23
TEST(Problem, KnowsEveryRest) {
  EXPECT_EQ(parse_problem("h1q512d64 rest=linear").config.rest, Rest::kLinear);
  EXPECT_EQ(parse_problem("h1q512d64 rest=mean").config.rest, Rest::kMean);
  EXPECT_EQ(parse_problem("h1q512d64 rest=skip").config.rest, Rest::kSkip);
}

// S-24
TEST(Problem, ReadsADensityPerHead) {
  const std::string line = "b1h3q512k512d64:f32 head_density=0.1,0.25,1";
  const Problem p = parse_problem(line);
  EXPECT_THAT(p.config.head_density, ElementsAre(0.1F, 0.25F, 1.0F));
  EXPECT_EQ(p.config.budget, Config{}.budget);
  EXPECT_EQ(format_problem(p), line);
}

TEST(Problem, DensitiesPerHeadOfTheBaseEndWhereTheLineGivesABudget) {
  Problem base;
  base.config.head_density = {0.1F, 0.2F};
  for (const char* word : {"density=.3", "budget=.1,.2", "rule=quota,.1", "rule=dense",
                           "head_density=none", "preset=balanced"}) {
    const Problem p = parse_problem(std::string("h2q512d64 ") + word, base);
    EXPECT_TRUE(p.config.head_density.empty()) << word;
  }
  EXPECT_EQ(parse_problem("h2q512d64 rest=skip", base).config.head_density,
            base.config.head_density);
  EXPECT_THAT(parse_problem("h2q512d64 head_density=.5,.6 density=.3", base).config.head_density,
              ElementsAre(0.5F, 0.6F));
  EXPECT_TRUE(dense_problem(base).config.head_density.empty());
}

// S-28
TEST(Problem, ReadsWhoSharesABudget) {
  const std::string line = "b1h1q512k512d64:f32 budget_scope=head";
  EXPECT_EQ(parse_problem(line).config.budget_scope, BudgetScope::kHead);
  EXPECT_EQ(format_problem(parse_problem(line)), line);
  Problem base;
  base.config.budget_scope = BudgetScope::kHead;
  EXPECT_EQ(parse_problem("h1q512d64", base).config.budget_scope, BudgetScope::kHead);
  EXPECT_EQ(parse_problem("h1q512d64 budget_scope=row", base).config.budget_scope,
            BudgetScope::kRow);
  EXPECT_EQ(dense_problem(base).config.budget_scope, BudgetScope::kRow);
}

TEST(Problem, PresetComesFirstWhereverItStands) {
  const Problem p = parse_problem("h1q512d64 rest=mean preset=wan2.1-14b");
  const Config preset = find_preset("wan2.1-14b").config;
  EXPECT_EQ(p.config.rest, Rest::kMean);
  EXPECT_EQ(preset.rest, Rest::kSkip);
  EXPECT_EQ(p.config.budget, preset.budget);
}

TEST(Problem, UsesTheBaseForWhatTheLineLeavesOut) {
  Problem base;
  base.config.rest = Rest::kSkip;
  base.config.seed = 5;
  const Problem p = parse_problem("h1q512d64 seed=6", base);
  EXPECT_EQ(p.config.rest, Rest::kSkip);
  EXPECT_EQ(p.config.seed, 6U);
}

TEST(Problem, FormatsSizesAloneWhenAllElseIsDefault) {
  EXPECT_EQ(format_problem(parse_problem("h3q100d64")), "b1h3q100k100d64:f32");
}

TEST(Problem, FormatsWhatDiffersFromTheDefaults) {
  const std::string line =
      "b1h28/4q100k200d64:f32/f16/bf16 rule=quota,0.1,0.15,0.15,0.35 rest=skip block=64x128 "
      "share_group_map seed=9 grid=5x5x8 text=3 causal";
  EXPECT_EQ(format_problem(parse_problem(line)), line);
}

TEST(Problem, FormatsAndReadsBackEveryPreset) {
  for (const Preset& preset : presets()) {
    const Problem p{{}, {}, preset.config};
    const std::string line = "b1h1q16k16d64:f32 " + format_settings(p);
    const Problem back = parse_problem(line);
    EXPECT_EQ(format_settings(back), format_settings(p)) << preset.name;
    EXPECT_EQ(back.config.budget_scope, preset.config.budget_scope) << preset.name;
    EXPECT_EQ(back.config.rest, preset.config.rest) << preset.name;
    EXPECT_EQ(back.config.similarity_cap, preset.config.similarity_cap) << preset.name;
    EXPECT_EQ(back.config.num_levels, preset.config.num_levels) << preset.name;
    for (int l = 0; l < preset.config.num_levels; ++l) {
      const auto at = static_cast<std::size_t>(l);
      EXPECT_EQ(back.config.budget[at], preset.config.budget[at]) << preset.name;
    }
  }
}

TEST(Problem, NamesTheWordAtFault) {
  EXPECT_THAT(message_of("h1q16d64 rule=quotaa,.1"),
              AllOf(HasSubstr("rule is 'quotaa'"), HasSubstr("quota, threshold")));
  EXPECT_THAT(message_of("h1q16d64 block=48x64"),
              AllOf(HasSubstr("block is '48x64'"), HasSubstr("16, 32, 64 or 128")));
  EXPECT_THAT(message_of("h1q16d64 grid=2x3"),
              AllOf(HasSubstr("grid is '2x3'"), HasSubstr("F,H,W")));
  EXPECT_THAT(message_of("h1q16d64 rest"), HasSubstr("rest=mean|linear|skip"));
  EXPECT_THAT(message_of("h1q16d64 budget_scope=block"),
              AllOf(HasSubstr("budget_scope is 'block'"), HasSubstr("row, head")));
  EXPECT_THAT(message_of("h1q16d64 preset=nope"), HasSubstr("balanced"));
}

TEST(Problem, SuggestsTheNearestSetting) {
  EXPECT_THAT(message_of("h1q16d64 budgte=.1"), HasSubstr("did you mean 'budget'"));
}

TEST(Problem, RefusesASettingGivenTwice) {
  EXPECT_THAT(message_of("h1q16d64 sim=.5 similarity=.6"), HasSubstr("given twice"));
}

TEST(Problem, RefusesMalformedShapes) {
  for (const char* shape :
       {"", " ", "b1", "q16d64", "h1d64", "h1q16", "h1q16d64:", "h1q16d64:f33", "h1q16d64:f32/f16",
        "h1q16d64x", "h1q0d64", "h0q16d64", "h1q-16d64", "h1q16k0d64", "hq16d64", "h1/q16d64",
        "h1q99999999999999999999d64", "h1q16d64:f32/f16/bf16/f32", "1h1q16d64"}) {
    EXPECT_NE(message_of(shape), "accepted") << shape;
  }
}

TEST(Problem, RefusesNumbersThatAreNone) {
  for (const char* word : {"budget=nan",
                           "budget=-.1",
                           "budget=1.5",
                           "budget=.5,.4",
                           "budget=",
                           "budget=.1,,.2",
                           "budget=.1,.2,.3,.4,.5,.6",
                           "budget=inf",
                           "seed=-1",
                           "seed=1.5",
                           "sink=x",
                           "scale=nan",
                           "scale=-1",
                           "sim=2",
                           "rest_cutoff=-1",
                           "rest_cutoff=129",
                           "rest_cutoff=nan",
                           "min_full=-1",
                           "samples_q=129",
                           "stride=5",
                           "pooled=4",
                           "levels=6",
                           "levels=0",
                           "tile=0x1x1",
                           "clusters=0x4",
                           "iterations=0",
                           "density=0",
                           "density=1.1",
                           "head_density",
                           "head_density=",
                           "head_density=nan",
                           "head_density=.1,",
                           "head_density=.1,1.5",
                           "head_density=-.1",
                           "causal=maybe",
                           "grid=0x1x1",
                           "text=-1",
                           "grid=1x1x1x1"}) {
    EXPECT_NE(message_of(std::string("h1q16d64 ") + word), "accepted") << word;
  }
}

TEST(Problem, RefusesAnEndlessLine) {
  EXPECT_THAT(message_of("h1q16d64 " + std::string(kMaxProblemLength, 'x')),
              HasSubstr("at most 4096"));
}

TEST(Problem, GroupsWordsOfAShellIntoProblems) {
  EXPECT_THAT(problem_lines({"h1q16d64:bf16", "block=64x64", "b2h1q8d64", "budget=.1", "causal"}),
              ElementsAre("h1q16d64:bf16 block=64x64", "b2h1q8d64 budget=.1 causal"));
  EXPECT_THAT(problem_lines({"h1q16d64 sink=1", "h2q16d64"}),
              ElementsAre("h1q16d64 sink=1", "h2q16d64"));
}

TEST(Problem, DenseKeepsWhatDefinesTheAttention) {
  const Problem p = parse_problem(
      "h4/2q512d64 causal scale=.5 rule=threshold,.5 sink=3 sim=.5 block=32x32 text=4");
  const Problem d = dense_problem(p);
  EXPECT_TRUE(d.config.causal);
  EXPECT_EQ(d.config.softmax_scale, 0.5F);
  EXPECT_EQ(d.layout.text_tokens, 4);
  EXPECT_EQ(d.shape.heads_kv, 2);
  EXPECT_EQ(d.config.rule, LevelRule::kQuota);
  EXPECT_EQ(d.config.num_levels, 1);
  EXPECT_EQ(d.config.budget[0], 1.0F);
  EXPECT_FALSE(d.config.similarity_cap.has_value());
  EXPECT_EQ(d.config.sink_blocks, 0);
}

}  // namespace
}  // namespace psa::cli
