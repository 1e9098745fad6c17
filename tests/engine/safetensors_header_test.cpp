// SPDX-License-Identifier: Apache-2.0
// Hostile files: every kind of defect is refused with a message that names it.
#include "engine/tensors/safetensors_header.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tensors/safetensors.hpp"
#include "psa/error.hpp"

namespace psa::io {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string length_prefix(std::uint64_t header_bytes) {
  std::string prefix(sizeof(header_bytes), '\0');
  std::memcpy(prefix.data(), &header_bytes, sizeof(header_bytes));
  return prefix;
}

std::string file_of(std::string_view json, std::size_t data_bytes) {
  return length_prefix(json.size()) + std::string(json) + std::string(data_bytes, 'd');
}

/// Message with which the bytes are refused, or "(accepted)".
std::string refusal(const std::string& bytes) {
  try {
    SafetensorsFile::from_bytes(std::as_bytes(std::span(bytes)), "in.safetensors");
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kIo);
    return error.what();
  }
  return "(accepted)";
}

/// A header with the one tensor "t".
std::string one(std::string_view fields) { return R"({"t":{)" + std::string(fields) + "}}"; }

std::string nested(char bracket, std::size_t depth) { return std::string(depth, bracket); }

struct HostileHeader {
  const char* name;
  std::string json;
  std::size_t data_bytes;
  const char* reason;  ///< part of the message
};

void PrintTo(const HostileHeader& header, std::ostream* out) { *out << header.name; }

class HostileHeaders : public testing::TestWithParam<HostileHeader> {};

TEST_P(HostileHeaders, AreRefusedWithTheReason) {
  const HostileHeader& header = GetParam();
  const std::string message = refusal(file_of(header.json, header.data_bytes));
  EXPECT_THAT(message, HasSubstr("'in.safetensors' is not a valid safetensors file: "));
  EXPECT_THAT(message, HasSubstr(header.reason));
  EXPECT_LT(message.size(), 2000U);
  EXPECT_THAT(message, Not(HasSubstr("last read")));  // would repeat raw bytes of the file
}

std::string name_of_case(const testing::TestParamInfo<HostileHeader>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(
    Json, HostileHeaders,
    testing::Values(
        HostileHeader{"Empty", "", 0, "does not begin with '{'"},
        HostileHeader{"Array", "[]", 0, "does not begin with '{'"},
        HostileHeader{"LeadingSpace", " {}", 0, "does not begin with '{'"},
        HostileHeader{"ByteOrderMark", "\xEF\xBB\xBF{}", 0, "does not begin with '{'"},
        HostileHeader{"Unclosed", "{", 0, "not valid JSON"},
        HostileHeader{"TextAfterObject", "{}x", 0, "not valid JSON at its byte 3"},
        HostileHeader{"TwoObjects", "{}{}", 0, "not valid JSON"},
        HostileHeader{"TrailingComma", R"({"__metadata__":{},})", 0, "not valid JSON"},
        HostileHeader{"Comment", "{/**/}", 0, "not valid JSON"},
        HostileHeader{"NulAfterObject", std::string("{}\0{}", 5), 0, "NUL byte"},
        HostileHeader{"NotUtf8", "{\"\xC3\x28\":{}}", 0, "ill-formed UTF-8"},
        HostileHeader{"TruncatedUtf8", "{\"\xE2\x82\":{}}", 0, "ill-formed UTF-8"},
        HostileHeader{"LoneSurrogate", R"({"\ud800":{}})", 0, "surrogate"},
        HostileHeader{"ControlByteInName", "{\"\x01\":{}}", 0, "control character"},
        HostileHeader{"DeepObjects", R"({"t":)" + nested('{', 9), 0, "not valid JSON"},
        HostileHeader{"DeepArrays", R"({"t":)" + nested('[', 1'000'000), 0, "not an array"},
        HostileHeader{"DeepShape", one(R"("shape":)" + nested('[', 1'000'000)), 0, "not an array"},
        HostileHeader{"DeepMetadata", R"({"__metadata__":{"a":{"b":1}}})", 0, "not an object"},
        HostileHeader{"HugeUnclosedName", "{\"" + std::string(1'000'000, 'n'), 0, "not valid JSON"},
        HostileHeader{"HugeNumber", one(R"("shape":[)" + nested('9', 1'000'000)), 0, "number"},
        HostileHeader{"LineBreakInName", R"({"a\nb":1})", 0, R"('a\x0ab')"}),
    name_of_case);

INSTANTIATE_TEST_SUITE_P(
    Keys, HostileHeaders,
    testing::Values(
        HostileHeader{"TensorIsNumber", R"({"t":1})", 0, "must be an object, not a number"},
        HostileHeader{"TensorIsNull", R"({"t":null})", 0, "must be an object, not null"},
        HostileHeader{"TensorIsString", R"({"t":"x"})", 0, "must be an object, not a string"},
        HostileHeader{"NoFields", R"({"t":{}})", 0, "lacks one of the keys"},
        HostileHeader{"NoDType", one(R"("shape":[],"data_offsets":[0,4])"), 4, "lacks one of"},
        HostileHeader{"NoShape", one(R"("dtype":"F32","data_offsets":[0,4])"), 4, "lacks one of"},
        HostileHeader{"NoOffsets", one(R"("dtype":"F32","shape":[])"), 4, "lacks one of"},
        HostileHeader{"UnknownField", one(R"("stride":[1])"), 0, "unknown key 'stride'"},
        HostileHeader{"DTypeTwice", one(R"("dtype":"F32","dtype":"F32")"), 0, "'dtype' twice"},
        HostileHeader{"ShapeTwice", one(R"("shape":[],"shape":[])"), 0, "'shape' twice"},
        HostileHeader{"TensorTwice",
                      R"({"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                      R"("t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                      0, "key 't' twice"},
        HostileHeader{"TensorTwiceByEscape",
                      R"({"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                      R"("\u0074":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                      0, "key 't' twice"},
        HostileHeader{"MetadataTwice", R"({"__metadata__":{},"__metadata__":{}})", 0, "twice"},
        HostileHeader{"MetadataKeyTwice", R"({"__metadata__":{"a":"","a":""}})", 0, "'a' twice"},
        HostileHeader{"MetadataIsString", R"({"__metadata__":""})", 0, "must be an object"},
        HostileHeader{"MetadataIsNull", R"({"__metadata__":null})", 0, "must be an object"},
        HostileHeader{"MetadataNumber", R"({"__metadata__":{"a":1}})", 0, "'a' must be a string"},
        HostileHeader{"MetadataArray", R"({"__metadata__":{"a":[]}})", 0, "'a' must be a string"},
        HostileHeader{"UnknownDType", one(R"("dtype":"F33")"), 0, "unknown dtype 'F33'"},
        HostileHeader{"LowerCaseDType", one(R"("dtype":"f32")"), 0, "unknown dtype 'f32'"},
        HostileHeader{"DTypeIsNumber", one(R"("dtype":32)"), 0, "must be a string"},
        HostileHeader{"ShapeIsNumber", one(R"("shape":4)"), 0, "must be an array"},
        HostileHeader{"ShapeOfStrings", one(R"("shape":["4"])"), 0, "integers >= 0"},
        HostileHeader{"ShapeOfBooleans", one(R"("shape":[true])"), 0, "not a boolean"},
        HostileHeader{"NegativeExtent", one(R"("shape":[-4])"), 0, "not a negative number"},
        HostileHeader{"FractionalExtent", one(R"("shape":[4.0])"), 0, "no integer below 2^63"},
        HostileHeader{"ManyAxes",
                      one(R"("shape":[1)" + std::string(130, ' ') + "," +
                          std::string("1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,") +
                          "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1," + "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1," +
                          "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"),
                      0, "more than 64 axes"}),
    name_of_case);

INSTANTIATE_TEST_SUITE_P(
    Ranges, HostileHeaders,
    testing::Values(
        HostileHeader{"ExtentOfTwoTo63", one(R"("shape":[9223372036854775808])"), 0,
                      "9223372036854775808, which is not below 2^63"},
        HostileHeader{"ExtentOfTwoTo64", one(R"("shape":[18446744073709551616])"), 0,
                      "no integer below 2^63"},
        HostileHeader{"OffsetOfTwoTo63", one(R"("data_offsets":[0,9223372036854775808])"), 0,
                      "which is not below 2^63"},
        HostileHeader{"ElementsOverflow",
                      one(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])"),
                      0, "not a whole number of bytes below 2^63"},
        HostileHeader{"BytesOverflow",
                      one(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0])"), 0,
                      "not a whole number of bytes below 2^63"},
        HostileHeader{"OverflowBesideZero",
                      one(R"("dtype":"U8","shape":[4294967296,0,4294967296],"data_offsets":[0,0])"),
                      0, "not a whole number of bytes below 2^63"},
        HostileHeader{"HalfAByte", one(R"("dtype":"F4","shape":[3],"data_offsets":[0,2])"), 2,
                      "not a whole number of bytes"},
        HostileHeader{"HugeRange",
                      one(R"("dtype":"U8","shape":[9223372036854775807],)"
                          R"("data_offsets":[0,9223372036854775807])"),
                      4, "pass the end of the data, which is 4 bytes"},
        HostileHeader{"PastTheEnd", one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])"), 7,
                      "[0, 8) pass the end of the data, which is 7 bytes"},
        HostileHeader{"Reversed", one(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), 4,
                      "end before they begin"},
        HostileHeader{"TooFewBytes", one(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 4,
                      "hold 4 bytes, but shape [2] of F32 needs 8"},
        HostileHeader{"TooManyBytes", one(R"("dtype":"F32","shape":[],"data_offsets":[0,8])"), 8,
                      "hold 8 bytes, but shape [] of F32 needs 4"},
        HostileHeader{"BytesForEmpty", one(R"("dtype":"F32","shape":[0],"data_offsets":[0,4])"), 4,
                      "needs 0"},
        HostileHeader{"OneOffset", one(R"("dtype":"U8","shape":[],"data_offsets":[0])"), 1,
                      "1 data_offsets instead of two"},
        HostileHeader{"ThreeOffsets", one(R"("data_offsets":[0,1,2])"), 1, "more than two"},
        HostileHeader{"TrailingData", one(R"("dtype":"F32","shape":[],"data_offsets":[0,4])"), 5,
                      "1 bytes after the last tensor"},
        HostileHeader{"DataWithoutTensor", "{}", 1, "1 bytes after the last tensor"},
        HostileHeader{"HoleAtFront", one(R"("dtype":"F32","shape":[],"data_offsets":[4,8])"), 8,
                      "leave a hole"},
        HostileHeader{"HoleBetween",
                      R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                      R"("b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})",
                      5, "'b': data_offsets [3, 5) leave a hole; the tensors before it end at 2"},
        HostileHeader{"Overlap",
                      R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},)"
                      R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
                      3, "'b': data_offsets [1, 3) overlap another tensor"},
        HostileHeader{"SameRange",
                      R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                      R"("b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
                      2, "overlap another tensor"},
        HostileHeader{"EmptyInsideAnother",
                      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                      R"("b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
                      4, "overlap another tensor"}),
    name_of_case);

TEST(SafetensorsHeader, ValidHeadersNextToTheHostileOnesAreAccepted) {
  EXPECT_EQ(refusal(file_of("{}", 0)), "(accepted)");
  EXPECT_EQ(refusal(file_of("{}     ", 0)), "(accepted)");
  EXPECT_EQ(refusal(file_of(one(R"("dtype":"F32","shape":[],"data_offsets":[0,4])"), 4)),
            "(accepted)");
  EXPECT_EQ(refusal(file_of(one(R"("data_offsets":[0,3],"shape":[2,2],"dtype":"F6_E3M2")"), 3)),
            "(accepted)");
  EXPECT_EQ(refusal(file_of(R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},)"
                            R"("":{"dtype":"U8","shape":[9,0],"data_offsets":[3,3]},)"
                            R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                            3)),
            "(accepted)");
}

TEST(SafetensorsHeader, LengthsOutsideTheFileAreRefused) {
  EXPECT_THAT(refusal(""), HasSubstr("the file has 0 bytes"));
  EXPECT_THAT(refusal(length_prefix(2).substr(0, 7)), HasSubstr("the file has 7 bytes"));
  EXPECT_THAT(refusal(length_prefix(3) + "{}"), HasSubstr("is 3 bytes, but only 2 follow"));
  EXPECT_THAT(refusal(length_prefix(0)), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(refusal(length_prefix(100'000'001) + "{}"),
              HasSubstr("is 100000001 bytes; at most 100000000 are allowed"));
  EXPECT_THAT(refusal(length_prefix(UINT64_MAX) + "{}"), HasSubstr("at most 100000000"));
}

TEST(SafetensorsHeader, HeaderOverTheLimitIsRefusedEvenIfItIsThere) {
  constexpr std::size_t kBytes = kMaxHeaderBytes + 1;
  std::string bytes = length_prefix(kBytes) + "{}";
  bytes.resize(8 + kBytes, ' ');
  EXPECT_THAT(refusal(bytes), HasSubstr("at most 100000000 are allowed"));
}

TEST(SafetensorsHeader, EveryTruncationOfAValidFileIsRefused) {
  const std::string whole = file_of(
      R"({"__metadata__":{"k":"v"},"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  ASSERT_EQ(refusal(whole), "(accepted)");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_NE(refusal(whole.substr(0, size)), "(accepted)") << size << " bytes";
  }
}

}  // namespace
}  // namespace psa::io
