// SPDX-License-Identifier: Apache-2.0
#pragma once

// The stages of the CPU backend, each a function of the kernels of one instruction set. Every stage
// cuts its work into items that no two workers share, and each item is computed in one fixed order,
// so that results do not depend on the number of threads.

#include <cstddef>
#include <cstdint>

#include "core/backend.hpp"
#include "core/ledger.hpp"
#include "core/tensor.hpp"
#include "cpu/rows.hpp"
#include "cpu/tile.hpp"

namespace psa::cpu {

using core::Ledger;
using core::StageContext;

/// The kernels of one instruction set.
struct Isa {
  const TileKernels* f32 = nullptr;
  const TileKernels* bf16 = nullptr;  ///< null without native bf16
  const RowKernels* rows = nullptr;

  /// For products of q with k: bf16 only where no operand would lose digits.
  [[nodiscard]] const TileKernels& tiles(DType q, DType kv) const {
    const bool both_bf16 = q == DType::kBF16 && kv == DType::kBF16;
    return both_bf16 && bf16 != nullptr ? *bf16 : *f32;
  }
};

/// Rows of one head of a tensor in working order, from position `first` on.
[[nodiscard]] inline InputRows head_rows(const TensorView& t, const core::TokenOrder& order,
                                         index_t b, index_t h, index_t first) {
  return {.data = core::row_address(t, b, h, 0),
          .dtype = t.dtype,
          .stride = t.stride[2],
          .first = first,
          .index = order.of(b, h)};
}

/// Rows of one KV head of a pyramid level that has `rows` of them; `data` are its keys or values.
[[nodiscard]] inline InputRows pooled_head_rows(const core::Geometry& g, index_t rows,
                                                const void* data, index_t b, index_t h) {
  const index_t row_bytes = g.shape.head_dim * static_cast<index_t>(size_of(g.shape.dtype_kv));
  const index_t first = (b * g.shape.heads_kv + h) * rows * row_bytes;
  return {.data = static_cast<const std::byte*>(data) + first,
          .dtype = g.shape.dtype_kv,
          .stride = g.shape.head_dim};
}

void cluster(const Isa& isa, const StageContext& context, const core::ClusterParams& params);
void pyramid(const Isa& isa, const StageContext& context, const core::PyramidParams& params);
void similarity(const Isa& isa, const StageContext& context, const core::SimilarityParams& params);
void value_weights(const Isa& isa, const StageContext& context,
                   const core::ValueWeightsParams& params);
void importance(const Isa& isa, const StageContext& context, const core::ImportanceParams& params);
void levels(const StageContext& context, const core::LevelsParams& params);
/// What `levels` does where the query blocks of a head share its budget.
void head_levels(const StageContext& context, const core::LevelsParams& params);
void attention(const Isa& isa, const StageContext& context, const core::AttentionParams& params);

// Bytes of scratch per worker; cluster_bytes and attention_bytes are the backend's own entries.
[[nodiscard]] std::size_t cluster_bytes(const core::Geometry& geometry);
[[nodiscard]] std::size_t attention_bytes(const core::Geometry& geometry);
[[nodiscard]] std::size_t pyramid_scratch(const core::Geometry& geometry);
[[nodiscard]] std::size_t similarity_scratch(const core::Geometry& geometry);
[[nodiscard]] std::size_t value_weights_scratch(const core::Geometry& geometry);
[[nodiscard]] std::size_t importance_scratch(const Isa& isa, const core::Geometry& geometry);
[[nodiscard]] std::size_t levels_scratch(const core::Geometry& geometry);
[[nodiscard]] std::size_t head_levels_scratch();
[[nodiscard]] std::size_t attention_scratch(const Isa& isa, const core::Geometry& geometry);

}  // namespace psa::cpu
