// SPDX-License-Identifier: Apache-2.0
#include "semantics/density.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace psa::semantics {
namespace {

constexpr SplitRule kMeans{4, 128, true};

TEST(Density, S24UnitsAreTheDefaultSplit) {
  EXPECT_EQ(split_budget(0.2, 4), (Budget{0.11F, 0.17F, 0.25F, 0.57F, 0.57F}));
  EXPECT_EQ(split_budget(0.2, 2), (Budget{0.11F, 0.17F, 0.17F, 0.17F, 0.17F}));
  EXPECT_EQ(split_budget(1.0, 5), (Budget{0.55F, 0.85F, 1, 1, 1})) << "no share above 1";
}

TEST(Density, S24ColumnsOfABudgetCountTheMeans) {
  const Budget budget{0.25F, 0.5F, 0.5F, 0.75F, 1.0F};
  EXPECT_DOUBLE_EQ(budget_density(budget, {4, 128, false}), 0.25 + 0.125 + 0.03125);
  EXPECT_DOUBLE_EQ(budget_density(budget, kMeans), 0.25 + 0.125 + 0.03125 + 0.25 / 128);
  EXPECT_DOUBLE_EQ(budget_density(budget, {1, 16, true}), 0.25 + 0.75 / 16);
  EXPECT_DOUBLE_EQ(budget_density({}, kMeans), least_density(kMeans));
}

TEST(Density, S24BudgetReadsTheDensity) {
  for (const SplitRule& rule : {SplitRule{1, 16, true}, kMeans, SplitRule{5, 64, false}}) {
    for (const double density : {0.07, 0.15, 0.5, 0.97, 1.0}) {
      const Budget budget = budget_of_density(density, rule);
      EXPECT_TRUE(std::is_sorted(budget.begin(), budget.end()));
      EXPECT_NEAR(budget_density(budget, rule), density, 2e-5) << rule.num_levels;
    }
  }
}

TEST(Density, S24DensityOneReadsEveryBlockAtLevelOne) {
  for (const SplitRule& rule : {SplitRule{1, 16, true}, kMeans, SplitRule{5, 64, false}}) {
    EXPECT_EQ(budget_of_density(1.0, rule), (Budget{1, 1, 1, 1, 1}));
  }
}

TEST(Density, S24SharesHaveFiveDigits) {
  // .15 = u (.55 + .30 / 2 + .40 / 4 + 1.60 / 8) + (1 - 2.85 u) / 128, so u = .1454255.
  EXPECT_EQ(budget_of_density(0.15, kMeans),
            (Budget{0.07998F, 0.12361F, 0.18178F, 0.41446F, 0.41446F}));
}

}  // namespace
}  // namespace psa::semantics
