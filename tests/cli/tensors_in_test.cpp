// SPDX-License-Identifier: Apache-2.0
#include "tensors_in.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/scratch_dir.hpp"
#include "engine/tensors/npy.hpp"
#include "engine/tensors/safetensors.hpp"
#include "psa/error.hpp"

namespace psa::cli {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr std::array<index_t, 4> kShape{2, 3, 5, 4};  // b, h, l, d

// Element (b, h, l, d) is 1000 b + 100 h + 10 l + d, exact in every type.
OwnedTensor numbered(DType dtype, AxisOrder order, const std::array<index_t, 4>& shape = kShape) {
  OwnedTensor t(shape, dtype, order);
  const TensorView& v = t.view();
  for (index_t b = 0; b < shape[0]; ++b) {
    for (index_t h = 0; h < shape[1]; ++h) {
      for (index_t l = 0; l < shape[2]; ++l) {
        for (index_t d = 0; d < shape[3]; ++d) {
          const index_t element = b * v.stride[0] + h * v.stride[1] + l * v.stride[2] + d;
          store_element(v.data, dtype, element, static_cast<float>(100 * b + 30 * h + 5 * l + d));
        }
      }
    }
  }
  return t;
}

bool is_numbered(const TensorView& v) {
  for (index_t b = 0; b < v.shape[0]; ++b) {
    for (index_t h = 0; h < v.shape[1]; ++h) {
      for (index_t l = 0; l < v.shape[2]; ++l) {
        for (index_t d = 0; d < v.shape[3]; ++d) {
          const auto expected = static_cast<float>(100 * b + 30 * h + 5 * l + d);
          if (element_at(v, b, h, l, d) != expected) return false;
        }
      }
    }
  }
  return true;
}

class TensorsIn : public testing::Test {
 protected:
  std::filesystem::path write(const std::string& name, const std::vector<io::TensorInfo>& tensors,
                              const io::Metadata& metadata = {}) {
    const std::filesystem::path path = dir_.path(name);
    io::write_safetensors(path, tensors, metadata);
    return path;
  }

  std::string message_of(const InputOptions& options) {
    try {
      (void)load_inputs(options);
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), Status::kInvalidArgument) << error.what();
      return error.what();
    }
    return "accepted";
  }

  io::ScratchDir dir_;
};

TEST_F(TensorsIn, BothAxisOrdersAndAllTypesGiveTheSameElements) {
  for (const AxisOrder order : {AxisOrder::kBhld, AxisOrder::kBlhd}) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      const OwnedTensor t = numbered(dtype, order);
      InputOptions options;
      options.axis_order = order;
      options.files = {write("a.safetensors", {t.info("q"), t.info("k"), t.info("v")})};
      const AttentionInputs inputs = load_inputs(options);
      EXPECT_EQ(inputs.q.shape, kShape);
      EXPECT_EQ(inputs.v.dtype, dtype);
      EXPECT_TRUE(is_numbered(inputs.q));
      EXPECT_TRUE(is_numbered(inputs.k));
      EXPECT_TRUE(is_numbered(inputs.v));
    }
  }
}

TEST_F(TensorsIn, NamesChooseTensors) {
  const OwnedTensor t = numbered(DType::kF32, AxisOrder::kBhld);
  InputOptions options;
  options.names = {"query", "key", "value"};
  options.files = {write("a.safetensors", {t.info("query"), t.info("key"), t.info("value")})};
  EXPECT_TRUE(is_numbered(load_inputs(options).k));
  options.names = {"q", "key", "value"};
  EXPECT_THAT(message_of(options), HasSubstr("query"));
}

TEST_F(TensorsIn, ViewsOutliveTheMoveOfTheirOwner) {
  const OwnedTensor t = numbered(DType::kF32, AxisOrder::kBhld);
  InputOptions options;
  options.dtype = DType::kBF16;
  options.files = {write("a.safetensors", {t.info("q"), t.info("k"), t.info("v")})};
  AttentionInputs first = load_inputs(options);
  const AttentionInputs second = std::move(first);
  EXPECT_EQ(second.q.dtype, DType::kBF16);
  EXPECT_TRUE(is_numbered(second.q));
}

TEST_F(TensorsIn, KeepsMetadata) {
  const OwnedTensor t = numbered(DType::kF32, AxisOrder::kBhld);
  InputOptions options;
  options.files = {
      write("a.safetensors", {t.info("q"), t.info("k"), t.info("v")}, {{"grid", "1,1,5"}})};
  EXPECT_EQ(load_inputs(options).metadata.at("grid"), "1,1,5");
}

TEST_F(TensorsIn, ReadsThreeNpyFiles) {
  const OwnedTensor t = numbered(DType::kF16, AxisOrder::kBhld);
  InputOptions options;
  for (const char* name : {"q.npy", "k.npy", "v.npy"}) {
    options.files.push_back(dir_.path(name));
    io::write_npy(options.files.back(), t.info("x"));
  }
  EXPECT_TRUE(is_numbered(load_inputs(options).v));
  options.dtype = DType::kF32;
  const AttentionInputs converted = load_inputs(options);
  EXPECT_EQ(converted.k.dtype, DType::kF32);
  EXPECT_TRUE(is_numbered(converted.k));
}

TEST_F(TensorsIn, SixteenBitWordsAreBf16OnlyOnRequest) {
  const OwnedTensor t = numbered(DType::kBF16, AxisOrder::kBhld);
  InputOptions options;
  for (const char* name : {"q.npy", "k.npy", "v.npy"}) {
    options.files.push_back(dir_.path(name));
    io::write_npy(options.files.back(), t.info("x"), io::NpyWords::kBf16);
  }
  EXPECT_THROW((void)load_inputs(options), Error);
  options.dtype = DType::kBF16;
  EXPECT_TRUE(is_numbered(load_inputs(options).q));
}

TEST_F(TensorsIn, RefusesFilesOfTheWrongNumberOrKind) {
  for (const std::vector<std::filesystem::path>& files :
       std::vector<std::vector<std::filesystem::path>>{{},
                                                       {"a.txt"},
                                                       {"a.npy"},
                                                       {"a.npy", "b.npy"},
                                                       {"a.safetensors", "b.safetensors"},
                                                       {"a.npy", "b.npy", "c.safetensors"}}) {
    InputOptions options;
    options.files = files;
    EXPECT_THAT(message_of(options), HasSubstr("allowed: one .safetensors"));
  }
}

TEST_F(TensorsIn, RefusesShapesThatAreNoCall) {
  const auto tensor = [](std::array<index_t, 4> shape, DType dtype = DType::kF32) {
    return OwnedTensor(shape, dtype);
  };
  struct Case {
    OwnedTensor q, k, v;
    std::string expected;
  };
  std::vector<Case> cases;
  cases.push_back(
      {tensor({1, 2, 8, 4}), tensor({1, 2, 8, 4}), tensor({1, 2, 9, 4}), "v has shape"});
  cases.push_back(
      {tensor({2, 2, 8, 4}), tensor({1, 2, 8, 4}), tensor({1, 2, 8, 4}), "its batch must equal"});
  cases.push_back(
      {tensor({1, 2, 8, 4}), tensor({1, 2, 8, 8}), tensor({1, 2, 8, 8}), "its head_dim must"});
  cases.push_back(
      {tensor({1, 3, 8, 4}), tensor({1, 2, 8, 4}), tensor({1, 2, 8, 4}), "its heads must divide"});
  cases.push_back({tensor({1, 2, 8, 4}), tensor({1, 2, 8, 4}), tensor({1, 2, 8, 4}, DType::kF16),
                   "k is f32 and v is f16"});
  for (const Case& c : cases) {
    InputOptions options;
    options.files = {write("bad.safetensors", {c.q.info("q"), c.k.info("k"), c.v.info("v")})};
    EXPECT_THAT(message_of(options), HasSubstr(c.expected));
  }
}

TEST_F(TensorsIn, RefusesOtherRanksTypesAndEmptyAxes) {
  const std::vector<float> data(24);
  const auto bytes = std::as_bytes(std::span(data));
  const io::TensorInfo flat{"q", io::FileDType::kF32, {2, 3, 4}, bytes};
  const io::TensorInfo integers{"q", io::FileDType::kI32, {1, 2, 3, 4}, bytes};
  const io::TensorInfo empty{"q", io::FileDType::kF32, {1, 0, 3, 4}, {}};
  for (const auto& [tensor, expected] :
       {std::pair{flat, "expected 4 axes"}, std::pair{integers, "F32, F16, BF16"},
        std::pair{empty, "every axis must be at least 1"}}) {
    std::vector<io::TensorInfo> tensors{tensor, tensor, tensor};
    tensors[1].name = "k";
    tensors[2].name = "v";
    InputOptions options;
    options.files = {write("bad.safetensors", tensors)};
    EXPECT_THAT(message_of(options), HasSubstr(expected));
  }
}

TEST(OwnedTensor, MemoryThatCannotBeHadIsAnError) {
  EXPECT_THROW(OwnedTensor({1 << 20, 1 << 20, 1 << 20, 256}, DType::kF32), Error);
  EXPECT_THROW(OwnedTensor({1 << 20, 1 << 20, 64, 1}, DType::kF32), Error);
}

TEST(OwnedTensor, InfoHasTheShapeInMemoryOrder) {
  const OwnedTensor t(kShape, DType::kF16, AxisOrder::kBlhd);
  EXPECT_THAT(t.info("x").shape, testing::ElementsAre(2, 5, 3, 4));
  EXPECT_EQ(t.info("x").data.size(), 2U * 2 * 3 * 5 * 4);
}

}  // namespace
}  // namespace psa::cli
