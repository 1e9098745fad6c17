// SPDX-License-Identifier: Apache-2.0
// A file in the schema of the published attention_config.yaml, with the values of our presets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "config_file.hpp"
#include "problem.hpp"
#include "psa/error.hpp"
#include "psa/presets.hpp"

namespace psa::cli {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr const char* kTwoModels = R"(
Wan2.1_1.3b:
  default_attention: psa_balanced
  video_scale: {width_divisor: 16, height_divisor: 16, depth_divisor: 4}
  text_length: 0
  attention_configs:
    baseline:
      type: dense
      description: "all of it"
    psa_balanced:
      type: psa
      use_rearrange: True
      use_sim_mask: true
      block_size: {m: 128, n: 128, tile_n: 32}
      mask_ratios:
        1: [0.00, 0.50]
        2: [0.50, 0.60]
        4: [0.60, 0.70]
        8: [0.70, 0.80]
        0: [0.80, 1.00]
      mask_mode: thresholdbound
      attn_impl: old_mask_type
      tile_size: [2, 8, 8]
      warmup_steps: 15
      rearrange_method: Gilbert
      verbose: true
      sim_thresholds: {x2: 0.7, x4: 0.65, x8: 0.6}
    psa_topk:
      type: psa
      use_sim_mask: false
      block_size: {m: 128, n: 32, tile_n: 32}
      mask_ratios: {1: [0, .05], 2: [.05, .1], 4: [.1, .15], 8: [.15, .25], 0: [.25, 1]}
      mask_mode: topk
CogVideo_5b:
  default_attention: psa_4steps
  text_length: 226
  attention_configs:
    psa_4steps:
      use_rearrange: false
      use_sim_mask: false
      block_size: {m: 128, n: 128}
      mask_ratios: {1: [0, .05], 2: [.05, .15], 4: [.15, .25], 8: [.25, .5], 0: [.5, 1]}
      mask_mode: topk
      warmup_steps: 0
)";

FileConfig read(const std::string& model, const std::string& attention = "") {
  return parse_config(kTwoModels, "file.yaml", {model, attention});
}

// One model with one configuration whose lines are `body`.
std::string one_model(const std::string& body) {
  return "M:\n  default_attention: a\n  attention_configs:\n    a:\n" + body;
}

constexpr const char* kRatios =
    "      mask_ratios: {1: [0, .1], 2: [.1, .2], 4: [.2, .3], 8: [.3, .4], 0: [.4, 1]}\n";

std::string message_of(const std::string& yaml, const ConfigSelection& selection = {}) {
  try {
    (void)parse_config(yaml, "file.yaml", selection);
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kInvalidArgument);
    return error.what();
  }
  return "accepted";
}

std::string settings_of(const Config& config) { return format_settings({{}, {}, config}); }

TEST(PublishedConfig, EqualsTheBuiltInPresets) {
  EXPECT_EQ(settings_of(read("Wan2.1_1.3b").config),
            settings_of(find_preset("wan2.1-1.3b").config));
  EXPECT_EQ(settings_of(read("Wan2.1_1.3b", "psa_topk").config),
            settings_of(find_preset("wan2.1-1.3b-topk").config));
  EXPECT_EQ(settings_of(read("CogVideo_5b").config),
            settings_of(find_preset("cogvideox-5b-4steps").config));
}

TEST(PublishedConfig, ReadsWhatAnAdapterNeeds) {
  const FileConfig wan = read("Wan2.1_1.3b");
  EXPECT_EQ(wan.warmup_steps, 15);
  EXPECT_EQ(wan.divisor_width, 16);
  EXPECT_EQ(wan.divisor_height, 16);
  EXPECT_EQ(wan.divisor_frames, 4);
  EXPECT_EQ(wan.layout.text_tokens, 0);
  EXPECT_EQ(wan.origin, "file.yaml: Wan2.1_1.3b/psa_balanced");
  EXPECT_EQ(read("CogVideo_5b").layout.text_tokens, 226);
}

TEST(PublishedConfig, DenseEntryReadsEverything) {
  const Config config = read("Wan2.1_1.3b", "baseline").config;
  EXPECT_EQ(config.num_levels, 1);
  EXPECT_EQ(config.budget[0], 1.0F);
}

TEST(PublishedConfig, NamesTheModelsThatExist) {
  EXPECT_THAT(message_of(kTwoModels, {"Wan2.1_1.3", ""}),
              AllOf(HasSubstr("CogVideo_5b"), HasSubstr("did you mean 'Wan2.1_1.3b'")));
  EXPECT_THAT(message_of(kTwoModels, {"CogVideo_5b", "psa_topk"}), HasSubstr("psa_4steps"));
  EXPECT_THAT(message_of(kTwoModels), AllOf(HasSubstr("--model"), HasSubstr("CogVideo_5b")));
}

TEST(PublishedConfig, OnlyModelNeedsNoName) {
  EXPECT_EQ(parse_config(one_model(std::string("      use_sim_mask: false\n") + kRatios), "f", {})
                .config.importance,
            Importance::kSampledMax);
}

TEST(PublishedConfig, TranslatesEveryOrder) {
  const auto order_of = [](const std::string& method) {
    return parse_config(one_model("      use_sim_mask: false\n      rearrange_method: " + method +
                                  "\n      tile_size: [1, 2, 3]\n" + kRatios),
                        "f", {})
        .config;
  };
  EXPECT_EQ(order_of("Gilbert").reorder, Reorder::kGilbert);
  EXPECT_EQ(order_of("STA").reorder, Reorder::kTile3d);
  EXPECT_THAT(order_of("STA").tile, testing::ElementsAre(1, 2, 3));
  EXPECT_EQ(order_of("SemanticAware").reorder, Reorder::kKMeans);
  EXPECT_EQ(order_of("Hybrid").reorder, Reorder::kHybrid);
}

TEST(PublishedConfig, EnergyboundIsTheCausalPath) {
  const Config config = parse_config(one_model(std::string("      use_sim_mask: false\n") +
                                               "      mask_mode: energybound\n" + kRatios),
                                     "f", {})
                            .config;
  EXPECT_EQ(config.rule, LevelRule::kThreshold);
  EXPECT_TRUE(config.causal);
  EXPECT_EQ(config.importance, Importance::kAntidiagonal);
  EXPECT_EQ(config.reorder, Reorder::kNone);
}

TEST(PublishedConfig, MissingLevelTakesNothing) {
  const Config config =
      parse_config(one_model("      use_sim_mask: false\n"
                             "      mask_ratios: {1: [0, .1], 2: [.1, .2], 0: [.2, 1]}\n"),
                   "f", {})
          .config;
  EXPECT_EQ(config.budget[1], 0.2F);
  EXPECT_EQ(config.budget[3], 0.2F);
}

TEST(PublishedConfig, RefusesWhatItWouldMisread) {
  const std::string off = "      use_sim_mask: false\n";
  EXPECT_THAT(message_of(one_model(off + "      mask_ratios: {1: [0, .2], 2: [.3, .4]}\n")),
              HasSubstr("begin where the level before ends"));
  EXPECT_THAT(message_of(one_model(off + "      mask_ratios: {1: [0, .2], 16: [.2, .4]}\n")),
              HasSubstr("'16' is not known"));
  EXPECT_THAT(message_of(one_model(off + "      mask_ratios: {1: [0]}\n")),
              HasSubstr("list of 2 numbers"));
  EXPECT_THAT(message_of(one_model(off + "      mask_ratios: {1: [0, .nan]}\n")),
              HasSubstr("mask_ratios 1 is '.nan'"));
  EXPECT_THAT(message_of(one_model(off)), HasSubstr("mask_ratios is missing"));
  EXPECT_THAT(message_of(one_model(kRatios)), HasSubstr("sim_thresholds"));
  EXPECT_THAT(message_of(one_model(off + kRatios + "      block_size: {m: 100, n: 128}\n")),
              HasSubstr("block_size is '100x128'"));
  EXPECT_THAT(message_of(one_model(off + kRatios + "      mask_mode: top\n")),
              HasSubstr("topk, thresholdbound, energybound"));
  EXPECT_THAT(message_of(one_model(off + kRatios + "      rearrange_method: gilbert\n")),
              HasSubstr("Gilbert, STA"));
  EXPECT_THAT(message_of(one_model(off + kRatios + "      type: sparse\n")),
              HasSubstr("psa, dense"));
}

TEST(PublishedConfig, UnknownKeyIsFoundEvenInAnEntryThatIsNotChosen) {
  const std::string yaml = std::string(kTwoModels) + "    other:\n      maskmode: topk\n";
  EXPECT_THAT(message_of(yaml, {"Wan2.1_1.3b", ""}),
              AllOf(HasSubstr("'maskmode' is not known"), HasSubstr("'mask_mode'")));
}

}  // namespace
}  // namespace psa::cli
