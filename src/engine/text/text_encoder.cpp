// SPDX-License-Identifier: Apache-2.0
#include "engine/text/text_encoder.hpp"

#include "engine/tensors/printable.hpp"
#include "engine/text/word_table.hpp"
#include "psa/error.hpp"

namespace psa::engine {

std::unique_ptr<const TextEncoder> open_text_encoder(const std::filesystem::path& model) {
  const auto has = [&](const char* name) {
    std::error_code ignored;  // a file that cannot be seen is reported as missing
    return std::filesystem::exists(model / name, ignored);
  };
  if (has(kVocabularyFile) || has(kEmbeddingFile)) return WordTable::open(model);
  const std::string folder = io::printable(model.native());
  if (has("text_encoder")) {
    throw Error(Status::kUnsupported,
                "the model " + folder +
                    " reads prompts through its T5 text encoder (text_encoder/), which psa cannot "
                    "run yet; it runs models with a word table (" +
                    kVocabularyFile + ", " + kEmbeddingFile + ")");
  }
  throw Error(Status::kIo, "the model " + folder + " has no text encoder: neither " +
                               kVocabularyFile + " and " + kEmbeddingFile + " nor text_encoder/");
}

}  // namespace psa::engine
