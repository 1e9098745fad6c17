// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace psa::engine {

/// Words of one kind, for help.
struct WordGroup {
  std::string name;
  std::vector<std::string> words;
};

/// Turns a prompt into what the transformer's cross-attention reads. Immutable; several threads may
/// use one.
class TextEncoder {
 public:
  TextEncoder() = default;
  TextEncoder(const TextEncoder&) = delete;
  TextEncoder& operator=(const TextEncoder&) = delete;
  virtual ~TextEncoder() = default;

  /// Tokens of every prompt, and channels of each (`text_dim` of the transformer).
  [[nodiscard]] virtual int tokens() const = 0;
  [[nodiscard]] virtual int width() const = 0;
  /// [tokens(), width()], row-major. Throws Error(kInvalidArgument) for a prompt that the encoder
  /// cannot express.
  [[nodiscard]] virtual std::vector<float> encode(std::string_view prompt) const = 0;
  /// The same of no prompt, for classifier-free guidance.
  [[nodiscard]] virtual std::vector<float> unconditional() const = 0;
  /// Every word that encode() takes, or nothing if it takes any text.
  [[nodiscard]] virtual std::vector<WordGroup> words() const = 0;
};

/// The text encoder of the checkpoint in the folder `model`: a WordTable if it has vocab.json or
/// text_encoder.safetensors. Throws Error(kUnsupported) if it has a text encoder that psa cannot
/// run (the T5 of the published Wan checkpoints, in text_encoder/), Error(kIo) if it has none or a
/// file is not valid.
[[nodiscard]] std::unique_ptr<const TextEncoder> open_text_encoder(
    const std::filesystem::path& model);

}  // namespace psa::engine
