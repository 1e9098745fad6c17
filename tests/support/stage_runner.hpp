// SPDX-License-Identifier: Apache-2.0
#pragma once

// Runs the stages of a backend one at a time, each in fresh guarded memory. Arguments and results
// are on the host whatever the backend; for a device they are copied there and back, strides and
// gaps included.

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/backend.hpp"
#include "support/device_copies.hpp"
#include "support/tensors.hpp"

namespace psa::testing {

/// Every pooled level that exists for a geometry, in guarded memory.
class Pyramid {
 public:
  explicit Pyramid(const core::Geometry& geometry);

  [[nodiscard]] core::KvPyramid levels();
  /// Pooled keys and values of level `code`: [B, Hkv, rows, D].
  [[nodiscard]] Tensor& k(int code) { return *k_.at(static_cast<std::size_t>(code)); }
  [[nodiscard]] Tensor& v(int code) { return *v_.at(static_cast<std::size_t>(code)); }
  [[nodiscard]] bool is_intact() const;

 private:
  std::array<std::optional<Tensor>, kNumLevelCodes> k_;
  std::array<std::optional<Tensor>, kNumLevelCodes> v_;
};

struct AttentionResult {
  Tensor out;              // [B, Hq, Lq, D]
  std::vector<float> lse;  // [B, Hq, Lq]
};

/// Empty vectors: that order was not asked for.
struct ClusterResult {
  std::vector<std::int32_t> q_index;   // [B, Hq, Lq]
  std::vector<std::int32_t> kv_index;  // [B, Hkv, Lkv]
};

/// What a caller may vary without changing results.
struct RunOptions {
  int threads = 1;  ///< of a backend on the host
  /// Importance and levels: query blocks per call, of one batch element; 0: all of all.
  index_t chunk_q_blocks = 0;
  MemoryLayout out_layout = MemoryLayout::kBhld;
};

/// Each call runs one stage and fails the running test if anything around an output or the scratch
/// memory was written.
class StageRunner {
 public:
  StageRunner(const core::Backend& backend, const core::Geometry& geometry,
              const RunOptions& options = {});

  [[nodiscard]] ClusterResult cluster(const core::Inputs& inputs, bool with_queries = true) const;
  [[nodiscard]] Pyramid pyramid(const core::Inputs& inputs) const;
  [[nodiscard]] std::vector<std::uint8_t> similarity(const core::Inputs& inputs) const;
  [[nodiscard]] std::vector<float> value_weights(const core::Inputs& inputs) const;
  /// [B, Hq, Nq, Nk]. `scores`: user_scores, of the same shape.
  [[nodiscard]] std::vector<float> importance(const core::Inputs& inputs, Pyramid& pyramid,
                                              const std::vector<float>& scores = {}) const;
  /// [B, Hq, Nq, Nk]. Empty importance: all equal; empty caps, weights: none.
  [[nodiscard]] std::vector<LevelCode> levels(const std::vector<std::int32_t>& kv_lengths,
                                              const std::vector<float>& importance,
                                              const std::vector<std::uint8_t>& caps = {},
                                              const std::vector<float>& weights = {}) const;
  [[nodiscard]] AttentionResult attention(const core::Inputs& inputs, Pyramid& pyramid,
                                          const std::vector<LevelCode>& levels) const;

 private:
  const core::Backend& backend_;
  core::Geometry geometry_;
  RunOptions options_;
  core::Executor executor_;

  [[nodiscard]] std::vector<core::RowChunk> chunks() const;
  /// Row of a call that is the first of head `head` of the chunk.
  [[nodiscard]] index_t first_row(const core::RowChunk& chunk, index_t head) const;
  /// Calls stage(context, copies) with fresh scratch memory; copies takes the other arguments.
  template <typename Stage>
  void run(const Stage& stage) const;
  [[nodiscard]] core::KvPyramid on_device(DeviceCopies& copies, const core::KvPyramid& host,
                                          bool is_output) const;
};

}  // namespace psa::testing
