// SPDX-License-Identifier: Apache-2.0
#include "engine/text/word_table.hpp"

#include <algorithm>
#include <limits>
#include <set>
#include <span>

#include "engine/tensors/json_object.hpp"
#include "engine/tensors/printable.hpp"
#include "engine/tensors/safetensors.hpp"
#include "engine/text/nearest_words.hpp"
#include "psa/error.hpp"

namespace psa::engine {
namespace {

constexpr std::string_view kPad = "<pad>";
constexpr index_t kMaxExtent = 1 << 20;  // of every axis: far above any table of words
constexpr std::size_t kMaxSuggestions = 3;

bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::vector<std::string> words_of(std::string_view prompt) {
  std::vector<std::string> words;
  bool is_in_word = false;
  for (const char c : prompt) {
    if (!is_blank(c)) {
      if (!is_in_word) words.emplace_back();
      words.back() += lower(c);
    }
    is_in_word = !is_blank(c);
  }
  return words;
}

/// Whether words_of() can give it.
bool is_typeable(std::string_view word) {
  return !word.empty() && std::none_of(word.begin(), word.end(),
                                       [](char c) { return is_blank(c) || lower(c) != c; });
}

/// The tensor `name` as [rows, columns]; rows or columns 0 take any number.
std::span<const float> matrix(const io::SafetensorsFile& file, const std::string& path,
                              const char* name, index_t rows, index_t columns) {
  const auto extent = [](index_t n, const char* any) { return n == 0 ? any : std::to_string(n); };
  const std::string expected = "F32 [" + extent(rows, "any") + ", " + extent(columns, "any") + "]";
  const io::TensorInfo* tensor = file.find(name);
  if (tensor == nullptr) {
    throw Error(Status::kIo, path + ": tensor '" + name + "' is missing; expected " + expected);
  }
  const std::vector<index_t>& shape = tensor->shape;
  const auto fits = [](index_t found, index_t wanted) {
    return wanted == 0 ? found >= 1 && found <= kMaxExtent : found == wanted;
  };
  if (tensor->dtype != io::FileDType::kF32 || shape.size() != 2 || !fits(shape[0], rows) ||
      !fits(shape[1], columns)) {
    throw Error(Status::kIo, path + ": tensor '" + name + "' is " +
                                 std::string(io::name_of(tensor->dtype)) + " " +
                                 io::shape_text(shape) + "; expected " + expected);
  }
  return file.values<float>(name);
}

}  // namespace

std::unique_ptr<const WordTable> WordTable::open(const std::filesystem::path& model) {
  std::unique_ptr<WordTable> table(new WordTable);
  table->read_vocabulary(model / kVocabularyFile);
  table->read_embeddings(model / kEmbeddingFile);
  table->read_groups(model / kWordGroupsFile);
  return table;
}

void WordTable::read_vocabulary(const std::filesystem::path& path) {
  const io::JsonObject file = io::JsonObject::read(path);
  const std::vector<std::string> words = file.keys();
  const auto count = static_cast<index_t>(words.size());
  if (file.integer(kPad) != 0) file.reject(kPad, "expected the id 0");
  std::vector<const std::string*> word_of_id(words.size());
  for (const std::string& word : words) {
    const std::optional<index_t> id = file.integer(word);
    if (!id || *id < 0 || *id >= count) {
      file.reject(word, "expected an id from 0 to " + std::to_string(count - 1));
    }
    const std::string*& holder = word_of_id[static_cast<std::size_t>(*id)];
    if (holder != nullptr) {
      file.reject(word, "which is also the id of " + io::printable(*holder));
    }
    holder = &word;
    if (word == kPad) continue;
    if (!is_typeable(word)) file.reject(word, "expected a lower-case word without blanks");
    ids_.emplace(word, static_cast<int>(*id));
  }
}

void WordTable::read_embeddings(const std::filesystem::path& path) {
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  const std::string label = io::printable(path.native());
  const auto vocabulary = static_cast<index_t>(ids_.size()) + 1;
  const std::span<const float> words = matrix(file, label, "token_embedding.weight", vocabulary, 0);
  const index_t width = static_cast<index_t>(words.size()) / vocabulary;
  const std::span<const float> positions =
      matrix(file, label, "position_embedding.weight", 0, width);
  width_ = static_cast<int>(width);
  tokens_ = static_cast<int>(static_cast<index_t>(positions.size()) / width);
  token_embedding_.assign(words.begin(), words.end());
  position_embedding_.assign(positions.begin(), positions.end());
}

void WordTable::read_groups(const std::filesystem::path& path) {
  std::error_code ignored;
  std::set<std::string> grouped;
  if (std::filesystem::exists(path, ignored)) {
    const io::JsonObject file = io::JsonObject::read(path);
    for (const std::string& name : file.keys()) {
      WordGroup group{name, file.texts(name).value_or(std::vector<std::string>{})};
      for (const std::string& word : group.words) {
        if (!ids_.contains(word)) {
          file.reject(name, "but " + io::printable(word) + " is not in " + kVocabularyFile);
        }
        grouped.insert(word);
      }
      groups_.push_back(std::move(group));
    }
  }
  WordGroup rest{groups_.empty() ? "words" : "other", {}};
  for (const std::string& word : words_by_id()) {
    if (!grouped.contains(word)) rest.words.push_back(word);
  }
  if (!rest.words.empty()) groups_.push_back(std::move(rest));
}

std::vector<std::string> WordTable::words_by_id() const {
  std::vector<std::string> words(ids_.size());
  for (const auto& [word, id] : ids_) words[static_cast<std::size_t>(id) - 1] = word;
  return words;
}

std::vector<float> WordTable::embed(const std::vector<int>& ids) const {
  std::vector<float> embedding = position_embedding_;
  const auto width = static_cast<std::size_t>(width_);
  for (std::size_t p = 0; p < static_cast<std::size_t>(tokens_); ++p) {
    const std::size_t id = p < ids.size() ? static_cast<std::size_t>(ids[p]) : 0;
    for (std::size_t c = 0; c < width; ++c) {
      embedding[p * width + c] += token_embedding_[id * width + c];
    }
  }
  return embedding;
}

std::vector<float> WordTable::encode(std::string_view prompt) const {
  std::vector<int> ids;
  std::vector<std::string> unknown;
  for (const std::string& word : words_of(prompt)) {
    const auto entry = ids_.find(word);
    if (entry != ids_.end()) {
      ids.push_back(entry->second);
    } else if (std::find(unknown.begin(), unknown.end(), word) == unknown.end()) {
      unknown.push_back(word);
    }
  }
  if (!unknown.empty()) reject_words(unknown);
  return embed(ids);
}

std::vector<float> WordTable::unconditional() const { return embed({}); }

void WordTable::reject_words(const std::vector<std::string>& unknown) const {
  const std::vector<std::string> known = words_by_id();
  std::string message = "the model does not know ";
  constexpr std::size_t kMaxNamed = 8;
  for (std::size_t i = 0; i < std::min(unknown.size(), kMaxNamed); ++i) {
    message += (i == 0 ? "" : ", ") + io::printable(unknown[i]);
    const std::vector<std::string> nearest = nearest_words(unknown[i], known, kMaxSuggestions);
    for (std::size_t k = 0; k < nearest.size(); ++k) {
      const bool is_last = k + 1 == nearest.size();
      message += (k == 0 ? " (did you mean '" : is_last ? " or '" : ", '") + nearest[k] + "'";
      if (is_last) message += "?)";
    }
  }
  if (unknown.size() > kMaxNamed) {
    message += " and " + std::to_string(unknown.size() - kMaxNamed) + " more words";
  }
  throw Error(Status::kInvalidArgument,
              message + "; it knows " + std::to_string(known.size()) + " words");
}

}  // namespace psa::engine
