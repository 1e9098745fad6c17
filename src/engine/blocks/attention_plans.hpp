// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <initializer_list>
#include <map>
#include <optional>
#include <vector>

#include "engine/gemm/worker_pool.hpp"
#include "psa/psa.hpp"

namespace psa::engine {

/// The configuration of dense attention: every block at level 1, nothing estimated or reordered.
[[nodiscard]] Config dense_config();

/// Heads of an attention layer as the model lays them out in memory: [tokens, heads, head_dim].
struct HeadLayout {
  index_t heads = 0;
  index_t head_dim = 0;
  DType dtype = DType::kF32;

  /// View of `tokens` rows at `data` with the axes that psa wants, without a copy.
  [[nodiscard]] TensorView view(void* data, index_t tokens) const;
};

/// Plans of self-attention over a video grid, made when first asked for and kept while the grid
/// stays the same, and the workspace that they share.
class SelfAttention {
 public:
  /// The pool must outlive this object.
  SelfAttention(const HeadLayout& layout, WorkerPool& pool) : layout_(layout), pool_(pool) {}

  /// Makes the plan of a call, and room for it in the workspace. Throws as Plan::create does.
  void prepare(const VideoGrid& grid, const Config& config);
  /// A call that was prepared. Throws Error as psa::run() does.
  void run(const Config& config, const AttentionIo& io, RunStats& stats);

 private:
  struct Entry {
    Config config;
    Plan plan;
  };

  [[nodiscard]] const Plan* find(const Config& config) const;

  HeadLayout layout_;
  WorkerPool& pool_;
  VideoGrid grid_{};
  std::vector<Entry> entries_;
  std::optional<Workspace> workspace_;
};

/// Dense attention of a few rows at a time to the text, one thread per call.
class CrossAttention {
 public:
  /// For calls of up to `workers` threads at once.
  CrossAttention(const HeadLayout& layout, std::size_t workers)
      : layout_(layout), workspaces_(workers) {}

  /// Makes the plans for calls with the given numbers of rows. Not while others run.
  void prepare(index_t text_tokens, std::initializer_list<index_t> row_counts);

  /// q, out [rows, heads, head_dim]; k, v [text tokens, heads, head_dim]. `rows` is one of
  /// prepare()'s counts; each of the threads that call at once is another `worker`.
  void run(int worker, index_t rows, void* q, void* k, void* v, void* out);

 private:
  HeadLayout layout_;
  index_t text_tokens_ = 0;
  std::map<index_t, Plan> plans_;  // by rows
  std::vector<std::optional<Workspace>> workspaces_;
};

}  // namespace psa::engine
