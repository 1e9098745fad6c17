// SPDX-License-Identifier: Apache-2.0
#include "engine/tensors/json_object.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "engine/error_text.hpp"
#include "engine/scratch_dir.hpp"

namespace psa::io {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(JsonObject, ValuesHaveTheirTypes) {
  const JsonObject object = JsonObject::parse(
      R"({"z": 1.5, "whole": 7, "on": true, "name": "x", "ids": [1, -2], "names": ["b", "a"],
          "none": null})",
      "file");
  EXPECT_EQ(object.number("z"), 1.5);
  EXPECT_EQ(object.number("whole"), 7);
  EXPECT_EQ(object.integer("whole"), 7);
  EXPECT_EQ(object.flag("on"), true);
  EXPECT_EQ(object.text("name"), "x");
  EXPECT_THAT(object.integers("ids").value(), ElementsAre(1, -2));
  EXPECT_THAT(object.texts("names").value(), ElementsAre("b", "a"));
  EXPECT_THAT(object.keys(), ElementsAre("z", "whole", "on", "name", "ids", "names", "none"));
}

TEST(JsonObject, NullCountsAsMissing) {
  const JsonObject object = JsonObject::parse(R"({"none": null})", "file");
  for (const char* key : {"none", "other"}) {
    EXPECT_FALSE(object.has(key));
    EXPECT_FALSE(object.number(key) || object.integer(key) || object.flag(key));
    EXPECT_FALSE(object.text(key) || object.integers(key) || object.texts(key));
  }
}

TEST(JsonObject, OtherTypesAreRefused) {
  const JsonObject object =
      JsonObject::parse(R"({"half": 0.5, "huge": 18446744073709551615, "list": [1, "a"],
                            "long": [1, 2, 3, 4, 5, 6, 7, 8, 9], "object": {}, "text": "\n"})",
                        "file");
  const auto refusal = [](const auto& call) {
    return error_text(Status::kIo, [&] { static_cast<void>(call()); });
  };
  EXPECT_EQ(refusal([&] { return object.integer("half"); }),
            "'file': 'half' is '0.5'; expected a whole number");
  EXPECT_THAT(refusal([&] { return object.integer("huge"); }), HasSubstr("a whole number"));
  EXPECT_THAT(refusal([&] { return object.number("text"); }), HasSubstr("expected a number"));
  EXPECT_THAT(refusal([&] { return object.flag("half"); }), HasSubstr("true or false"));
  EXPECT_THAT(refusal([&] { return object.text("half"); }), HasSubstr("expected a text"));
  EXPECT_THAT(refusal([&] { return object.integers("list"); }), HasSubstr("'[1,\"a\"]'"));
  EXPECT_THAT(refusal([&] { return object.integers("object"); }), HasSubstr("is an object"));
  EXPECT_THAT(refusal([&] { return object.texts("long"); }), HasSubstr("is a list of 9"));
  EXPECT_THAT(refusal([&] { return object.texts("half"); }), HasSubstr("a list of texts"));
}

TEST(JsonObject, ObjectsInsideAreNamedByTheirKey) {
  const JsonObject file = JsonObject::parse(R"({"files": {"a": "x", "b": 3}, "list": []})", "file");
  const std::optional<JsonObject> files = file.object("files");
  ASSERT_TRUE(files);
  EXPECT_THAT(files->keys(), testing::ElementsAre("a", "b"));
  EXPECT_EQ(files->text("a"), "x");
  EXPECT_EQ(error_text(Status::kIo, [&] { static_cast<void>(files->text("b")); }),
            "'file': 'files': 'b' is '3'; expected a text");
  EXPECT_FALSE(file.object("none"));
  EXPECT_THAT(error_text(Status::kIo, [&] { static_cast<void>(file.object("list")); }),
              HasSubstr("expected an object"));
}

TEST(JsonObject, DeepValuesAreNotWrittenOut) {
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  const JsonObject file = JsonObject::parse(R"({"deep": )" + deep + "}", "file");
  EXPECT_EQ(error_text(Status::kIo, [&] { static_cast<void>(file.number("deep")); }),
            "'file': 'deep' is a list of 1; expected a number");
}

TEST(JsonObject, BadFilesAreReported) {
  const ScratchDir dir;
  const auto defect = [&](const std::string& content) {
    put_content(dir.path("file"), content);
    return error_text(Status::kIo, [&] { JsonObject::read(dir.path("file")); });
  };
  EXPECT_THAT(defect(""), HasSubstr("not valid JSON at byte 1"));
  EXPECT_THAT(defect("{} x"), HasSubstr("not valid JSON"));
  EXPECT_THAT(defect("[1]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(defect("{\"\xff\": 1}"), HasSubstr("not valid JSON"));
  EXPECT_THAT(defect(R"({"big": 1e999})"), HasSubstr("a number that is too large"));
  EXPECT_THAT(defect(std::string(std::size_t{5} << 20U, ' ')), HasSubstr("at most 4194304"));
  EXPECT_THAT(defect(std::string(1000000, '[')), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_text(Status::kIo, [&] { JsonObject::read(dir.path("missing")); }),
              HasSubstr("No such file"));
}

}  // namespace
}  // namespace psa::io
