// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/wan_config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "engine/scratch_dir.hpp"
#include "psa/error.hpp"

namespace psa::engine {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::string refusal(const std::string& json, Status status = Status::kIo) {
  try {
    static_cast<void>(parse_wan_config(io::JsonObject::parse(json, "m/config.json")));
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), status) << error.what();
    return error.what();
  }
  return "(accepted)";
}

TEST(WanConfig, AbsentKeysHaveTheDefaultsOfDiffusers) {
  const WanConfig config = parse_wan_config(io::JsonObject::parse("{}", "m"));
  EXPECT_THAT(config.patch_size, ElementsAre(1, 2, 2));
  EXPECT_EQ(config.dim(), 40 * 128);
  EXPECT_EQ(config.out_channels, 16);
  EXPECT_EQ(config.text_dim, 4096);
  EXPECT_EQ(config.num_layers, 40);
  EXPECT_TRUE(config.cross_attn_norm);
  EXPECT_EQ(config.rope_max_seq_len, 1024);
}

TEST(WanConfig, KeysAreReadAndUnknownOnesIgnored) {
  const WanConfig config = parse_wan_config(io::JsonObject::parse(
      R"({"_class_name":"WanTransformer3DModel","patch_size":[2,1,4],"num_attention_heads":3,
          "attention_head_dim":24,"in_channels":3,"out_channels":null,"text_dim":20,"freq_dim":24,
          "ffn_dim":40,"num_layers":5,"cross_attn_norm":false,"qk_norm":"rms_norm_across_heads",
          "eps":1e-5,"image_dim":null,"added_kv_proj_dim":null,"rope_max_seq_len":64,
          "window_size":[-1,-1]})",
      "m"));
  EXPECT_THAT(config.patch_size, ElementsAre(2, 1, 4));
  EXPECT_EQ(config.patch_volume(), 8);
  EXPECT_EQ(config.dim(), 72);
  EXPECT_EQ(config.out_channels, 3);  // null: as in_channels
  EXPECT_EQ(config.ffn_dim, 40);
  EXPECT_EQ(config.num_layers, 5);
  EXPECT_FALSE(config.cross_attn_norm);
  EXPECT_EQ(config.eps, 1e-5);
  EXPECT_EQ(config.rope_max_seq_len, 64);
}

TEST(WanConfig, BadValuesAreNamed) {
  EXPECT_THAT(refusal("nonsense"), HasSubstr("'m/config.json': not valid JSON"));
  EXPECT_THAT(refusal("[1]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(refusal(R"({"_class_name":"CogVideoXTransformer3DModel"})"),
              AllOf(HasSubstr("'_class_name' is '\"CogVideoXTransformer3DModel\"'"),
                    HasSubstr("WanTransformer3DModel")));
  EXPECT_THAT(refusal(R"({"patch_size":[1,2]})"),
              AllOf(HasSubstr("'patch_size' is '[1,2]'"), HasSubstr("three whole numbers")));
  EXPECT_THAT(refusal(R"({"patch_size":[1,0,2]})"), HasSubstr("patch_size"));
  EXPECT_THAT(refusal(R"({"num_layers":0})"), HasSubstr("'num_layers' is '0'"));
  EXPECT_THAT(refusal(R"({"num_layers":2.5})"),
              AllOf(HasSubstr("'2.5'"), HasSubstr("whole number")));
  EXPECT_THAT(refusal(R"({"num_layers":1e30})"), HasSubstr("num_layers"));
  EXPECT_THAT(refusal(R"({"num_layers":18446744073709551615})"), HasSubstr("num_layers"));
  EXPECT_THAT(refusal(R"({"attention_head_dim":65})"), HasSubstr("even"));
  EXPECT_THAT(refusal(R"({"attention_head_dim":512})"), HasSubstr("6 to 256"));
  EXPECT_THAT(refusal(R"({"freq_dim":31})"), HasSubstr("even"));
  EXPECT_THAT(refusal(R"({"cross_attn_norm":1})"), HasSubstr("true or false"));
  EXPECT_THAT(refusal(R"({"eps":0})"), HasSubstr("eps"));
  EXPECT_THAT(refusal(R"({"ffn_dim":"768"})"), HasSubstr("'ffn_dim' is '\"768\"'"));
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_THAT(refusal(R"({"eps":)" + deep + "}"), HasSubstr("'eps' is a list of 1"));
}

TEST(WanConfig, OtherKindsOfModelAreUnsupported) {
  constexpr Status kUnsupported = Status::kUnsupported;
  EXPECT_THAT(refusal(R"({"image_dim":1280})", kUnsupported),
              AllOf(HasSubstr("'image_dim' is '1280'"), HasSubstr("text-to-video")));
  EXPECT_THAT(refusal(R"({"added_kv_proj_dim":5120})", kUnsupported),
              HasSubstr("added_kv_proj_dim"));
  EXPECT_THAT(refusal(R"({"qk_norm":"layer_norm"})", kUnsupported),
              HasSubstr("only \"rms_norm_across_heads\" is supported"));
}

TEST(WanConfig, SizesMustFitThePatchAndTheRotaryTable) {
  WanConfig config;
  config.patch_size = {1, 4, 4};
  config.rope_max_seq_len = 32;
  const VideoGrid grid = config.grid_of({16, 128, 64});
  EXPECT_EQ(grid.frames, 16);
  EXPECT_EQ(grid.height, 32);
  EXPECT_EQ(grid.width, 16);
  const auto message = [&](const std::array<index_t, 3>& size) -> std::string {
    try {
      static_cast<void>(config.grid_of(size));
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), Status::kInvalidArgument);
      return error.what();
    }
    return "(accepted)";
  };
  EXPECT_EQ(message({16, 130, 64}),
            "the video's height is 130; this model needs a positive multiple of 4, its patch size");
  EXPECT_THAT(message({-1, 128, 64}), HasSubstr("frames is -1"));
  EXPECT_THAT(message({16, 128, 0}), HasSubstr("width is 0"));
  EXPECT_THAT(message({33, 128, 64}), HasSubstr("positions up to 32"));
  EXPECT_THAT(message({16, 132, 64}), HasSubstr("positions up to 128"));
}

TEST(WanConfig, TransformerIsFoundInAPipelineToo) {
  const io::ScratchDir dir;
  try {
    static_cast<void>(transformer_folder(dir.root()));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kIo);
    EXPECT_THAT(error.what(), HasSubstr("neither config.json nor transformer/config.json"));
  }
  std::filesystem::create_directory(dir.path("transformer"));
  io::put_content(dir.path("transformer/config.json"), R"({"num_layers":3})");
  EXPECT_EQ(transformer_folder(dir.root()), dir.path("transformer"));
  EXPECT_EQ(read_wan_config(transformer_folder(dir.root())).num_layers, 3);
  io::put_content(dir.path("config.json"), "{}");
  EXPECT_EQ(transformer_folder(dir.root()), dir.root());
}

}  // namespace
}  // namespace psa::engine
