// SPDX-License-Identifier: Apache-2.0

// The pipeline, written once for all backends (docs/architecture.md): reorder, pyramid, importance,
// levels, attention.

#include <algorithm>
#include <utility>
#include <vector>

#include "core/geometry.hpp"
#include "core/io_checks.hpp"
#include "core/level_stats.hpp"
#include "core/plan.hpp"
#include "psa/error.hpp"

namespace psa::core {

/// Times the stages of a call where stats are wanted, by the clock of the device they run on.
class StageClock {
 public:
  StageClock(const DeviceMemory& memory, Stream stream, RunStats* stats)
      : memory_(memory), stream_(stream), is_wanted_(stats != nullptr) {
    if (is_wanted_) ends_.emplace_back(nullptr, TimePoint(memory, stream));
  }

  /// Runs `stage`, whose milliseconds belong to a field of the stats.
  template <typename Stage>
  void time(double RunStats::*total, const Stage& stage) {
    stage();
    if (is_wanted_) ends_.emplace_back(total, TimePoint(memory_, stream_));
  }

  /// Adds what was timed to `stats`. Waits for it.
  void report(RunStats& stats) const {
    for (std::size_t i = 1; i < ends_.size(); ++i) {
      stats.*ends_[i].first += ends_[i].second.ms_since(ends_[i - 1].second);
    }
  }

 private:
  const DeviceMemory& memory_;
  Stream stream_;
  bool is_wanted_;
  std::vector<std::pair<double RunStats::*, TimePoint>> ends_;  ///< and before all the beginning
};

namespace {

LevelMapView view_of(const Geometry& g, LevelCode* levels) {
  return {levels, g.shape.batch, g.shape.heads_q, g.num_q_blocks, g.num_kv_blocks};
}

/// Where a chunk's rows [batches, Hq, q_blocks, Nk] lie in the floats [B,Hq,Nq,Nk] of a call.
struct ChunkRows {
  index_t first;           ///< of the first head
  std::size_t head_pitch;  ///< bytes from one head to the next
  std::size_t head_bytes;  ///< of the chunk's rows of one head
  index_t heads;           ///< of all batch elements
};

ChunkRows rows_of(const Geometry& g, const RowChunk& chunk) {
  const auto bytes_of = [&](index_t q_blocks) {
    return static_cast<std::size_t>(q_blocks * g.num_kv_blocks) * sizeof(float);
  };
  const index_t first_row =
      chunk.batch_begin * g.shape.heads_q * g.num_q_blocks + chunk.q_block_begin;
  return {first_row * g.num_kv_blocks, bytes_of(g.num_q_blocks), bytes_of(chunk.q_blocks()),
          chunk.batches() * g.shape.heads_q};
}

/// Importance of a chunk as the caller gave it.
RowCopy gather(const ChunkRows& rows, const float* all, float* importance) {
  return {importance,      rows.head_bytes, all + rows.first,
          rows.head_pitch, rows.head_bytes, rows.heads};
}

RowCopy scatter(const ChunkRows& rows, const float* importance, float* all) {
  return {all + rows.first, rows.head_pitch, importance,
          rows.head_bytes,  rows.head_bytes, rows.heads};
}

/// Calls body(chunk) for all rows, in chunks of the size of the first.
template <typename Body>
void for_each_chunk(const Geometry& g, const RowChunk& first, const Body& body) {
  for (index_t b = 0; b < g.shape.batch; b += first.batches()) {
    for (index_t i = 0; i < g.num_q_blocks; i += first.q_blocks()) {
      body(RowChunk{b, std::min(b + first.batches(), g.shape.batch), i,
                    std::min(i + first.q_blocks(), g.num_q_blocks)});
    }
  }
}

void check_scores(const Geometry& g, const CallIo& io) {
  if (g.config.importance == Importance::kUserScores && !is_dense(g) && io.scores == nullptr) {
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

Inputs Plan::order_inputs(const CallIo& io, const Workspace& ws, Stream stream,
                          bool needs_q) const {
  const ProblemShape& shape = geometry_.shape;
  Inputs inputs{io.q, io.k, io.v, {}, {}, io.kv_lengths};
  if (is_dense(geometry_)) return inputs;
  if (!static_order_.empty()) {
    const void* order = memory().is_host() ? static_order_.data() : device_order_.get();
    inputs.q_order = {static_cast<const std::int32_t*>(order), 0, 0};
    inputs.kv_order = inputs.q_order;
  }
  if (!orders_keys_by_content(geometry_.config)) return inputs;
  std::int32_t* q_index = needs_q ? ws.q_index : nullptr;
  backend_->cluster(context(ws, stream), {inputs, q_index, ws.kv_index, ws.cluster_work});
  inputs.kv_order = {ws.kv_index, shape.heads_kv * shape.len_kv, shape.len_kv};
  if (q_index != nullptr) {
    inputs.q_order = {q_index, shape.heads_q * shape.len_q, shape.len_q};
  }
  return inputs;
}

/// What pointers of a device point to stays unread: nothing may wait for it (psa.h says what
/// values out of their range do there).
void Plan::check_contents(const CallIo& io) const {
  if (!memory().is_host()) return;
  check_kv_lengths(geometry_, io.kv_lengths);
  if (io.levels != nullptr) check_levels(geometry_, io.levels);
}

/// What levels need to know about KV blocks besides their importance.
void Plan::measure_blocks(const StageContext& ctx, const Inputs& inputs,
                          const Workspace& ws) const {
  if (ws.caps != nullptr) backend_->similarity(ctx, {inputs, ws.caps});
  if (ws.weights != nullptr) backend_->value_weights(ctx, {inputs, ws.weights});
}

void Plan::select(const Inputs& inputs, const CallIo& io, const Workspace& ws, LevelMapView levels,
                  StageClock& clock, Stream stream) const {
  const Config& config = geometry_.config;
  const StageContext ctx = context(ws, stream);
  const bool dense = is_dense(geometry_);
  if (!dense) clock.time(&RunStats::levels_ms, [&] { measure_blocks(ctx, inputs, ws); });
  for_each_chunk(geometry_, first_chunk_, [&](const RowChunk& chunk) {
    if (!dense) {
      clock.time(&RunStats::importance_ms, [&] {
        if (config.importance == Importance::kUserScores) {
          memory().copy(gather(rows_of(geometry_, chunk), io.scores, ws.importance), stream);
        }
        backend_->importance(ctx, {inputs, ws.pyramid, chunk, ws.importance});
      });
    }
    clock.time(&RunStats::levels_ms, [&] {
      backend_->levels(
          ctx, {inputs, chunk, dense ? nullptr : ws.importance, dense ? nullptr : ws.weights,
                dense ? nullptr : ws.caps, levels, head_budgets()});
    });
  });
}

/// S-21, on the host.
void Plan::measure(const CallIo& io, LevelMapView levels, Stream stream, RunStats* stats) const {
  const LevelCode* codes = levels.data;
  const std::int32_t* lengths = io.kv_lengths;
  std::vector<LevelCode> code_copy;
  std::vector<std::int32_t> length_copy;
  if (!memory().is_host()) {
    code_copy.resize(static_cast<std::size_t>(levels.size()));
    memory().copy(bytes_copy(code_copy.data(), codes, code_copy.size()), stream);
    if (lengths != nullptr) {
      length_copy.resize(static_cast<std::size_t>(geometry_.shape.batch));
      memory().copy(
          bytes_copy(length_copy.data(), lengths, length_copy.size() * sizeof(std::int32_t)),
          stream);
      lengths = length_copy.data();
    }
    memory().synchronize(stream);
    codes = code_copy.data();
    skip_unknown_levels(geometry_, code_copy);
    clamp_kv_lengths(geometry_, length_copy);
  }
  const LevelStats measured = measure_levels(geometry_, codes, lengths, nullptr);
  stats->density = measured.density;
  stats->selection_cost =
      measured.correction_cost + (io.levels != nullptr ? 0.0 : measured.selection_cost);
  stats->blocks = measured.blocks;
}

void Plan::forward(const CallIo& io, std::span<std::byte> workspace, RunStats* stats,
                   Stream stream) const {
  check_query(geometry_, device_, io);
  check_keys(geometry_, device_, io);
  check_values(geometry_, device_, io);
  check_output(geometry_, device_, io);
  check_contents(io);
  if (io.levels == nullptr) check_scores(geometry_, io);
  const Workspace ws = carve(workspace);
  const StageContext ctx = context(ws, stream);
  const bool needs_pyramid = io.levels != nullptr || !is_dense(geometry_);
  const LevelMapView levels =
      view_of(geometry_, io.levels_out != nullptr ? io.levels_out : ws.levels);
  const CurrentDevice current = make_current();
  StageClock clock(memory(), stream, stats);

  Inputs inputs;
  clock.time(&RunStats::reorder_ms,
             [&] { inputs = order_inputs(io, ws, stream, /*needs_q=*/true); });
  if (needs_pyramid) {
    clock.time(&RunStats::pyramid_ms, [&] { backend_->pyramid(ctx, {inputs, ws.pyramid}); });
  }
  if (io.levels == nullptr) {
    select(inputs, io, ws, levels, clock, stream);
  } else if (io.levels != levels.data) {
    memory().copy(bytes_copy(levels.data, io.levels, static_cast<std::size_t>(levels.size())),
                  stream);
  }
  clock.time(&RunStats::attention_ms, [&] {
    backend_->attention(ctx, {inputs, ws.pyramid, levels, io.out, io.lse, ws.attention_work});
  });
  if (stats == nullptr) return;
  *stats = {};
  clock.report(*stats);
  measure(io, levels, stream, stats);
}

void Plan::estimate_importance(const CallIo& io, float* importance, std::span<std::byte> workspace,
                               Stream stream) const {
  if (is_dense(geometry_)) {
    throw Error(
        Status::kUnsupported,
        "budget[0] is 1 in every head: this plan reads every block at level 1 and has no room to "
        "estimate anything; lower the budget");
  }
  check_query(geometry_, device_, io);
  check_keys(geometry_, device_, io);
  check_contents(io);
  check_scores(geometry_, io);
  const Workspace ws = carve(workspace);
  const CurrentDevice current = make_current();
  const Inputs inputs = order_inputs(io, ws, stream, /*needs_q=*/true);
  const StageContext ctx = context(ws, stream);
  const KvPyramid keys = keys_for_importance(geometry_.config, ws.pyramid);
  backend_->pyramid(ctx, {inputs, keys});
  for_each_chunk(geometry_, first_chunk_, [&](const RowChunk& chunk) {
    const ChunkRows rows = rows_of(geometry_, chunk);
    if (geometry_.config.importance == Importance::kUserScores) {
      memory().copy(gather(rows, io.scores, ws.importance), stream);
    }
    backend_->importance(ctx, {inputs, keys, chunk, ws.importance});
    memory().copy(scatter(rows, ws.importance, importance), stream);
  });
}

void Plan::assign_levels(const CallIo& io, const float* importance, LevelCode* levels,
                         std::span<std::byte> workspace, Stream stream) const {
  const Config& config = geometry_.config;
  if (config.similarity_cap.has_value() || weighs_keys(config)) check_keys(geometry_, device_, io);
  if (config.weigh_values) check_values(geometry_, device_, io);
  check_contents(io);
  const Workspace ws = carve(workspace);
  const StageContext ctx = context(ws, stream);
  const CurrentDevice current = make_current();
  Inputs inputs;
  inputs.k.shape[2] = geometry_.shape.len_kv;
  inputs.kv_lengths = io.kv_lengths;
  if (ws.caps != nullptr || ws.weights != nullptr) {
    inputs = order_inputs(io, ws, stream, /*needs_q=*/false);
    measure_blocks(ctx, inputs, ws);
  }
  for_each_chunk(geometry_, first_chunk_, [&](const RowChunk& chunk) {
    memory().copy(gather(rows_of(geometry_, chunk), importance, ws.importance), stream);
    backend_->levels(ctx, {inputs, chunk, ws.importance, ws.weights, ws.caps,
                           view_of(geometry_, levels), head_budgets()});
  });
}

void Plan::select_levels(const CallIo& io, LevelCode* levels, std::span<std::byte> workspace,
                         Stream stream) const {
  check_query(geometry_, device_, io);
  check_keys(geometry_, device_, io);
  if (geometry_.config.weigh_values) check_values(geometry_, device_, io);
  check_contents(io);
  check_scores(geometry_, io);
  Workspace ws = carve(workspace);
  const CurrentDevice current = make_current();
  const Inputs inputs = order_inputs(io, ws, stream, /*needs_q=*/true);
  ws.pyramid = keys_for_importance(geometry_.config, ws.pyramid);
  if (!is_dense(geometry_)) backend_->pyramid(context(ws, stream), {inputs, ws.pyramid});
  StageClock clock(memory(), stream, nullptr);
  select(inputs, io, ws, view_of(geometry_, levels), clock, stream);
}

void Plan::build_pyramid(const CallIo& io, int level, void* k_pooled, void* v_pooled,
                         std::span<std::byte> workspace, Stream stream) const {
  check_keys(geometry_, device_, io);
  check_values(geometry_, device_, io);
  check_contents(io);
  const ProblemShape& shape = geometry_.shape;
  if (level < 2 || !semantics::is_level_code(level, geometry_.config.block_kv)) {
    throw Error(Status::kInvalidArgument,
                "level is " + std::to_string(level) +
                    "; allowed: 2..5 with 2^(level-1) <= block_kv, or 6 (block mean)");
  }
  const Workspace ws = carve(workspace);
  const CurrentDevice current = make_current();
  const index_t rows = pyramid_rows(geometry_, level);
  const auto bytes =
      static_cast<std::size_t>(shape.batch * shape.heads_kv * rows * shape.head_dim) *
      size_of(shape.dtype_kv);
  memory().fill(k_pooled, 0, bytes, stream);  // rows behind the key lengths stay zero
  memory().fill(v_pooled, 0, bytes, stream);
  KvPyramid pyramid{};
  pyramid.at(static_cast<std::size_t>(level)) = {k_pooled, v_pooled, rows};
  backend_->pyramid(context(ws, stream),
                    {order_inputs(io, ws, stream, /*needs_q=*/false), pyramid});
}

}  // namespace psa::core
