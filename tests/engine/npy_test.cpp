// SPDX-License-Identifier: Apache-2.0
#include "engine/tensors/npy.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/child_process.hpp"
#include "engine/scratch_dir.hpp"
#include "psa/error.hpp"

namespace psa::io {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::HasSubstr;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

/// A file of version `major`.0 with this header text and `data_bytes` of data.
std::string file_of(std::string_view dict, std::size_t data_bytes, int major = 1) {
  std::string file = "\x93NUMPY";
  file += {static_cast<char>(major), '\0'};
  for (int i = 0; i < (major == 1 ? 2 : 4); ++i) {
    file += static_cast<char>((dict.size() >> (8 * i)) & 0xFFU);
  }
  return file + std::string(dict) + std::string(data_bytes, 'd');
}

std::string refusal(const std::string& bytes, NpyWords words = NpyWords::kRefuse) {
  try {
    NpyFile::from_bytes(bytes_of(bytes), "in.npy", words);
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kIo);
    return error.what();
  }
  return "(accepted)";
}

std::string f4(std::string_view shape) {
  return "{'descr': '<f4', 'fortran_order': False, 'shape': " + std::string(shape) + ", }\n";
}

std::string of_type(std::string_view descr) {
  return "{'descr': " + std::string(descr) + ", 'fortran_order': False, 'shape': (4,), }\n";
}

TEST(Npy, WhatNumPyWritesIsRead) {
  // The bytes of numpy.save(..., numpy.array([[1, 2, 3], [4, 5, 6]], numpy.float32)).
  std::string file("\x93NUMPY\x01\0v\0", 10);
  std::string dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  dict.resize(117, ' ');
  const std::array<float, 6> values{1, 2, 3, 4, 5, 6};
  file += dict + "\n";
  file.append(reinterpret_cast<const char*>(values.data()), sizeof(values));
  const NpyFile npy = NpyFile::from_bytes(bytes_of(file), "x.npy");
  EXPECT_EQ(npy.tensor().dtype, FileDType::kF32);
  EXPECT_EQ(npy.tensor().name, "x.npy");
  EXPECT_THAT(npy.tensor().shape, ElementsAre(2, 3));
  EXPECT_THAT(npy.values<float>(), ElementsAreArray(values));
}

TEST(Npy, WrittenFileHasNumPysBytes) {
  const ScratchDir dir;
  const std::array<float, 6> values{1, 2, 3, 4, 5, 6};
  const TensorInfo tensor{"", FileDType::kF32, {2, 3}, std::as_bytes(std::span(values))};
  write_npy(dir.path("x.npy"), tensor);
  std::string expected("\x93NUMPY\x01\0v\0", 10);
  expected += "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  expected.resize(127, ' ');
  expected += '\n';
  expected.append(reinterpret_cast<const char*>(values.data()), sizeof(values));
  EXPECT_EQ(content_of(dir.path("x.npy")), expected);
}

TEST(Npy, TypesAndShapesSurviveARoundTrip) {
  const ScratchDir dir;
  const std::string content = "01234567";
  const std::vector<TensorInfo> tensors{{"", FileDType::kF32, {2}, bytes_of(content)},
                                        {"", FileDType::kF32, {1, 2, 1, 1}, bytes_of(content)},
                                        {"", FileDType::kF16, {2, 2}, bytes_of(content)},
                                        {"", FileDType::kBF16, {4}, bytes_of(content)},
                                        {"", FileDType::kU8, {8}, bytes_of(content)},
                                        {"", FileDType::kBool, {8}, bytes_of(content)},
                                        {"", FileDType::kI32, {1, 2}, bytes_of(content)},
                                        {"", FileDType::kI64, {}, bytes_of(content)},
                                        {"", FileDType::kF32, {3, 0}, {}}};
  for (const TensorInfo& tensor : tensors) {
    write_npy(dir.path("x.npy"), tensor, NpyWords::kBf16);
    const NpyFile file = NpyFile::open(dir.path("x.npy"), NpyWords::kBf16);
    EXPECT_EQ(file.tensor().dtype, tensor.dtype);
    EXPECT_EQ(file.tensor().shape, tensor.shape);
    EXPECT_TRUE(std::ranges::equal(file.tensor().data, tensor.data));
    EXPECT_EQ(content_of(dir.path("x.npy")).size() % 64, tensor.data.size());
  }
}

TEST(Npy, EveryVersionIsRead) {
  for (const int major : {1, 2, 3}) {
    EXPECT_EQ(refusal(file_of(f4("(2,)"), 8, major)), "(accepted)") << major;
  }
  EXPECT_THAT(refusal(file_of(f4("(2,)"), 8, 4)), HasSubstr("its version is 4.0"));
  EXPECT_THAT(refusal(file_of(f4("(2,)"), 8, 0)), HasSubstr("its version is 0.0"));
}

TEST(Npy, MisalignedValuesAreReadThroughACopy) {
  std::string file = file_of(f4("(2,)") + (f4("(2,)").size() % 2 == 0 ? " " : ""), 0);
  ASSERT_EQ(file.size() % 2, 1U);
  const std::array<float, 2> values{0.5F, -3.0F};
  file.append(reinterpret_cast<const char*>(values.data()), sizeof(values));
  const NpyFile npy = NpyFile::from_bytes(bytes_of(file), "x.npy");
  EXPECT_THAT(npy.values<float>(), ElementsAre(0.5F, -3.0F));
  EXPECT_NE(npy.aligned_data().data(), npy.tensor().data.data());
}

TEST(Npy, WordsAreBf16OnlyIfTheCallerSaysSo) {
  for (const char* descr : {"'<u2'", "'<V2'", "'|V2'"}) {
    const std::string file = file_of(of_type(descr), 8);
    EXPECT_THAT(refusal(file), HasSubstr("read only if they are said to be bf16")) << descr;
    EXPECT_EQ(NpyFile::from_bytes(bytes_of(file), "in.npy", NpyWords::kBf16).tensor().dtype,
              FileDType::kBF16);
  }
  const std::string half = file_of(of_type("'<f2'"), 8);
  EXPECT_EQ(NpyFile::from_bytes(bytes_of(half), "in.npy", NpyWords::kBf16).tensor().dtype,
            FileDType::kF16);
}

struct HostileNpy {
  const char* name;
  std::string bytes;
  const char* reason;  ///< part of the message
};

void PrintTo(const HostileNpy& npy, std::ostream* out) { *out << npy.name; }

class HostileNpys : public testing::TestWithParam<HostileNpy> {};

TEST_P(HostileNpys, AreRefusedWithTheReason) {
  const std::string message = refusal(GetParam().bytes);
  EXPECT_THAT(message, HasSubstr("'in.npy' is not a readable npy file: "));
  EXPECT_THAT(message, HasSubstr(GetParam().reason));
  EXPECT_LT(message.size(), 2000U);
}

std::string name_of_case(const testing::TestParamInfo<HostileNpy>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(
    Npy, HostileNpys,
    testing::Values(
        HostileNpy{"Empty", "", "does not begin"}, HostileNpy{"OtherFile", "PK\3\4", "not begin"},
        HostileNpy{"NoVersion", "\x93NUMPY\x01", "ends inside its version"},
        HostileNpy{"NoLength", std::string("\x93NUMPY\x02\0\1\0", 10), "inside its header length"},
        HostileNpy{"MinorVersion", std::string("\x93NUMPY\x01\1\0\0", 10), "its version is 1.1"},
        HostileNpy{"LengthPastEnd", std::string("\x93NUMPY\x01\0\5\0{}", 12), "but only 2 follow"},
        HostileNpy{"HugeLength", "\x93NUMPY\x02" + std::string(1, '\0') + "\xFF\xFF\xFF\xFF",
                   "at most 65535"},
        HostileNpy{"NotADict", file_of("[]", 0), "should have '{'"},
        HostileNpy{"EmptyDict", file_of("{}", 0), "lacks one of the keys"},
        HostileNpy{"NoShape", file_of("{'descr': '<f4', 'fortran_order': False}", 4), "lacks one"},
        HostileNpy{"KeyTwice", file_of("{'descr': '<f4', 'descr': '<f4'}", 4), "'descr' twice"},
        HostileNpy{"UnknownKey", file_of("{'order': 'C'}", 4), "unknown key 'order'"},
        HostileNpy{"KeyWithoutQuotes", file_of("{descr: '<f4'}", 4), "a key"},
        HostileNpy{"UnclosedString", file_of("{'descr", 4), "the end of a string"},
        HostileNpy{"Escape", file_of("{'de\\x73cr': '<f4'}", 4), "without escapes"},
        HostileNpy{"TextAfterDict", file_of(f4("(1,)") + "x", 4), "nothing but space"},
        HostileNpy{"NulAfterDict", file_of(f4("(1,)") + std::string(1, '\0'), 4), "nothing but"},
        HostileNpy{"NumberForBool", file_of("{'fortran_order': 0}", 4), "True or False"},
        HostileNpy{"FortranOrder",
                   file_of("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }\n", 16),
                   "in Fortran order"},
        HostileNpy{"BigEndian", file_of(of_type("'>f4'"), 16), "big-endian"},
        HostileNpy{"Double", file_of(of_type("'<f8'"), 32), "'<f8'; psa reads <f4"},
        HostileNpy{"Object", file_of(of_type("'|O'"), 32), "'|O'; psa reads <f4"},
        HostileNpy{"Structured", file_of(of_type("[('a', '<f4')]"), 16), "a plain array"},
        HostileNpy{"NumberAsShape", file_of(f4("4"), 16), "should have '('"},
        HostileNpy{"ParenthesisIsNoTuple", file_of(f4("(4)"), 16), "not a tuple"},
        HostileNpy{"CommaOnly", file_of(f4("(,)"), 16), "an integer >= 0"},
        HostileNpy{"TwoCommas", file_of(f4("(2,,2)"), 16), "an integer >= 0"},
        HostileNpy{"MissingComma", file_of(f4("(2 2)"), 16), "',' or ')'"},
        HostileNpy{"NegativeExtent", file_of(f4("(-4,)"), 16), "an integer >= 0"},
        HostileNpy{"PlusSign", file_of(f4("(+4,)"), 16), "an integer >= 0"},
        HostileNpy{"FractionalExtent", file_of(f4("(4.0,)"), 16), "',' or ')'"},
        HostileNpy{"LeadingZero", file_of(f4("(04,)"), 16), "an integer >= 0"},
        HostileNpy{"HexExtent", file_of(f4("(0x4,)"), 16), "',' or ')'"},
        HostileNpy{"LongSuffix", file_of(f4("(4L,)"), 16), "',' or ')'"},
        HostileNpy{"StringExtent", file_of(f4("('4',)"), 16), "an integer >= 0"},
        HostileNpy{"ExtentOfTwoTo63", file_of(f4("(9223372036854775808,)"), 16), "below 2^63"},
        HostileNpy{"ProductOverflow", file_of(f4("(4294967296, 4294967296)"), 16), "below 2^63"},
        HostileNpy{"BytesOverflow", file_of(f4("(4611686018427387904,)"), 16), "below 2^63"},
        HostileNpy{"OverflowBesideZero", file_of(f4("(0, 4294967296, 4294967296)"), 0), "2^63"},
        HostileNpy{"TooLittleData", file_of(f4("(2, 2)"), 15), "needs 16 bytes of data, but 15"},
        HostileNpy{"TrailingData", file_of(f4("(2, 2)"), 17), "needs 16 bytes of data, but 17"}),
    name_of_case);

TEST(Npy, MoreThan64AxesAreRefused) {
  std::string shape = "(";
  for (int axis = 0; axis < 64; ++axis) shape += "1, ";
  EXPECT_EQ(refusal(file_of(f4(shape + ")"), 4)), "(accepted)");
  EXPECT_THAT(refusal(file_of(f4(shape + "1)"), 4)), HasSubstr("more than 64 axes"));
}

TEST(Npy, EveryTruncationOfAValidFileIsRefused) {
  const std::string whole = file_of(f4("(1, 2)"), 8);
  ASSERT_EQ(refusal(whole), "(accepted)");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_NE(refusal(whole.substr(0, size)), "(accepted)") << size << " bytes";
  }
}

TEST(Npy, WhatNpyCannotHoldIsNotWritten) {
  const ScratchDir dir;
  const std::string content = "01234567";
  const auto refusal_to_write = [&](FileDType dtype, std::vector<index_t> shape) -> std::string {
    try {
      write_npy(dir.path("x.npy"), {"", dtype, std::move(shape), bytes_of(content)});
    } catch (const Error& error) {
      return error.what();
    }
    return "(written)";
  };
  EXPECT_THAT(refusal_to_write(FileDType::kBF16, {4}), HasSubstr("npy has no bf16 type"));
  EXPECT_THAT(refusal_to_write(FileDType::kF8E4M3, {8}), HasSubstr("F8_E4M3 cannot be written"));
  EXPECT_THAT(refusal_to_write(FileDType::kF32, {3}), HasSubstr("do not fit shape [3] of F32"));
  EXPECT_TRUE(dir.listing().empty());
}

TEST(Npy, FailedWriteKeepsTheExistingFile) {
  const ScratchDir dir;
  const std::string small = "0123";
  write_npy(dir.path("x.npy"), {"", FileDType::kF32, {1}, bytes_of(small)});
  const std::string before = content_of(dir.path("x.npy"));
  const std::string large(100'000, 'x');
  const std::string message = io_error_in_child({.max_file_bytes = 65536}, [&] {
    write_npy(dir.path("x.npy"), {"", FileDType::kU8, {100'000}, bytes_of(large)});
  });
  EXPECT_THAT(message, AllOf(HasSubstr("x.npy"), HasSubstr("File too large")));
  EXPECT_EQ(content_of(dir.path("x.npy")), before);
  EXPECT_THAT(dir.listing(), ElementsAre("x.npy"));
}

}  // namespace
}  // namespace psa::io
