// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/text_encoder.hpp"

namespace psa::engine {

inline constexpr const char* kVocabularyFile = "vocab.json";
inline constexpr const char* kEmbeddingFile = "text_encoder.safetensors";
inline constexpr const char* kWordGroupsFile = "word_groups.json";

/// The text encoder of the bundled model: a table with one row per word.
///
/// encode(): the prompt is lower-cased (ASCII) and split at blanks; each word becomes its id, the
/// list is cut to or padded with id 0 to exactly tokens() ids, and token p is
/// token_embedding[id_p] + position_embedding[p], pads too. An empty prompt is unconditional().
/// Words that are not in the vocabulary are refused, each with the nearest known ones. (Training
/// dropped them; here a typing error would silently make another video.)
class WordTable final : public TextEncoder {
 public:
  /// Reads from the folder `model`:
  ///   vocab.json                {word: id}: lower-case words without blanks; the ids are 0..V-1,
  ///                             each once, and "<pad>" has 0
  ///   text_encoder.safetensors  token_embedding.weight [V, E], position_embedding.weight [T, E],
  ///                             both F32
  ///   word_groups.json          optional, {group: [word, ...]}: how words() arranges them
  /// Throws Error(kIo) naming the file, and the tensor or word, that is not so.
  static std::unique_ptr<const WordTable> open(const std::filesystem::path& model);

  [[nodiscard]] int tokens() const override { return tokens_; }
  [[nodiscard]] int width() const override { return width_; }
  [[nodiscard]] std::vector<float> encode(std::string_view prompt) const override;
  [[nodiscard]] std::vector<float> unconditional() const override;
  /// In the order of word_groups.json, then, as the group "other", what is in none of its groups,
  /// by id. Without that file all words are the one group "words". "<pad>" is no word.
  [[nodiscard]] std::vector<WordGroup> words() const override { return groups_; }

 private:
  WordTable() = default;
  void read_vocabulary(const std::filesystem::path& path);
  void read_embeddings(const std::filesystem::path& path);
  void read_groups(const std::filesystem::path& path);
  [[nodiscard]] std::vector<std::string> words_by_id() const;
  [[nodiscard]] std::vector<float> embed(const std::vector<int>& ids) const;
  [[noreturn]] void reject_words(const std::vector<std::string>& unknown) const;

  std::map<std::string, int, std::less<>> ids_;  ///< without the pad
  int tokens_ = 0;
  int width_ = 0;
  std::vector<float> token_embedding_;     ///< [V, width]
  std::vector<float> position_embedding_;  ///< [tokens, width]
  std::vector<WordGroup> groups_;
};

}  // namespace psa::engine
