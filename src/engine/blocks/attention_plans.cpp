// SPDX-License-Identifier: Apache-2.0
#include "engine/blocks/attention_plans.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

namespace psa::engine {
namespace {

ProblemShape problem(const HeadLayout& layout, index_t len_q, index_t len_kv) {
  return {.batch = 1,
          .heads_q = layout.heads,
          .heads_kv = layout.heads,
          .len_q = len_q,
          .len_kv = len_kv,
          .head_dim = layout.head_dim,
          .dtype_q = layout.dtype,
          .dtype_kv = layout.dtype,
          .dtype_out = layout.dtype};
}

/// The smallest block that holds all keys, or the largest there is.
std::int32_t block_for(index_t tokens) {
  constexpr std::array<std::int32_t, 4> kBlocks{16, 32, 64, 128};
  for (const std::int32_t block : kBlocks) {
    if (tokens <= block) return block;
  }
  return kBlocks.back();
}

}  // namespace

Config dense_config() {
  Config config;
  config.budget.fill(1.0F);
  config.num_levels = 1;
  config.rest = Rest::kSkip;
  return config;
}

TensorView HeadLayout::view(void* data, index_t tokens, index_t row_stride) const {
  return {.data = data,
          .dtype = dtype,
          .device = device,
          .shape = {1, heads, tokens, head_dim},
          .stride = {tokens * row_stride, head_dim, row_stride, 1}};
}

const Plan* SelfAttentionPlans::find(const Config& config) const {
  const auto has_config = [&](const Entry& entry) { return entry.config == config; };
  const auto found = std::find_if(entries_.begin(), entries_.end(), has_config);
  return found == entries_.end() ? nullptr : &found->plan;
}

void SelfAttentionPlans::prepare(const VideoGrid& grid, const Config& config) {
  if (grid != grid_) entries_.clear();
  grid_ = grid;
  if (find(config) != nullptr) return;
  const TokenLayout tokens{.text_tokens = 0, .text_side = TextSide::kFront, .grid = grid};
  entries_.push_back({config, Plan::create(problem(layout_, grid.tokens(), grid.tokens()), tokens,
                                           config, layout_.device, options_)});
}

const Plan& SelfAttentionPlans::of(const Config& config) const {
  const Plan* const plan = find(config);
  if (plan == nullptr) throw Error(Status::kInternal, "self-attention was not prepared");
  return *plan;
}

std::size_t SelfAttentionPlans::workspace_bytes() const {
  std::size_t bytes = 0;
  for (const Entry& entry : entries_) bytes = std::max(bytes, entry.plan.workspace_bytes());
  return bytes;
}

Plan cross_attention_plan(const HeadLayout& layout, index_t rows, index_t text_tokens,
                          const PlanOptions& options) {
  Config config = dense_config();
  config.block_kv = block_for(text_tokens);
  return Plan::create(problem(layout, rows, text_tokens), {}, config, layout.device, options);
}

void CrossAttention::prepare(index_t text_tokens, std::initializer_list<index_t> row_counts) {
  if (text_tokens != text_tokens_) plans_.clear();
  text_tokens_ = text_tokens;
  PlanOptions options;
  options.num_threads = 1;
  std::size_t bytes = 0;
  for (const index_t rows : row_counts) {
    if (!plans_.contains(rows)) {
      plans_.emplace(rows, cross_attention_plan(layout_, rows, text_tokens, options));
    }
    bytes = std::max(bytes, plans_.at(rows).workspace_bytes());
  }
  for (std::optional<Workspace>& workspace : workspaces_) {
    if (!workspace || workspace->bytes().size() < bytes) workspace.emplace(bytes);
  }
}

void CrossAttention::run(int worker, index_t rows, void* q, void* k, void* v, void* out) {
  AttentionIo io;
  io.q = layout_.view(q, rows);
  io.k = layout_.view(k, text_tokens_);
  io.v = layout_.view(v, text_tokens_);
  io.out = layout_.view(out, rows);
  psa::run(plans_.at(rows), io, workspaces_[static_cast<std::size_t>(worker)]->bytes());
}

}  // namespace psa::engine
