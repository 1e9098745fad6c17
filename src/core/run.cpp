// SPDX-License-Identifier: Apache-2.0

// The pipeline, written once for all backends (docs/architecture.md): reorder, pyramid, importance,
// levels, attention.

#include <algorithm>
#include <chrono>
#include <cstring>

#include "core/geometry.hpp"
#include "core/io_checks.hpp"
#include "core/level_stats.hpp"
#include "core/plan.hpp"
#include "psa/error.hpp"

namespace psa::core {
namespace {

/// Adds the milliseconds of its life to `*total`.
class StageTimer {
 public:
  explicit StageTimer(double* total) : total_(total) {}
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;
  ~StageTimer() {
    if (total_ == nullptr) return;
    *total_ += std::chrono::duration<double, std::milli>(Clock::now() - start_).count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  double* total_;
  Clock::time_point start_ = Clock::now();
};

LevelMapView view_of(const Geometry& g, LevelCode* levels) {
  return {levels, g.shape.batch, g.shape.heads_q, g.num_q_blocks, g.num_kv_blocks};
}

/// Importance of a chunk's rows as the caller gave it: [Hq, q_blocks, Nk] out of [B,Hq,Nq,Nk].
void copy_scores(const Geometry& g, const RowChunk& chunk, const float* scores, float* importance) {
  const index_t chunk_floats = chunk.q_blocks() * g.num_kv_blocks;
  for (index_t h = 0; h < g.shape.heads_q; ++h) {
    const index_t row = (chunk.batch * g.shape.heads_q + h) * g.num_q_blocks + chunk.q_block_begin;
    std::copy_n(scores + row * g.num_kv_blocks, chunk_floats, importance + h * chunk_floats);
  }
}

void scatter_importance(const Geometry& g, const RowChunk& chunk, const float* importance,
                        float* all) {
  const index_t chunk_floats = chunk.q_blocks() * g.num_kv_blocks;
  for (index_t h = 0; h < g.shape.heads_q; ++h) {
    const index_t row = (chunk.batch * g.shape.heads_q + h) * g.num_q_blocks + chunk.q_block_begin;
    std::copy_n(importance + h * chunk_floats, chunk_floats, all + row * g.num_kv_blocks);
  }
}

template <typename Body>
void for_each_chunk(const Geometry& g, index_t chunk_q_blocks, const Body& body) {
  for (index_t b = 0; b < g.shape.batch; ++b) {
    for (index_t i = 0; i < g.num_q_blocks; i += chunk_q_blocks) {
      body(RowChunk{b, i, std::min(i + chunk_q_blocks, g.num_q_blocks)});
    }
  }
}

void check_scores(const Geometry& g, const CallIo& io) {
  if (g.config.importance == Importance::kUserScores && !is_dense(g.config) &&
      io.scores == nullptr) {
    throw Error(Status::kInvalidArgument,
                "scores is null; importance = user_scores needs [batch, heads_q, num_q_blocks, "
                "num_kv_blocks] floats");
  }
}

/// Keeps only the keys of the levels that estimators read.
KvPyramid keys_for_importance(const Config& config, const KvPyramid& pyramid) {
  KvPyramid keys{};
  if (config.importance != Importance::kPooledLse) return keys;
  const std::size_t code = config.pooled_tokens == 16 ? 5 : 4;
  keys.at(code) = {pyramid.at(code).k, nullptr, pyramid.at(code).rows};
  return keys;
}

}  // namespace

Inputs Plan::order_inputs(const CallIo& io, const Workspace& ws, bool needs_q) const {
  const ProblemShape& shape = geometry_.shape;
  Inputs inputs{io.q, io.k, io.v, {}, {}, io.kv_lengths};
  if (is_dense(geometry_.config)) return inputs;
  if (!static_order_.empty()) {
    inputs.q_order = {static_order_.data(), 0, 0};
    inputs.kv_order = inputs.q_order;
  }
  if (!orders_keys_by_content(geometry_.config)) return inputs;
  std::int32_t* q_index = needs_q ? ws.q_index : nullptr;
  backend_->cluster(context(ws), {inputs, q_index, ws.kv_index, ws.cluster_work});
  inputs.kv_order = {ws.kv_index, shape.heads_kv * shape.len_kv, shape.len_kv};
  if (q_index != nullptr) {
    inputs.q_order = {q_index, shape.heads_q * shape.len_q, shape.len_q};
  }
  return inputs;
}

void Plan::select(const Inputs& inputs, const CallIo& io, const Workspace& ws, LevelMapView levels,
                  RunStats* stats) const {
  const Config& config = geometry_.config;
  const StageContext ctx = context(ws);
  const bool dense = is_dense(config);
  if (ws.caps != nullptr && !dense) {
    const StageTimer timer(stats == nullptr ? nullptr : &stats->levels_ms);
    backend_->similarity(ctx, {inputs, ws.caps});
  }
  for_each_chunk(geometry_, chunk_q_blocks_, [&](const RowChunk& chunk) {
    if (!dense) {
      const StageTimer timer(stats == nullptr ? nullptr : &stats->importance_ms);
      if (config.importance == Importance::kUserScores) {
        copy_scores(geometry_, chunk, io.scores, ws.importance);
      }
      backend_->importance(ctx, {inputs, ws.pyramid, chunk, ws.importance});
    }
    const StageTimer timer(stats == nullptr ? nullptr : &stats->levels_ms);
    backend_->levels(
        ctx, {inputs, chunk, dense ? nullptr : ws.importance, dense ? nullptr : ws.caps, levels});
  });
}

void Plan::forward(const CallIo& io, std::span<std::byte> workspace, RunStats* stats) const {
  check_query(geometry_, io);
  check_keys(geometry_, io);
  check_values(geometry_, io);
  check_output(geometry_, io);
  check_kv_lengths(geometry_, io.kv_lengths);
  if (io.levels != nullptr) {
    check_levels(geometry_, io.levels);
  } else {
    check_scores(geometry_, io);
  }
  const Workspace ws = carve(workspace);
  const StageContext ctx = context(ws);
  const bool needs_pyramid = io.levels != nullptr || !is_dense(geometry_.config);
  LevelMapView levels = view_of(geometry_, io.levels_out != nullptr ? io.levels_out : ws.levels);
  if (stats != nullptr) *stats = {};

  Inputs inputs;
  {
    const StageTimer timer(stats == nullptr ? nullptr : &stats->reorder_ms);
    inputs = order_inputs(io, ws, /*needs_q=*/true);
  }
  if (needs_pyramid) {
    const StageTimer timer(stats == nullptr ? nullptr : &stats->pyramid_ms);
    backend_->pyramid(ctx, {inputs, ws.pyramid});
  }
  if (io.levels == nullptr) {
    select(inputs, io, ws, levels, stats);
  } else {
    std::memmove(levels.data, io.levels, static_cast<std::size_t>(levels.size()));
  }
  {
    const StageTimer timer(stats == nullptr ? nullptr : &stats->attention_ms);
    backend_->attention(ctx, {inputs, ws.pyramid, levels, io.out, io.lse});
  }
  if (stats != nullptr) {
    const LevelStats measured = measure_levels(geometry_, levels.data, io.kv_lengths, nullptr);
    stats->density = measured.density;
    stats->selection_cost = io.levels != nullptr ? 0.0 : measured.selection_cost;
    stats->blocks = measured.blocks;
  }
}

void Plan::estimate_importance(const CallIo& io, float* importance,
                               std::span<std::byte> workspace) const {
  if (is_dense(geometry_.config)) {
    throw Error(
        Status::kUnsupported,
        "budget[0] is 1: this plan reads every block at level 1 and has no room to estimate "
        "anything; lower the budget");
  }
  check_query(geometry_, io);
  check_keys(geometry_, io);
  check_kv_lengths(geometry_, io.kv_lengths);
  check_scores(geometry_, io);
  const Workspace ws = carve(workspace);
  const Inputs inputs = order_inputs(io, ws, /*needs_q=*/true);
  const StageContext ctx = context(ws);
  const KvPyramid keys = keys_for_importance(geometry_.config, ws.pyramid);
  backend_->pyramid(ctx, {inputs, keys});
  for_each_chunk(geometry_, chunk_q_blocks_, [&](const RowChunk& chunk) {
    if (geometry_.config.importance == Importance::kUserScores) {
      copy_scores(geometry_, chunk, io.scores, ws.importance);
    }
    backend_->importance(ctx, {inputs, keys, chunk, ws.importance});
    scatter_importance(geometry_, chunk, ws.importance, importance);
  });
}

void Plan::assign_levels(const CallIo& io, const float* importance, LevelCode* levels,
                         std::span<std::byte> workspace) const {
  check_kv_lengths(geometry_, io.kv_lengths);
  const Workspace ws = carve(workspace);
  const StageContext ctx = context(ws);
  Inputs inputs;
  inputs.k.shape[2] = geometry_.shape.len_kv;
  inputs.kv_lengths = io.kv_lengths;
  if (ws.caps != nullptr) {
    check_keys(geometry_, io);
    inputs = order_inputs(io, ws, /*needs_q=*/false);
    backend_->similarity(ctx, {inputs, ws.caps});
  }
  for_each_chunk(geometry_, chunk_q_blocks_, [&](const RowChunk& chunk) {
    copy_scores(geometry_, chunk, importance, ws.importance);
    backend_->levels(ctx, {inputs, chunk, ws.importance, ws.caps, view_of(geometry_, levels)});
  });
}

void Plan::select_levels(const CallIo& io, LevelCode* levels,
                         std::span<std::byte> workspace) const {
  check_query(geometry_, io);
  check_keys(geometry_, io);
  check_kv_lengths(geometry_, io.kv_lengths);
  check_scores(geometry_, io);
  Workspace ws = carve(workspace);
  const Inputs inputs = order_inputs(io, ws, /*needs_q=*/true);
  ws.pyramid = keys_for_importance(geometry_.config, ws.pyramid);
  if (!is_dense(geometry_.config)) backend_->pyramid(context(ws), {inputs, ws.pyramid});
  select(inputs, io, ws, view_of(geometry_, levels), nullptr);
}

void Plan::build_pyramid(const CallIo& io, int level, void* k_pooled, void* v_pooled,
                         std::span<std::byte> workspace) const {
  check_keys(geometry_, io);
  check_values(geometry_, io);
  check_kv_lengths(geometry_, io.kv_lengths);
  const ProblemShape& shape = geometry_.shape;
  if (level < 2 || !semantics::is_level_code(level, geometry_.config.block_kv)) {
    throw Error(Status::kInvalidArgument,
                "level is " + std::to_string(level) +
                    "; allowed: 2..5 with 2^(level-1) <= block_kv, or 6 (block mean)");
  }
  const Workspace ws = carve(workspace);
  const index_t rows = pyramid_rows(geometry_, level);
  const auto bytes =
      static_cast<std::size_t>(shape.batch * shape.heads_kv * rows * shape.head_dim) *
      size_of(shape.dtype_kv);
  std::memset(k_pooled, 0, bytes);  // rows behind the key lengths stay zero
  std::memset(v_pooled, 0, bytes);
  KvPyramid pyramid{};
  pyramid.at(static_cast<std::size_t>(level)) = {k_pooled, v_pooled, rows};
  backend_->pyramid(context(ws), {order_inputs(io, ws, /*needs_q=*/false), pyramid});
}

}  // namespace psa::core
