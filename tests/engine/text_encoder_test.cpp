// SPDX-License-Identifier: Apache-2.0
#include "engine/text/text_encoder.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "engine/error_text.hpp"
#include "engine/scratch_dir.hpp"
#include "engine/tensors/safetensors.hpp"
#include "engine/text/nearest_words.hpp"
#include "engine/text/word_table.hpp"

namespace psa::engine {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr const char* kVocabulary =
    R"({"<pad>": 0, "a": 1, "red": 2, "circle": 3, "moves": 4, "left": 5})";

struct Matrix {
  std::vector<index_t> shape;
  std::vector<float> values;
};

/// A checkpoint with a word table of 6 words, 4 tokens and 2 channels. Row i of the words is
/// (100 i, 1), row p of the positions (p, 0.5).
class Checkpoint {
 public:
  Matrix words{{6, 2}, {0, 1, 100, 1, 200, 1, 300, 1, 400, 1, 500, 1}};
  Matrix positions{{4, 2}, {0, 0.5F, 1, 0.5F, 2, 0.5F, 3, 0.5F}};
  io::FileDType dtype = io::FileDType::kF32;
  std::string vocabulary = kVocabulary;
  std::optional<std::string> groups;

  [[nodiscard]] std::unique_ptr<const TextEncoder> open() const {
    io::put_content(dir_.path(kVocabularyFile), vocabulary);
    if (groups) io::put_content(dir_.path(kWordGroupsFile), *groups);
    const auto tensor = [&](const char* name, const Matrix& matrix) {
      return io::TensorInfo{name, dtype, matrix.shape, std::as_bytes(std::span(matrix.values))};
    };
    io::write_safetensors(
        dir_.path(kEmbeddingFile),
        std::vector<io::TensorInfo>{tensor("token_embedding.weight", words),
                                    tensor("position_embedding.weight", positions)});
    return open_text_encoder(dir_.root());
  }
  [[nodiscard]] std::string defect() const {
    return error_text(Status::kIo, [&] { static_cast<void>(open()); });
  }

 private:
  io::ScratchDir dir_;
};

std::string refusal(const TextEncoder& encoder, std::string_view prompt) {
  return error_text(Status::kInvalidArgument, [&] { static_cast<void>(encoder.encode(prompt)); });
}

TEST(WordTable, TokenIsWordPlusPosition) {
  const auto encoder = Checkpoint{}.open();
  EXPECT_EQ(encoder->tokens(), 4);
  EXPECT_EQ(encoder->width(), 2);
  EXPECT_THAT(encoder->encode("a red circle"),
              ElementsAre(100, 1.5F, 201, 1.5F, 302, 1.5F, 3, 1.5F));
}

TEST(WordTable, CaseAndBlanksDoNotMatter) {
  const auto encoder = Checkpoint{}.open();
  EXPECT_EQ(encoder->encode("  A\tRed \n CIRCLE "), encoder->encode("a red circle"));
}

TEST(WordTable, LongPromptsAreCutAndNoPromptIsUnconditional) {
  const auto encoder = Checkpoint{}.open();
  EXPECT_EQ(encoder->encode("a red circle moves left"), encoder->encode("a red circle moves"));
  EXPECT_EQ(encoder->encode(" \t"), encoder->unconditional());
  EXPECT_THAT(encoder->unconditional(), ElementsAre(0, 1.5F, 1, 1.5F, 2, 1.5F, 3, 1.5F));
}

TEST(WordTable, UnknownWordsAreNamedWithTheNearestKnownOnes) {
  const auto encoder = Checkpoint{}.open();
  EXPECT_EQ(refusal(*encoder, "a rde Circle, moves a rde zeppelin"),
            "the model does not know 'rde' (did you mean 'red'?), 'circle,' (did you mean "
            "'circle'?), 'zeppelin'; it knows 5 words");
  EXPECT_THAT(refusal(*encoder, "a red circle moves right"), HasSubstr("'right'"))
      << "also after the last token";
  EXPECT_THAT(refusal(*encoder, "<pad>"), HasSubstr("'<pad>'"));
  EXPECT_THAT(refusal(*encoder, "\x1b[2J"), HasSubstr("\\x1b"));
  EXPECT_THAT(refusal(*encoder, "q w e r t z u i o p"), HasSubstr("and 2 more words"));
}

TEST(WordTable, WordsAreGroupedForHelp) {
  Checkpoint checkpoint;
  const auto names_and_words = [&] {
    std::vector<std::string> texts;
    for (const WordGroup& group : checkpoint.open()->words()) {
      texts.push_back(group.name + ":");
      texts.insert(texts.end(), group.words.begin(), group.words.end());
    }
    return texts;
  };
  EXPECT_THAT(names_and_words(), ElementsAre("words:", "a", "red", "circle", "moves", "left"));
  checkpoint.groups = R"({"motion": ["left", "moves"], "shape": ["circle"]})";
  EXPECT_THAT(names_and_words(),
              ElementsAre("motion:", "left", "moves", "shape:", "circle", "other:", "a", "red"));
  checkpoint.groups = R"({"shape": ["cube"]})";
  EXPECT_THAT(checkpoint.defect(),
              AllOf(HasSubstr(kWordGroupsFile), HasSubstr("'cube' is not in")));
  checkpoint.groups = R"({"shape": "circle"})";
  EXPECT_THAT(checkpoint.defect(), HasSubstr("expected a list of texts"));
}

TEST(WordTable, VocabularyIsChecked) {
  const auto defect = [](const char* vocabulary) {
    Checkpoint checkpoint;
    checkpoint.vocabulary = vocabulary;
    return checkpoint.defect();
  };
  EXPECT_THAT(defect(R"({"a": 0})"), AllOf(HasSubstr(kVocabularyFile),
                                           HasSubstr("'<pad>' is missing; expected the id 0")));
  EXPECT_THAT(defect(R"({"<pad>": 1, "a": 0})"), HasSubstr("'<pad>' is '1'"));
  EXPECT_THAT(defect(R"({"<pad>": 0, "a": 2})"),
              HasSubstr("'a' is '2'; expected an id from 0 to 1"));
  EXPECT_THAT(defect(R"({"<pad>": 0, "a": -1})"), HasSubstr("'a' is '-1'"));
  EXPECT_THAT(defect(R"({"<pad>": 0, "a": null})"), HasSubstr("'a' is missing"));
  EXPECT_THAT(defect(R"({"<pad>": 0, "a": 1, "b": 1})"),
              HasSubstr("'b' is '1'; which is also the id of 'a'"));
  EXPECT_THAT(defect(R"({"<pad>": 0, "Red": 1})"), HasSubstr("lower-case"));
  EXPECT_THAT(defect(R"({"<pad>": 0, "light blue": 1})"), HasSubstr("without blanks"));
  EXPECT_THAT(defect(R"({"<pad>": 0, "": 1})"), HasSubstr("expected a lower-case word"));
  EXPECT_THAT(defect("{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(defect(R"({"<pad>": 0})"),
              HasSubstr("'token_embedding.weight' is F32 [6, 2]; expected F32 [1, any]"));
}

TEST(WordTable, EmbeddingsAreChecked) {
  Checkpoint checkpoint;
  checkpoint.words.shape = {2, 3, 2};
  EXPECT_THAT(checkpoint.defect(),
              AllOf(HasSubstr(kEmbeddingFile),
                    HasSubstr("'token_embedding.weight' is F32 [2, 3, 2]; expected F32 [6, any]")));
  checkpoint.words.shape = {6, 2};
  checkpoint.positions.shape = {2, 4};
  EXPECT_THAT(checkpoint.defect(),
              HasSubstr("'position_embedding.weight' is F32 [2, 4]; expected F32 [any, 2]"));
  checkpoint.positions = {{0, 2}, {}};
  EXPECT_THAT(checkpoint.defect(), HasSubstr("'position_embedding.weight' is F32 [0, 2]"));
  checkpoint.dtype = io::FileDType::kI32;
  EXPECT_THAT(checkpoint.defect(), HasSubstr("is I32 [6, 2]; expected F32"));

  const io::ScratchDir dir;
  io::put_content(dir.path(kVocabularyFile), kVocabulary);
  const auto open = [&] { static_cast<void>(open_text_encoder(dir.root())); };
  EXPECT_THAT(error_text(Status::kIo, open),
              AllOf(HasSubstr(kEmbeddingFile), HasSubstr("No such file")));
  io::write_safetensors(dir.path(kEmbeddingFile), {});
  EXPECT_THAT(error_text(Status::kIo, open),
              HasSubstr("tensor 'token_embedding.weight' is missing; expected F32 [6, any]"));
}

TEST(TextEncoder, CheckpointWithoutAWordTableIsExplained) {
  const io::ScratchDir dir;
  const auto open = [&] { static_cast<void>(open_text_encoder(dir.root())); };
  EXPECT_THAT(error_text(Status::kIo, open), HasSubstr("has no text encoder"));
  std::filesystem::create_directory(dir.path("text_encoder"));
  EXPECT_THAT(error_text(Status::kUnsupported, open),
              AllOf(HasSubstr("T5"), HasSubstr("cannot run yet")));
}

TEST(NearestWords, DistanceCountsEdits) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("red", "red"), 0);
  EXPECT_EQ(edit_distance("", "red"), 3);
  EXPECT_EQ(edit_distance("rd", "red"), 1);
  EXPECT_EQ(edit_distance("rad", "red"), 1);
  EXPECT_EQ(edit_distance("rde", "red"), 1) << "a swap is one edit";
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("ca", "abc"), 3);
}

TEST(NearestWords, NearestComesFirstAndFarWordsAreLeftOut) {
  const std::vector<std::string> known{"still", "small", "smaller", "medium"};
  EXPECT_THAT(nearest_words("smal", known, 3), ElementsAre("small"));
  EXPECT_THAT(nearest_words("smalle", known, 3), ElementsAre("small", "smaller"));
  EXPECT_THAT(nearest_words("smalle", known, 1), ElementsAre("small"));
  EXPECT_THAT(nearest_words("orange", known, 3), IsEmpty());
  EXPECT_THAT(nearest_words(std::string(1000, 's'), known, 3), IsEmpty());
}

}  // namespace
}  // namespace psa::engine
