// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tensors/tensor_info.hpp"

namespace psa::io {

using Metadata = std::map<std::string, std::string>;

/// One tensor as the header describes it: its bytes are [begin, end) of the data section.
struct HeaderEntry {
  std::string name;
  FileDType dtype = FileDType::kF32;
  std::vector<index_t> shape;
  index_t begin = 0;
  index_t end = 0;
};

struct SafetensorsHeader {
  std::vector<HeaderEntry> tensors;  ///< in the order of the header
  Metadata metadata;
};

/// Longest header that is read or written; the format's own limit.
inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

/// Parses the JSON text of a header and checks it against the `data_bytes` that follow it in the
/// file: every byte of the data section belongs to exactly one tensor, and dtype x shape equals the
/// byte range of each. Throws Error(kIo) with the reason (the caller adds the path).
[[nodiscard]] SafetensorsHeader parse_header(std::string_view json, std::uint64_t data_bytes);

/// The JSON text for `tensors`, whose data follow each other in the order of `order` (indices into
/// `tensors`). Throws Error(kInvalidArgument) if a
/// name or metadata text is not UTF-8. Names must differ.
[[nodiscard]] std::string format_header(std::span<const TensorInfo> tensors,
                                        std::span<const std::size_t> order,
                                        const Metadata& metadata);

}  // namespace psa::io
