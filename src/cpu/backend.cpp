// SPDX-License-Identifier: Apache-2.0

// The tables of the CPU backend: one per instruction set, bound at compile time to a slot of the
// list of kernels that is filled once at run time.

#include "cpu/backend.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include "cpu/processor.hpp"
#include "cpu/stages.hpp"

namespace psa::cpu {
namespace {

constexpr std::size_t kMaxIsas = 4;

struct IsaList {
  std::array<Isa, kMaxIsas> isa{};
  std::array<const char*, kMaxIsas> name{};
  std::size_t count = 0;
};

/// Slowest first. A bf16 table stands for its own instruction set with the f32 table before it.
IsaList find_isas() {
  IsaList list;
  const TileKernels* f32 = nullptr;
  for (const TileKernels* tiles : all_supported()) {
    const bool is_f32 = tiles->compute == Compute::kF32;
    if (is_f32) f32 = tiles;
    list.name[list.count] = tiles->isa;
    list.isa[list.count++] = {f32, is_f32 ? nullptr : tiles, row_kernels(tiles->isa)};
    const bool f32_is_quicker = !is_f32 && processor_is_slow_at_bf16();
    if (f32_is_quicker) {
      std::swap(list.name[list.count - 2], list.name[list.count - 1]);
      std::swap(list.isa[list.count - 2], list.isa[list.count - 1]);
    }
  }
  return list;
}

const IsaList& isas() {
  static const IsaList kList = find_isas();
  return kList;
}

/// Importance of a chunk stays in the second-level cache until its levels are chosen.
constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

const char* why_not(const core::Geometry& /*geometry*/, Device /*device*/) { return nullptr; }

/// The stages with the kernels of slot kSlot.
template <std::size_t kSlot>
struct Bound {
  static const Isa& isa() { return isas().isa[kSlot]; }

  static std::size_t scratch_bytes(const core::Geometry& g) {
    return std::max({pyramid_scratch(g), similarity_scratch(g), value_weights_scratch(g),
                     importance_scratch(isa(), g), levels_scratch(g), attention_scratch(isa(), g)});
  }
  static void run_cluster(const StageContext& c, const core::ClusterParams& p) {
    cluster(isa(), c, p);
  }
  static void run_pyramid(const StageContext& c, const core::PyramidParams& p) {
    pyramid(isa(), c, p);
  }
  static void run_similarity(const StageContext& c, const core::SimilarityParams& p) {
    similarity(isa(), c, p);
  }
  static void run_value_weights(const StageContext& c, const core::ValueWeightsParams& p) {
    value_weights(isa(), c, p);
  }
  static void run_importance(const StageContext& c, const core::ImportanceParams& p) {
    importance(isa(), c, p);
  }
  static void run_attention(const StageContext& c, const core::AttentionParams& p) {
    attention(isa(), c, p);
  }

  static core::Backend table() {
    return {.name = "cpu",
            .isa = isas().name[kSlot],
            .memory = &core::kHostMemory,
            .why_not = why_not,
            .chunk_bytes = kChunkBytes,
            .scratch_bytes = scratch_bytes,
            .cluster_bytes = cluster_bytes,
            .attention_bytes = attention_bytes,
            .cluster = run_cluster,
            .pyramid = run_pyramid,
            .similarity = run_similarity,
            .value_weights = run_value_weights,
            .importance = run_importance,
            .levels = levels,
            .attention = run_attention};
  }
};

template <std::size_t... kSlots>
std::array<core::Backend, kMaxIsas> make_tables(std::index_sequence<kSlots...> /*slots*/) {
  return {Bound<kSlots>::table()...};
}

}  // namespace

std::span<const core::Backend> all_backends() {
  static const std::array<core::Backend, kMaxIsas> kTables =
      make_tables(std::make_index_sequence<kMaxIsas>());
  return std::span(kTables).first(isas().count);
}

const core::Backend& backend() { return all_backends().back(); }

}  // namespace psa::cpu
