// SPDX-License-Identifier: Apache-2.0
#include "engine/tensors/safetensors.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "engine/child_process.hpp"
#include "engine/scratch_dir.hpp"
#include "psa/error.hpp"

namespace psa::io {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr int kNumDTypes = static_cast<int>(FileDType::kU64) + 1;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string encoded(std::span<const TensorInfo> tensors, const Metadata& metadata = {}) {
  std::string file;
  encode_safetensors(tensors, metadata, [&](std::span<const std::byte> piece) {
    file.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  });
  return file;
}

std::string refusal_to_write(const std::vector<TensorInfo>& tensors,
                             const Metadata& metadata = {}) {
  try {
    encoded(tensors, metadata);
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kInvalidArgument);
    return error.what();
  }
  return "(written)";
}

TEST(Safetensors, EveryDTypeSurvivesARoundTrip) {
  // 8 elements: a whole number of bytes of every type.
  std::vector<std::string> contents;
  for (int i = 0; i < kNumDTypes; ++i) {
    const auto bytes = static_cast<std::size_t>(bits_of(static_cast<FileDType>(i)));
    contents.emplace_back(bytes, static_cast<char>('a' + i));
  }
  std::vector<TensorInfo> tensors;
  for (int i = 0; i < kNumDTypes; ++i) {
    const auto dtype = static_cast<FileDType>(i);
    tensors.push_back({std::string(name_of(dtype)),
                       dtype,
                       {2, 4},
                       bytes_of(contents[static_cast<std::size_t>(i)])});
  }
  const std::string file_bytes = encoded(tensors);
  const SafetensorsFile file = SafetensorsFile::from_bytes(bytes_of(file_bytes), "memory");
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const TensorInfo& expected : tensors) {
    const TensorInfo& tensor = file.at(expected.name);
    EXPECT_EQ(tensor.dtype, expected.dtype);
    EXPECT_THAT(tensor.shape, ElementsAre(2, 4));
    EXPECT_TRUE(std::ranges::equal(tensor.data, expected.data)) << expected.name;
    const auto offset = static_cast<std::size_t>(tensor.data.data() - bytes_of(file_bytes).data());
    EXPECT_EQ(offset % static_cast<std::size_t>(std::max(1, bits_of(tensor.dtype) / 8)), 0U);
  }
}

TEST(Safetensors, NamesShapesAndMetadataSurviveARoundTrip) {
  const std::string four = "1234";
  const std::vector<TensorInfo> tensors{
      {"", FileDType::kF32, {}, bytes_of(four)},
      {"a\"b\\c\n\xE2\x82\xAC", FileDType::kF32, {0, 7}, {}},
      {"long axes", FileDType::kI32, {1, 1, 1, 1, 1, 1, 1, 1, 1}, bytes_of(four)},
  };
  const Metadata metadata{{"grid", "16,32,32"}, {"", "\t\"\xC3\xA4"}};
  const std::string file_bytes = encoded(tensors, metadata);
  const SafetensorsFile file = SafetensorsFile::from_bytes(bytes_of(file_bytes), "memory");
  EXPECT_EQ(file.metadata(), metadata);
  EXPECT_THAT(file.names(), ElementsAre(tensors[0].name, tensors[1].name, tensors[2].name));
  for (const TensorInfo& expected : tensors) {
    EXPECT_EQ(file.at(expected.name).shape, expected.shape);
    EXPECT_EQ(file.at(expected.name).data.size(), expected.data.size());
  }
}

TEST(Safetensors, FileLayoutIsTheFormats) {
  const std::string two_halves = "\x01\x02\x03\x04";
  const TensorInfo tensor{"q", FileDType::kBF16, {2}, bytes_of(two_halves)};
  const std::string file = encoded({&tensor, 1}, {{"k", "v"}});
  const std::string json =
      R"({"__metadata__":{"k":"v"},"q":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}})";
  const std::string padding(128 - 8 - json.size(), ' ');
  const std::string length = std::string("\x78\0\0\0\0\0\0\0", 8);  // 120 = 128 - 8
  EXPECT_EQ(file, length + json + padding + two_halves);
}

TEST(Safetensors, OpenedFileGivesTypedValues) {
  const ScratchDir dir;
  const std::array<float, 3> floats{1.0F, -2.5F, 3.0F};
  const std::array<std::uint16_t, 2> halves{0x3F80, 0x4000};
  const std::array<std::int64_t, 1> longs{-5};
  const std::array<std::uint8_t, 3> levels{0, 1, 6};
  const std::vector<TensorInfo> tensors{
      {"levels", FileDType::kU8, {3}, std::as_bytes(std::span(levels))},
      {"floats", FileDType::kF32, {3}, std::as_bytes(std::span(floats))},
      {"halves", FileDType::kBF16, {2, 1}, std::as_bytes(std::span(halves))},
      {"longs", FileDType::kI64, {1}, std::as_bytes(std::span(longs))}};
  write_safetensors(dir.path("t.safetensors"), tensors);
  const SafetensorsFile file = SafetensorsFile::open(dir.path("t.safetensors"));
  EXPECT_THAT(file.values<float>("floats"), ElementsAre(1.0F, -2.5F, 3.0F));
  EXPECT_THAT(file.values<std::uint16_t>("halves"), ElementsAre(0x3F80, 0x4000));
  EXPECT_THAT(file.values<std::int64_t>("longs"), ElementsAre(-5));
  EXPECT_THAT(file.values<std::uint8_t>("levels"), ElementsAre(0, 1, 6));
  // Aligned by the writer, so the values are views of the mapping and not copies.
  EXPECT_EQ(static_cast<const void*>(file.values<float>("floats").data()),
            static_cast<const void*>(file.at("floats").data.data()));
  EXPECT_THROW(static_cast<void>(file.values<float>("halves")), Error);
  EXPECT_THROW(static_cast<void>(file.values<std::uint16_t>("floats")), Error);
}

TEST(Safetensors, MisalignedTensorsAreReadThroughOneCopy) {
  // 8 + 60 bytes before the data, whose first tensor moves the second to an odd address.
  const std::string json = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                           R"("e":{"dtype":"F64","shape":[0],"data_offsets":[1,1]},)"
                           R"("x":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(json.size());
  const std::array<float, 2> floats{1.5F, -7.0F};
  bytes += json + "a";
  bytes.append(reinterpret_cast<const char*>(floats.data()), sizeof(floats));

  for (int shift = 0; shift < 4; ++shift) {  // every alignment of the file itself
    const std::string shifted = std::string(static_cast<std::size_t>(shift), '-') + bytes;
    const auto whole = bytes_of(shifted).subspan(static_cast<std::size_t>(shift));
    const SafetensorsFile file = SafetensorsFile::from_bytes(whole, "memory");
    EXPECT_TRUE(file.aligned_data(file.at("e")).empty());
    std::span<const float> values;
    std::thread other([&] { values = file.values<float>("x"); });
    const std::span<const float> same_values = file.values<float>("x");
    other.join();
    EXPECT_THAT(values, ElementsAre(1.5F, -7.0F));
    EXPECT_EQ(values.data(), same_values.data());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(values.data()) % alignof(float), 0U);
  }
}

TEST(Safetensors, MovedFileKeepsItsNamesAndData) {
  const std::string content = "12345678";
  const std::vector<TensorInfo> tensors{{"x", FileDType::kU8, {8}, bytes_of(content)}};
  const std::string bytes = encoded(tensors);
  SafetensorsFile first = SafetensorsFile::from_bytes(bytes_of(bytes), "memory");
  const SafetensorsFile second = std::move(first);
  ASSERT_NE(second.find("x"), nullptr);
  EXPECT_EQ(second.values<std::uint8_t>("x")[7], '8');
}

TEST(Safetensors, MissingTensorIsNamedWithThoseThatExist) {
  const std::vector<TensorInfo> tensors{{"q", FileDType::kU8, {0}, {}},
                                        {"k", FileDType::kU8, {0}, {}}};
  const std::string bytes = encoded(tensors);
  const SafetensorsFile file = SafetensorsFile::from_bytes(bytes_of(bytes), "in.safetensors");
  EXPECT_EQ(file.find("v"), nullptr);
  try {
    static_cast<void>(file.at("v"));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kInvalidArgument);
    EXPECT_STREQ(error.what(), "'in.safetensors' has no tensor 'v'; it has 2: 'q', 'k'");
  }
}

TEST(Safetensors, UnreadablePathsAreReported) {
  const ScratchDir dir;
  const auto message_of = [](const std::filesystem::path& path) -> std::string {
    try {
      SafetensorsFile::open(path);
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), Status::kIo);
      return error.what();
    }
    return "(opened)";
  };
  EXPECT_EQ(message_of(dir.path("missing")),
            "cannot read '" + dir.path("missing").native() + "': No such file or directory");
  EXPECT_THAT(message_of(dir.root()), HasSubstr("is a directory"));
  put_content(dir.path("empty"), "");
  EXPECT_THAT(message_of(dir.path("empty")), HasSubstr("the file has 0 bytes"));
  ASSERT_EQ(::mkfifo(dir.path("fifo").c_str(), 0600), 0);
  EXPECT_THAT(message_of(dir.path("fifo")), HasSubstr("not a regular file"));
  put_content(dir.path("secret"), "x");
  ::chmod(dir.path("secret").c_str(), 0000);
  EXPECT_THAT(io_error_in_child({.is_unprivileged = true},
                                [&] { SafetensorsFile::open(dir.path("secret")); }),
              HasSubstr("Permission denied"));
}

TEST(Safetensors, FailedWriteKeepsTheExistingFile) {
  const ScratchDir dir;
  const std::string small = "1234";
  const std::vector<TensorInfo> before{{"x", FileDType::kF32, {1}, bytes_of(small)}};
  write_safetensors(dir.path("t.safetensors"), before);
  const std::string content = content_of(dir.path("t.safetensors"));

  const std::string large(100'000, 'x');
  const std::vector<TensorInfo> after{{"x", FileDType::kU8, {100'000}, bytes_of(large)}};
  const std::string message = io_error_in_child(
      {.max_file_bytes = 65536}, [&] { write_safetensors(dir.path("t.safetensors"), after); });
  EXPECT_THAT(message, AllOf(HasSubstr("t.safetensors"), HasSubstr("File too large")));
  EXPECT_EQ(content_of(dir.path("t.safetensors")), content);
  EXPECT_THAT(dir.listing(), ElementsAre("t.safetensors"));
}

TEST(Safetensors, OpenFileOutlivesItsReplacement) {
  const ScratchDir dir;
  const std::string old_content = "old!";
  const std::string new_content = "new content";
  const std::vector<TensorInfo> before{{"x", FileDType::kU8, {4}, bytes_of(old_content)}};
  const std::vector<TensorInfo> after{{"x", FileDType::kU8, {11}, bytes_of(new_content)}};
  write_safetensors(dir.path("t"), before);
  const SafetensorsFile file = SafetensorsFile::open(dir.path("t"));
  write_safetensors(dir.path("t"), after);
  EXPECT_TRUE(std::ranges::equal(file.at("x").data, bytes_of(old_content)));
  EXPECT_EQ(SafetensorsFile::open(dir.path("t")).at("x").data.size(), 11U);
}

TEST(Safetensors, WhatCannotBeReadBackIsNotWritten) {
  const std::string four = "1234";
  const auto tensor = [&](std::string name, std::vector<index_t> shape) {
    return TensorInfo{std::move(name), FileDType::kF32, std::move(shape), bytes_of(four)};
  };
  EXPECT_EQ(refusal_to_write({tensor("x", {1})}), "(written)");
  EXPECT_THAT(refusal_to_write({tensor("x", {2})}),
              HasSubstr("4 bytes of data, which do not fit shape [2] of F32"));
  EXPECT_THAT(refusal_to_write({tensor("x", {-1})}), HasSubstr("do not fit shape [-1]"));
  EXPECT_THAT(refusal_to_write({tensor("x", {INT64_MAX, 2})}), HasSubstr("do not fit"));
  EXPECT_THAT(refusal_to_write({tensor("x", std::vector<index_t>(65, 1))}),
              HasSubstr("at most 64"));
  EXPECT_THAT(refusal_to_write({tensor("x", {}), tensor("x", {})}), HasSubstr("given twice"));
  EXPECT_THAT(refusal_to_write({tensor("__metadata__", {})}), HasSubstr("reserves"));
  EXPECT_THAT(refusal_to_write({tensor("\xFF", {})}), HasSubstr("UTF-8"));
  EXPECT_THAT(refusal_to_write({tensor("x", {})}, {{"k", "\xFF"}}), HasSubstr("UTF-8"));
  EXPECT_THAT(refusal_to_write({tensor("x", {})}, {{"k", std::string(kMaxHeaderBytes, 'v')}}),
              HasSubstr("at most 100000000 are allowed"));
}

TEST(Safetensors, RefusedTensorsLeaveNoFile) {
  const ScratchDir dir;
  const std::vector<TensorInfo> wrong{{"x", FileDType::kF32, {2}, {}}};
  EXPECT_THROW(write_safetensors(dir.path("t"), wrong), Error);
  EXPECT_TRUE(dir.listing().empty());
}

TEST(TensorInfo, StorageBytesAreExactUpToTheLimit) {
  using Shape = std::vector<index_t>;
  EXPECT_EQ(storage_bytes(FileDType::kU8, Shape{INT64_MAX}), INT64_MAX);
  EXPECT_EQ(storage_bytes(FileDType::kF4, Shape{INT64_MAX - 1}), INT64_MAX / 2);
  EXPECT_EQ(storage_bytes(FileDType::kF4, Shape{INT64_MAX}), std::nullopt);
  EXPECT_EQ(storage_bytes(FileDType::kF16, Shape{INT64_MAX / 2}), INT64_MAX - 1);
  EXPECT_EQ(storage_bytes(FileDType::kF16, Shape{INT64_MAX / 2 + 1}), std::nullopt);
  EXPECT_EQ(storage_bytes(FileDType::kF6E2M3, Shape{4}), 3);
  EXPECT_EQ(storage_bytes(FileDType::kF6E2M3, Shape{2}), std::nullopt);
  EXPECT_EQ(storage_bytes(FileDType::kF64, Shape{}), 8);
  EXPECT_EQ(storage_bytes(FileDType::kF64, Shape{INT64_MAX, 0}), 0);
  EXPECT_EQ(storage_bytes(FileDType::kU8, Shape{-2, -3}), std::nullopt);
}

TEST(TensorInfo, DTypeNamesAreUniqueAndKnown) {
  for (int i = 0; i < kNumDTypes; ++i) {
    const auto dtype = static_cast<FileDType>(i);
    EXPECT_EQ(file_dtype_of(name_of(dtype)), dtype);
  }
  EXPECT_EQ(file_dtype_of("F8"), std::nullopt);
  EXPECT_EQ(compute_dtype(FileDType::kBF16), DType::kBF16);
  EXPECT_EQ(compute_dtype(FileDType::kI32), std::nullopt);
}

}  // namespace
}  // namespace psa::io
