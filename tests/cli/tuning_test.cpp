// SPDX-License-Identifier: Apache-2.0
// Parts of psa tune that need no model: targets, prompts, the price of a warm-up, folders.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "engine/tensors/atomic_file.hpp"
#include "psa/error.hpp"
#include "temporary_folder.hpp"
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
