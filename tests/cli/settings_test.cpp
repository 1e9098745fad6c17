// SPDX-License-Identifier: Apache-2.0
#include "settings.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <set>
#include <string>

#include "psa/error.hpp"
#include "psa/presets.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

double planned_density(const Config& c) {
  double density = 0;
  double last = 0;
  for (int l = 0; l < c.num_levels; ++l) {
    const auto upto = static_cast<double>(c.budget[static_cast<std::size_t>(l)]);
    density += (upto - last) / (1 << l);
    last = upto;
  }
  return reads_means(c.rest) ? density + (1 - last) / c.block_kv : density;
}

TEST(Settings, NamesAreUnique) {
  std::set<std::string_view> names;
  for (const Setting& setting : settings()) {
    EXPECT_TRUE(names.insert(setting.name).second) << setting.name;
    if (!setting.alias.empty()) {
      EXPECT_TRUE(names.insert(setting.alias).second) << setting.alias;
    }
    EXPECT_FALSE(setting.help.empty()) << setting.name;
  }
}

TEST(Settings, PresetIsFirstAndDensitiesLast) {
  EXPECT_EQ(settings().front().name, "preset");
  EXPECT_EQ(settings()[settings().size() - 2].name, "density");
  EXPECT_EQ(settings().back().name, "head_density");
}

TEST(Settings, DensityIsMetByTheBudget) {
  for (const Rest rest : {Rest::kMean, Rest::kLinear, Rest::kSkip}) {
    for (const int levels : {1, 2, 3, 4, 5}) {
      for (const int block : {16, 128}) {
        for (const double density : {0.08, 0.15, 0.5, 0.9, 1.0}) {
          Config c;
          c.rest = rest;
          c.num_levels = levels;
          c.block_kv = block;
          set_density(c, density, "density");
          EXPECT_NEAR(planned_density(c), density, 3e-5)
              << levels << " levels, block " << block << ", density " << density;
        }
      }
    }
  }
}

TEST(Settings, DensityGivesTheBudgetOfThePreset) {
  Config c;
  c.num_levels = 1;
  c.rest = Rest::kLinear;
  set_density(c, 0.15, "density");
  EXPECT_NEAR(c.budget[0], find_preset("balanced").config.budget[0], 1e-5);
}

TEST(Settings, DensityLeavesTheDocumentedSplitWithoutMeans) {
  Config c;
  c.rest = Rest::kSkip;
  set_density(c, 0.2, "density");
  EXPECT_NEAR(c.budget[0], 0.55 * 0.2, 1e-6);
  EXPECT_NEAR(c.budget[1], 0.85 * 0.2, 1e-6);
  EXPECT_NEAR(c.budget[2], 1.25 * 0.2, 1e-6);
  EXPECT_NEAR(c.budget[3], 2.85 * 0.2, 1e-6);
}

TEST(Settings, DensityBelowTheCostOfTheMeansIsRefused) {
  Config c;
  EXPECT_THAT([&] { set_density(c, 0.005, "--density"); },
              ThrowsMessage<Error>(HasSubstr("more than 0.0078125")));
  c.rest = Rest::kSkip;
  EXPECT_NO_THROW(set_density(c, 0.005, "--density"));
}

TEST(Settings, DensityNeedsQuota) {
  Config c;
  c.rule = LevelRule::kThreshold;
  EXPECT_THAT([&] { set_density(c, 0.5, "--density"); }, ThrowsMessage<Error>(HasSubstr("quota")));
}

TEST(Settings, DenseRuleReadsEverythingAtLevelOne) {
  Problem p;
  find_setting("rule")->apply(p, "rule", "dense");
  EXPECT_EQ(p.config.num_levels, 1);
  EXPECT_EQ(p.config.budget[0], 1.0F);
}

TEST(Settings, RuleAloneKeepsTheBudget) {
  Problem p;
  const auto budget = p.config.budget;
  find_setting("rule")->apply(p, "rule", "threshold");
  EXPECT_EQ(p.config.rule, LevelRule::kThreshold);
  EXPECT_EQ(p.config.budget, budget);
}

TEST(Settings, MoreLevelsGetNothingUntilABudgetSaysSo) {
  Problem p;
  find_setting("budget")->apply(p, "budget", ".1,.2");
  find_setting("levels")->apply(p, "levels", "4");
  EXPECT_EQ(p.config.num_levels, 4);
  EXPECT_EQ(p.config.budget[3], 0.2F);
}

TEST(Values, SuggestsOnlyNearWords) {
  const std::array<std::string_view, 2> words{"budget", "block"};
  EXPECT_EQ(suggestion("bugdet", words), "; did you mean 'budget'?");
  EXPECT_EQ(suggestion("zzzzzz", words), "");
  EXPECT_EQ(suggestion(std::string(1000, 'b'), words), "");
}

TEST(Values, FloatTextReadsBack) {
  for (const float x : {0.1F, 0.0825F, 1.0F / 3.0F, 1e-30F, 3.4e38F, 0.0F}) {
    EXPECT_EQ(parse_numbers({"x", float_text(x)}, 1, 0, 3.5e38).front(), x);
  }
}

TEST(Values, MessagesShowControlCharactersEscaped) {
  EXPECT_THAT(
      [] {
        (void)parse_integer({"--head", "1\n\x1b[2J"}, 0, 9);
      },
      ThrowsMessage<Error>(testing::Not(HasSubstr("\n"))));
}

}  // namespace
}  // namespace psa::cli
