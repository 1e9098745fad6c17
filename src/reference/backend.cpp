// SPDX-License-Identifier: Apache-2.0
#include "reference/backend.hpp"

#include <cstddef>

#include "reference/stages.hpp"

namespace psa::reference {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

const char* why_not(const core::Geometry& /*geometry*/, Device /*device*/) { return nullptr; }

// The stages allocate what they need.
std::size_t no_bytes(const core::Geometry& /*geometry*/) { return 0; }

}  // namespace

const core::Backend& backend() {
  static constexpr core::Backend kBackend{
      .name = "reference",
      .isa = "",
      .memory = &core::kHostMemory,
      .why_not = why_not,
      .chunk_bytes = kChunkBytes,
      .scratch_bytes = no_bytes,
      .cluster_bytes = no_bytes,
      .attention_bytes = no_bytes,
      .cluster = cluster,
      .pyramid = pyramid,
      .similarity = similarity,
      .value_weights = value_weights,
      .importance = importance,
      .levels = levels,
      .attention = attention,
  };
  return kBackend;
}

}  // namespace psa::reference
