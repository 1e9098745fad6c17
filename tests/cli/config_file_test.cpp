// SPDX-License-Identifier: Apache-2.0
#include "config_file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "problem.hpp"
#include "psa/error.hpp"

namespace psa::cli {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::string message_of(const std::string& yaml, const ConfigSelection& selection = {}) {
  try {
    (void)parse_config(yaml, "file.yaml", selection);
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kInvalidArgument);
    return error.what();
  }
  return "accepted";
}

TEST(ConfigFile, ReadsSettings) {
  const FileConfig file = parse_config(
      "# comment\n"
      "rule: quota\n"
      "budget: [.1, .15, .15, .35]\n"
      "rest: skip\n"
      "block: 128x64\n"
      "causal: true\n"
      "grid: [2, 3, 4]\n"
      "text: 7\n"
      "text_side: back\n"
      "warmup_steps: 3\n",
      "file.yaml", {});
  EXPECT_THAT(file.config.budget, ElementsAre(0.1F, 0.15F, 0.15F, 0.35F, 0.35F));
  EXPECT_EQ(file.config.rest, Rest::kSkip);
  EXPECT_EQ(file.config.block_kv, 64);
  EXPECT_TRUE(file.config.causal);
  EXPECT_EQ(file.layout.grid.tokens(), 24);
  EXPECT_EQ(file.layout.text_tokens, 7);
  EXPECT_EQ(file.layout.text_side, TextSide::kBack);
  EXPECT_EQ(file.warmup_steps, 3);
  EXPECT_EQ(file.origin, "file.yaml");
}

// S-24
TEST(ConfigFile, ReadsADensityPerHead) {
  const FileConfig file = parse_config("density: .3\nhead_density: [.1, .25, 1]\n", "f", {});
  EXPECT_THAT(file.config.head_density, ElementsAre(0.1F, 0.25F, 1.0F));
  EXPECT_THAT(message_of("head_density: [.1, .nan]"), HasSubstr("file.yaml:1: head_density"));
  EXPECT_THAT(message_of("head_density: [.1, 2]"), HasSubstr("0..1"));
}

TEST(ConfigFile, StartsFromAPresetWhereverItStands) {
  const FileConfig file = parse_config("rest: mean\npreset: wan2.1-14b\n", "file.yaml", {});
  EXPECT_EQ(file.config.rest, Rest::kMean);
  EXPECT_EQ(file.config.rule, LevelRule::kThreshold);
}

TEST(ConfigFile, ReadsASwitchAsYamlWritesIt) {
  EXPECT_TRUE(parse_config("share_group_map: yes", "f", {}).config.share_group_map);
  EXPECT_FALSE(parse_config("share_group_map: false", "f", {}).config.share_group_map);
}

TEST(ConfigFile, NamesLineAndNearestKey) {
  EXPECT_THAT(message_of("rule: quota\nbudgte: [.1]\n"),
              AllOf(HasSubstr("file.yaml:2"), HasSubstr("budgte"), HasSubstr("'budget'")));
}

TEST(ConfigFile, NamesLineKeyAndValueOfABadValue) {
  EXPECT_THAT(message_of("rule: quota\n\nblock: 48x64\n"),
              AllOf(HasSubstr("file.yaml:3: block is '48x64'"), HasSubstr("16, 32, 64 or 128")));
  EXPECT_THAT(message_of("budget: [.5, .4]"), HasSubstr("cumulative"));
  EXPECT_THAT(message_of("budget: [.nan]"), HasSubstr("budget"));
  EXPECT_THAT(message_of("budget: [.inf]"), HasSubstr("budget"));
  EXPECT_THAT(message_of("budget: {a: 1}"), HasSubstr("list of values"));
  EXPECT_THAT(message_of("budget:"), HasSubstr("list of values"));
  EXPECT_THAT(message_of("budget: [[.1]]"), HasSubstr("plain values"));
  EXPECT_THAT(message_of("warmup_steps: -1"), HasSubstr("warmup_steps"));
}

TEST(ConfigFile, RefusesAKeyGivenTwice) {
  EXPECT_THAT(message_of("rest: skip\nrest: mean\n"),
              AllOf(HasSubstr("file.yaml:2"), HasSubstr("given twice")));
}

TEST(ConfigFile, RefusesModelsThatItHasNot) {
  EXPECT_THAT(message_of("rest: skip", {"Wan2.1_1.3b", ""}), HasSubstr("no models"));
}

TEST(ConfigFile, RefusesHostileYaml) {
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += '[';
  EXPECT_THAT(message_of(deep), HasSubstr("nested deeper"));
  std::string block;
  for (int i = 0; i < 40; ++i) block += std::string(static_cast<std::size_t>(i), ' ') + "a:\n";
  EXPECT_THAT(message_of(block), HasSubstr("nested deeper"));
  EXPECT_THAT(message_of("a: &x [1,1]\nb: &y [*x,*x]\nc: [*y,*y]\n"), HasSubstr("anchors"));
  EXPECT_THAT(message_of("a: *x\n"), testing::Not("accepted"));
  EXPECT_THAT(message_of(std::string(kMaxConfigBytes + 1, ' ')), HasSubstr("at most"));
  EXPECT_THAT(message_of("rest: skip\n---\nrest: mean\n"), HasSubstr("more than one document"));
  EXPECT_THAT(message_of("? [a, b]\n: 1\n"), HasSubstr("key must be a word"));
  std::string wide;
  for (int i = 0; i < 20'000; ++i) wide += "k" + std::to_string(i) + ": 1\n";
  EXPECT_THAT(message_of(wide), HasSubstr("keys in one map"));
}

TEST(ConfigFile, LayersStandOverTheRest) {
  const FileConfig file = parse_config(
      "layers:\n"
      "  0: {rest: skip}\n"
      "  2-4: {density: .3}\n"
      "block: 64x64\n"
      "density: .2\n",
      "file.yaml", {});
  ASSERT_EQ(file.layers.size(), 4U);
  EXPECT_EQ(file.config.rest, Rest::kMean);
  EXPECT_EQ(file.layers.at(0).rest, Rest::kSkip);
  EXPECT_EQ(file.layers.at(0).block_kv, 64);
  EXPECT_EQ(file.layers.at(0).budget, file.config.budget);
  for (const index_t layer : {2, 3, 4}) {
    EXPECT_GT(file.layers.at(layer).budget[0], file.config.budget[0]);
  }
  EXPECT_EQ(file.config_of(0), file.layers.at(0));
  EXPECT_EQ(file.config_of(1), file.config);
  EXPECT_EQ(file.config_of(std::nullopt), file.config);
}

TEST(ConfigFile, NamesWhatIsWrongWithLayers) {
  const auto message = [](const std::string& layers) {
    return message_of("rest: mean\nlayers:" + layers);
  };
  EXPECT_THAT(message(" 5\n"), HasSubstr("file.yaml:2: layers must be a map"));
  EXPECT_THAT(message("\n  x: {rest: skip}\n"),
              AllOf(HasSubstr("file.yaml:3: a key of layers is 'x'"), HasSubstr("0..999")));
  EXPECT_THAT(message("\n  3-1: {rest: skip}\n"), HasSubstr("'1'; allowed: whole numbers 3..999"));
  EXPECT_THAT(message("\n  1000: {rest: skip}\n"), HasSubstr("'1000'"));
  EXPECT_THAT(message("\n  -1: {rest: skip}\n"), HasSubstr("a key of layers is ''"));
  EXPECT_THAT(message("\n  0-2: {rest: skip}\n  2: {rest: mean}\n"),
              HasSubstr("file.yaml:4: layer 2 is given twice"));
  EXPECT_THAT(message("\n  0: skip\n"), HasSubstr("file.yaml:3: layer '0' must be a map"));
  EXPECT_THAT(message("\n  0: {bugdet: .1}\n"),
              AllOf(HasSubstr("file.yaml:3: key 'bugdet'"), HasSubstr("did you mean 'budget'")));
  EXPECT_THAT(message("\n  0: {warmup_steps: 1}\n"), HasSubstr("'warmup_steps' is not known"));
  EXPECT_THAT(message("\n  0:\n    grid: [1, 2, 3]\n"),
              HasSubstr("file.yaml:4: grid is the same for all layers"));
  EXPECT_THAT(message("\n  0: {density: 2}\n"), HasSubstr("file.yaml:3: density is '2'"));
}

TEST(ConfigFile, RefusesWhatIsNoMapOfKeys) {
  for (const char* yaml : {"", "# nothing\n", "just words", "- a\n- b\n", "\"unclosed", "a: [1",
                           "a: b: c", "\t", "%", "{", "a: !!binary x\n  y: z", "\x01\x02"}) {
    EXPECT_NE(message_of(yaml), "accepted") << yaml;
  }
}

TEST(ConfigFile, MissingFileIsAnIoError) {
  try {
    (void)read_config_file("/nonexistent/config.yaml", {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kIo);
    EXPECT_THAT(error.what(), HasSubstr("/nonexistent/config.yaml"));
  }
}

TEST(ConfigFile, DirectoryIsAnIoError) { EXPECT_THROW((void)read_config_file("/tmp", {}), Error); }

}  // namespace
}  // namespace psa::cli
