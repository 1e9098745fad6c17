// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <initializer_list>
#include <map>
#include <optional>
#include <vector>

#include "psa/psa.hpp"

namespace psa::engine {

/// The configuration of dense attention: every block at level 1, nothing estimated or reordered.
[[nodiscard]] Config dense_config();

/// Heads of an attention layer as the model lays them out in memory: [tokens, heads, head_dim].
struct HeadLayout {
  index_t heads = 0;
  index_t head_dim = 0;
  DType dtype = DType::kF32;
  Device device{};

  [[nodiscard]] index_t dim() const { return heads * head_dim; }
  /// View of `tokens` rows at `data` with the axes that psa wants, without a copy. Rows are
  /// `row_stride` values apart, or lie side by side.
  [[nodiscard]] TensorView view(void* data, index_t tokens) const {
    return view(data, tokens, dim());
  }
  [[nodiscard]] TensorView view(void* data, index_t tokens, index_t row_stride) const;
};

/// Plans of self-attention over a video grid, made when first asked for and kept while the grid
/// stays the same.
class SelfAttentionPlans {
 public:
  SelfAttentionPlans(const HeadLayout& layout, const PlanOptions& options)
      : layout_(layout), options_(options) {}

  /// Makes the plan of a configuration. Throws as Plan::create does.
  void prepare(const VideoGrid& grid, const Config& config);
  /// One that was prepared for the last grid.
  [[nodiscard]] const Plan& of(const Config& config) const;
  /// Of the plan that needs most.
  [[nodiscard]] std::size_t workspace_bytes() const;

 private:
  struct Entry {
    Config config;
    Plan plan;
  };

  [[nodiscard]] const Plan* find(const Config& config) const;

  HeadLayout layout_;
  PlanOptions options_;
  VideoGrid grid_{};
  std::vector<Entry> entries_;
};

/// The plan of dense attention of `rows` queries to the text.
[[nodiscard]] Plan cross_attention_plan(const HeadLayout& layout, index_t rows, index_t text_tokens,
                                        const PlanOptions& options = {});

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
