// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/checkpoint.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/scratch_dir.hpp"
#include "psa/error.hpp"

namespace psa::engine {
namespace {

using io::FileDType;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kSingle = "diffusion_pytorch_model.safetensors";
constexpr const char* kIndex = "diffusion_pytorch_model.safetensors.index.json";

const std::array<float, 2> kFloats{1.5F, -2.0F};
const std::array<std::uint16_t, 2> kBf16{0x3FC0, 0xC000};  // 1.5, -2
const std::array<std::uint16_t, 2> kF16{0x3E00, 0xC000};   // 1.5, -2
const std::array<std::int64_t, 2> kLongs{1, 2};

void write(const std::filesystem::path& path, const std::vector<std::string>& names) {
  std::vector<io::TensorInfo> tensors;
  for (const std::string& name : names) {
    if (name == "f32") {
      tensors.push_back({name, FileDType::kF32, {1, 2}, std::as_bytes(std::span(kFloats))});
    } else if (name == "bf16") {
      tensors.push_back({name, FileDType::kBF16, {2}, std::as_bytes(std::span(kBf16))});
    } else if (name == "f16") {
      tensors.push_back({name, FileDType::kF16, {2}, std::as_bytes(std::span(kF16))});
    } else {
      tensors.push_back({name, FileDType::kI64, {2}, std::as_bytes(std::span(kLongs))});
    }
  }
  io::write_safetensors(path, tensors);
}

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kIo) << error.what();
    return error.what();
  }
  return "(accepted)";
}

TEST(Checkpoint, ValuesOfEveryFloatTypeBecomeFloat) {
  const io::ScratchDir dir;
  write(dir.path(kSingle), {"f32", "bf16", "f16"});
  const Checkpoint checkpoint = Checkpoint::open(dir.root());
  EXPECT_THAT(checkpoint.values("f32", {1, 2}), ElementsAre(1.5F, -2.0F));
  EXPECT_THAT(checkpoint.values("bf16", {2}), ElementsAre(1.5F, -2.0F));
  EXPECT_THAT(checkpoint.values("f16", {2}), ElementsAre(1.5F, -2.0F));
}

TEST(Checkpoint, ShardsAreFoundThroughTheIndex) {
  const io::ScratchDir dir;
  write(dir.path("a.safetensors"), {"f32"});
  write(dir.path("b.safetensors"), {"bf16"});
  io::put_content(dir.path(kIndex),
                  R"({"metadata":{},"weight_map":{"f32":"a.safetensors","bf16":"b.safetensors",
                      "ghost":"b.safetensors"}})");
  const Checkpoint checkpoint = Checkpoint::open(dir.root());
  EXPECT_THAT(checkpoint.values("f32", {1, 2}), ElementsAre(1.5F, -2.0F));
  EXPECT_THAT(checkpoint.values("bf16", {2}), ElementsAre(1.5F, -2.0F));
  EXPECT_THAT(refusal([&] { static_cast<void>(checkpoint.values("ghost", {2})); }),
              HasSubstr("tensor 'ghost' is missing"));
}

TEST(Checkpoint, WrongTensorsAreNamedWithExpectedAndFound) {
  const io::ScratchDir dir;
  write(dir.path(kSingle), {"f32", "ids"});
  const Checkpoint checkpoint = Checkpoint::open(dir.root());
  EXPECT_THAT(refusal([&] {
                static_cast<void>(checkpoint.values("blocks.0.w", {3, 4}));
              }),
              AllOf(HasSubstr(kSingle), HasSubstr("tensor 'blocks.0.w' is missing"),
                    HasSubstr("[3, 4] of F32, F16 or BF16")));
  EXPECT_THAT(refusal([&] {
                static_cast<void>(checkpoint.values("f32", {2, 1}));
              }),
              HasSubstr("tensor 'f32' is [1, 2] of F32; expected is [2, 1] of F32, F16 or BF16"));
  EXPECT_THAT(refusal([&] { static_cast<void>(checkpoint.values("ids", {2})); }),
              HasSubstr("tensor 'ids' is [2] of I64; expected is [2] of F32, F16 or BF16"));
}

TEST(Checkpoint, FoldersWithoutWeightsAndBadIndexesAreRefused) {
  const io::ScratchDir dir;
  const auto open = [&] { Checkpoint::open(dir.root()); };
  EXPECT_THAT(refusal(open), AllOf(HasSubstr("holds no weights"), HasSubstr(kIndex)));
  io::put_content(dir.path(kIndex), "{");
  EXPECT_THAT(refusal(open), AllOf(HasSubstr(kIndex), HasSubstr("not valid JSON")));
  for (const char* content : {"{}", R"({"weight_map":[]})"}) {
    io::put_content(dir.path(kIndex), content);
    EXPECT_THAT(refusal(open), AllOf(HasSubstr("'weight_map'"), HasSubstr("expected an object")));
  }
  io::put_content(dir.path(kIndex), R"({"weight_map":{"x":3}})");
  EXPECT_THAT(refusal(open), HasSubstr("'weight_map': 'x' is '3'"));
  io::put_content(dir.path(kIndex), R"({"weight_map":{"x":"../x.safetensors"}})");
  EXPECT_THAT(refusal(open), HasSubstr("a file of the same folder"));
  io::put_content(dir.path(kIndex), R"({"weight_map":{"x":"x.safetensors"}})");
  EXPECT_THAT(refusal(open), HasSubstr("No such file"));
  io::put_content(dir.path(kSingle), "short");
  EXPECT_THAT(refusal(open), HasSubstr("not a valid safetensors file"));
}

}  // namespace
}  // namespace psa::engine
