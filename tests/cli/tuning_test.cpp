// SPDX-License-Identifier: Apache-2.0
// Parts of psa tune that need no model: targets, budgets, prompts, the price of a warm-up, folders.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "engine/tensors/atomic_file.hpp"
#include "psa/error.hpp"
#include "temporary_folder.hpp"
#include "tuning_budgets.hpp"
#include "tuning_prompts.hpp"
#include "tuning_target.hpp"
#include "tuning_videos.hpp"

namespace psa::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string error_of(const auto& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(TuneTarget, IsADensityAnErrorOrAPsnr) {
  const TuneTarget density = parse_target("density=.1");
  EXPECT_EQ(density.kind, TuneTarget::Kind::kDensity);
  EXPECT_EQ(density.value, 0.1);
  EXPECT_EQ(parse_target("error=0.05").kind, TuneTarget::Kind::kError);
  const TuneTarget psnr = parse_target("psnr=35");
  EXPECT_EQ(psnr.kind, TuneTarget::Kind::kPsnr);
  EXPECT_EQ(psnr.value, 35);
  EXPECT_EQ(name_of(psnr.kind), "psnr");
}

TEST(TuneTarget, OutOfRangeIsRefusedWithWhatWasGiven) {
  for (const char* text : {"density=0", "density=1", "error=1", "psnr=0", "psnr=101", "psnr=nan",
                           "psnr=", "psnr", "ssim=.9", "", "=1"}) {
    EXPECT_THAT(error_of([&] { static_cast<void>(parse_target(text)); }), HasSubstr("--target"))
        << text;
  }
}

/// Of one layer; `captures`: errors of each, [density][head].
Ladder ladder_of(Rest rest, const std::vector<double>& densities,
                 const std::vector<std::vector<std::vector<double>>>& captures) {
  Ladder ladder;
  ladder.candidate.config.rest = rest;
  ladder.candidate.config.num_levels = 1;
  ladder.wanted = densities;
  for (const double density : densities) ladder.measured.emplace_back().add(density);
  for (const auto& errors : captures) ladder.captures.push_back({0, errors});
  return ladder;
}

std::vector<double> densities_of(const Budgets& budgets) {
  std::vector<double> densities;
  for (const HeadBudget& head : budgets.heads) densities.push_back(head.expected_density);
  return densities;
}

TEST(TuningBudgets, NoHeadLosesMoreThanBinaryBlocksOnAnyCapture) {
  const std::vector<double> densities{.1, .2, .3};
  const std::vector<std::vector<double>> errors{{.10, .8}, {.05, .4}, {.02, .1}};
  const std::vector<std::vector<double>> poor{{.20, .9}, {.15, .9}, {.11, .9}};
  const std::vector<std::vector<double>> good{{.20, .9}, {.04, .8}, {.03, .7}};
  const auto near = [](double x) { return testing::DoubleNear(x, 1e-9); };
  TuningSearch search;
  search.finalists = {ladder_of(Rest::kLinear, densities, {errors, errors})};
  EXPECT_THAT(densities_of(budgets_of_density(search, .2)), ElementsAre(near(.1), near(.3)));
  search.binary = ladder_of(Rest::kSkip, densities, {poor, good});
  // Head 0 may lose .04 + .0025, which it does a quarter of the way from .2 to .3.
  EXPECT_THAT(densities_of(budgets_of_density(search, .2)), ElementsAre(near(.225), near(.175)));
  const Budgets free = budgets_of_error(search, .2);
  EXPECT_GT(densities_of(free)[0], .1);
  EXPECT_LE(free.predicted_error, .2 + 1e-9);
  search.binary = ladder_of(Rest::kSkip, densities, {poor, poor});
  EXPECT_THAT(densities_of(budgets_of_density(search, .2)), ElementsAre(near(.1), near(.3)));
  // What reads blocks alone is not held to itself.
  search.binary = search.finalists[0];
  search.finalists[0].candidate.config.rest = Rest::kSkip;
  EXPECT_THAT(densities_of(budgets_of_density(search, .2)), ElementsAre(near(.1), near(.3)));
}

TEST(TuningBudgets, AllHeadsMayLoseMoreWhereTheDensityIsTooSmall) {
  const std::vector<double> densities{.1, .2};
  TuningSearch search;
  search.finalists = {ladder_of(Rest::kLinear, densities, {{{.3, .3, .002}, {.1, .1, .001}}})};
  search.binary = ladder_of(Rest::kSkip, densities, {{{.1, .1, .3}, {.05, .05, .3}}});
  const Budgets budgets = budgets_of_density(search, .15);
  EXPECT_NEAR(budgets.predicted_density, .15, 1e-9);
  EXPECT_NEAR(densities_of(budgets)[0], densities_of(budgets)[1], .03);
  EXPECT_NEAR(densities_of(budgets)[2], .1, 1e-9);
}

TEST(DensityAfterWarmup, MakesTheMeanOfAllSteps) {
  for (const int warmup : {0, 1, 3}) {
    const double after = density_after_warmup(0.2, warmup, 20);
    EXPECT_NEAR(warmup + (20 - warmup) * after, 0.2 * 20, 1e-12);
  }
  EXPECT_LE(density_after_warmup(0.2, 4, 20), 1e-12);
  EXPECT_LT(density_after_warmup(0.2, 5, 20), 0);
  EXPECT_EQ(density_after_warmup(0.2, 20, 20), 0);
}

TEST(TuningPrompts, AreThoseGivenElseOfTheFileElseOfTheModel) {
  const TemporaryFolder folder;
  const std::filesystem::path& model = folder.path();
  EXPECT_THAT(error_of([&] { static_cast<void>(tuning_prompts({}, "", model)); }),
              HasSubstr("--prompt TEXT or --prompts FILE is needed"));
  io::write_file(model / kPromptsFile, std::string("# two\n\n own \r\nother"));
  io::write_file(model / "list.txt", std::string("listed\n"));
  EXPECT_THAT(tuning_prompts({}, "", model), ElementsAre("own", "other"));
  EXPECT_THAT(tuning_prompts({}, (model / "list.txt").string(), model), ElementsAre("listed"));
  EXPECT_THAT(tuning_prompts({"b", "a"}, "", model), ElementsAre("b", "a"));
  EXPECT_THAT(error_of([&] {
                static_cast<void>(tuning_prompts({"a", "b", "a"}, "", model));
              }),
              HasSubstr("twice"));
}

TEST(TuningPrompts, FilesWithoutAnyAreRefused) {
  const TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "list.txt";
  EXPECT_THAT(error_of([&] { static_cast<void>(read_prompts(file)); }), HasSubstr("cannot read"));
  io::write_file(file, std::string("# nothing\n\n"));
  EXPECT_THAT(error_of([&] { static_cast<void>(read_prompts(file)); }), HasSubstr("has none"));
  io::write_file(file, std::string((1 << 18) + 1, 'a'));
  EXPECT_THAT(error_of([&] { static_cast<void>(read_prompts(file)); }), HasSubstr("larger"));
}

TEST(TemporaryFolder, IsRemovedWithAllThatItHolds) {
  std::filesystem::path path;
  {
    const TemporaryFolder folder;
    path = folder.path();
    std::filesystem::create_directory(path / "inner");
    io::write_file(path / "inner" / "file", std::string("x"));
    EXPECT_TRUE(std::filesystem::is_directory(path));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace psa::cli
