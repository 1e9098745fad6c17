// SPDX-License-Identifier: Apache-2.0
#include "core/plan.hpp"

#include <algorithm>
#include <sstream>

#include "core/geometry.hpp"
#include "core/ledger.hpp"
#include "core/registry.hpp"
#include "psa/error.hpp"

namespace psa::core {
namespace {

/// Level code of the pyramid rows that pooled_lse reads: factor 8 or 16.
int sub_block_level(const Config& config) { return config.pooled_tokens == 16 ? 5 : 4; }

bool reads_values(const Config& config, int code) {
  return code == kBlockMean ? reads_means(config.rest) : code <= config.num_levels;
}

bool reads_keys(const Geometry& g, int code) {
  const bool estimates = g.config.importance == Importance::kPooledLse && !is_dense(g);
  return reads_values(g.config, code) || (estimates && code == sub_block_level(g.config));
}

/// Importance is estimated for as many rows at a time as fit in about 1/20 of K and V (and at least
/// the backend's chunk_bytes): those of several batch elements, or of one, or some of its query
/// blocks, in whole groups of 16. Where query blocks share a budget, no less than those of one.
RowChunk first_chunk(const Geometry& g, const Backend& backend) {
  const index_t kv_bytes = 2 * g.shape.batch * g.shape.heads_kv * g.shape.len_kv *
                           g.shape.head_dim * static_cast<index_t>(size_of(g.shape.dtype_kv));
  const index_t budget = std::max(static_cast<index_t>(backend.chunk_bytes), kv_bytes / 20);
  const index_t row_bytes = g.shape.heads_q * g.num_kv_blocks * static_cast<index_t>(sizeof(float));
  const index_t least = shares_budget(g.config) ? g.num_q_blocks : 1;
  const index_t rows = std::max(budget / row_bytes, least);
  if (rows >= g.num_q_blocks) {
    return {0, std::min(rows / g.num_q_blocks, g.shape.batch), 0, g.num_q_blocks};
  }
  return {0, 1, 0, rows > 16 ? rows / 16 * 16 : rows};
}

/// A device has its own parallelism; its calls run on the caller's thread.
Executor make_executor(const PlanOptions& options, const DeviceMemory& memory) {
  if (options.num_threads < 0 || options.num_threads > 1024) {
    throw Error(Status::kInvalidArgument, "num_threads is " + std::to_string(options.num_threads) +
                                              "; allowed: 0 (all processors) .. 1024");
  }
  return memory.is_host() ? Executor(options.num_threads, options.hook) : Executor(1);
}

}  // namespace

Plan::Plan(const ProblemShape& shape, const TokenLayout& layout, const Config& config,
           Device device, const PlanOptions& options)
    : Plan(make_geometry(shape, layout, config), options, device) {}

Plan::Plan(const Geometry& geometry, const PlanOptions& options, Device device)
    : Plan(geometry, choose_backend(options.backend, options.isa, geometry, device), device,
           options) {}

Plan::Plan(const Geometry& geometry, const Backend& backend, Device device,
           const PlanOptions& options)
    : geometry_(geometry),
      backend_(&backend),
      device_{device.type, backend.memory->is_host() ? 0 : device.index},
      executor_(make_executor(options, *backend.memory)) {
  const CurrentDevice current = make_current();
  if (!is_dense(geometry_)) static_order_ = make_static_order(geometry_);
  if (!memory().is_host()) {
    device_order_ = copy_to_device(std::as_bytes(std::span(static_order_)));
    device_budgets_ = copy_to_device(std::as_bytes(std::span(geometry_.head_budgets)));
  }
  first_chunk_ = first_chunk(geometry_, backend);
  scratch_bytes_ = backend.scratch_bytes(geometry_);
  lay_out(nullptr, &workspace_bytes_);
}

Plan::DeviceArray Plan::copy_to_device(std::span<const std::byte> values) const {
  if (values.empty()) return {};
  DeviceArray array{memory().allocate(values.size()), Release{&memory()}};
  memory().copy(bytes_copy(array.get(), values.data(), values.size()), Stream{});
  memory().synchronize(Stream{});  // calls may come on any stream
  return array;
}

const float* Plan::head_budgets() const {
  if (!memory().is_host()) return static_cast<const float*>(device_budgets_.get());
  return geometry_.head_budgets.empty() ? nullptr : geometry_.head_budgets.data();
}

Workspace Plan::lay_out(std::byte* base, std::size_t* bytes) const {
  const ProblemShape& shape = geometry_.shape;
  const Config& config = geometry_.config;
  const auto workers = static_cast<std::size_t>(executor_.workers());
  const auto elements = [](index_t count) { return static_cast<std::size_t>(count); };
  const index_t kv_heads = shape.batch * shape.heads_kv;
  Ledger ledger(base, memory().alignment);
  Workspace ws;
  if (orders_keys_by_content(config)) {
    if (orders_queries_by_content(config)) {
      ws.q_index = ledger.take<std::int32_t>(elements(shape.batch * shape.heads_q * shape.len_q));
    }
    ws.kv_index = ledger.take<std::int32_t>(elements(kv_heads * shape.len_kv));
    ws.cluster_work = ledger.take<std::byte>(workers * backend_->cluster_bytes(geometry_));
  }
  for (int code = 2; code < kNumLevelCodes; ++code) {
    PyramidLevel& level = ws.pyramid.at(static_cast<std::size_t>(code));
    if (!reads_keys(geometry_, code)) continue;
    level.rows = pyramid_rows(geometry_, code);
    const std::size_t level_bytes =
        elements(kv_heads * level.rows * shape.head_dim) * size_of(shape.dtype_kv);
    level.k = ledger.take<std::byte>(level_bytes);
    if (reads_values(config, code)) level.v = ledger.take<std::byte>(level_bytes);
  }
  if (config.similarity_cap.has_value()) {
    ws.caps = ledger.take<std::uint8_t>(elements(kv_heads * geometry_.num_kv_blocks));
  }
  if (config.weigh_values) {
    ws.weights = ledger.take<float>(elements(kv_heads * geometry_.num_kv_blocks));
  }
  const index_t row_floats = shape.heads_q * geometry_.num_kv_blocks;
  ws.levels = ledger.take<LevelCode>(elements(shape.batch * geometry_.num_q_blocks * row_floats));
  // Attention works where importance was: nobody reads that any more.
  const std::size_t importance_bytes =
      elements(first_chunk_.batches() * first_chunk_.q_blocks() * row_floats) * sizeof(float);
  ws.attention_work =
      ledger.take<std::byte>(std::max(importance_bytes, backend_->attention_bytes(geometry_)));
  ws.importance = reinterpret_cast<float*>(ws.attention_work);
  ws.scratch = ledger.take<std::byte>(workers * scratch_bytes_);
  *bytes = ledger.bytes();
  return ws;
}

Workspace Plan::carve(std::span<std::byte> workspace) const {
  if (workspace.size() < workspace_bytes_ ||
      (workspace.data() == nullptr && workspace_bytes_ > 0)) {
    throw Error(Status::kOutOfMemory, "workspace has " + std::to_string(workspace.size()) +
                                          " bytes; this plan needs " +
                                          std::to_string(workspace_bytes_));
  }
  if (reinterpret_cast<std::uintptr_t>(workspace.data()) % memory().alignment != 0) {
    throw Error(Status::kInvalidArgument,
                "workspace is not aligned to " + std::to_string(memory().alignment) + " bytes");
  }
  std::size_t bytes = 0;
  return lay_out(workspace.data(), &bytes);
}

StageContext Plan::context(const Workspace& ws, Stream stream) const {
  return {geometry_, executor_, ws.scratch, scratch_bytes_, stream};
}

std::string Plan::describe() const {
  static constexpr const char* kEstimators[] = {"sampled_max", "sampled_mass", "antidiagonal",
                                                "pooled_lse", "user_scores"};
  static constexpr const char* kOrders[] = {"none", "gilbert", "tile3d", "kmeans", "hybrid"};
  const ProblemShape& shape = geometry_.shape;
  const Config& config = geometry_.config;
  std::ostringstream text;
  text << "problem    q [" << shape.batch << "," << shape.heads_q << "," << shape.len_q << ","
       << shape.head_dim << "], k/v [" << shape.batch << "," << shape.heads_kv << ","
       << shape.len_kv << "," << shape.head_dim << "]" << (config.causal ? ", causal" : "") << "\n"
       << "backend    " << backend_->name << (*backend_->isa != '\0' ? " " : "") << backend_->isa
       << ", "
       << (memory().is_host() ? std::to_string(executor_.workers()) + " threads"
                              : "device " + std::to_string(device_.index))
       << "\n"
       << "blocks     " << geometry_.num_q_blocks << " x " << config.block_q << " queries, "
       << geometry_.num_kv_blocks << " x " << config.block_kv << " keys\n";
  if (is_dense(geometry_)) {
    text << "levels     dense: every block at level 1, nothing is estimated or reordered\n";
  } else {
    text << "order      " << kOrders[static_cast<int>(config.reorder)] << "\n"
         << "importance " << kEstimators[static_cast<int>(config.importance)]
         << (config.weigh_values ? ", values weighed" : "") << "\n"
         << "levels     " << (config.rule == LevelRule::kQuota ? "quota" : "threshold")
         << (shares_budget(config) ? " of all query blocks of a head" : "");
    if (config.head_density.empty()) {
      for (int l = 0; l < config.num_levels; ++l) {
        text << (l == 0 ? " " : "/") << config.budget.at(static_cast<std::size_t>(l));
      }
    } else {
      text << ", " << config.num_levels << " levels, density by head";
      for (const float density : config.head_density) text << " " << density;
    }
    text << ", rest " << rest_name(config.rest);
    if (reads_means(config.rest) && config.rest_cutoff > 0.0F) {
      text << " down to " << config.rest_cutoff << "/" << config.block_kv;
    }
    text << (config.compat == Compat::kOfficial ? ", compat official" : "") << "\n";
  }
  text << "workspace  " << workspace_bytes_ << " bytes\n";
  for (const BackendEntry& entry : backend_entries(device_.type)) {
    if (entry.backend == backend_) break;
    const char* why_not =
        entry.backend == nullptr ? entry.reason : entry.backend->why_not(geometry_, device_);
    text << "not used   " << entry.name << " " << entry.isa << ": "
         << (why_not != nullptr ? why_not : "another was asked for") << "\n";
  }
  return text.str();
}

}  // namespace psa::core
