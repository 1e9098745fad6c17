// SPDX-License-Identifier: Apache-2.0
#pragma once

// Plan once, run many. Header-only C++20 layer over the C ABI of psa.h: ownership, std::span and
// exceptions. Every failure throws psa::Error with the library's message, which names the argument,
// what was given and what is allowed. Letters in shapes: B batch, Hq and Hkv query and KV heads,
// Lq and Lk lengths, D head_dim, Nq and Nk query and KV blocks.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "psa/c_structs.hpp"
#include "psa/config.hpp"
#include "psa/error.hpp"
#include "psa/level_map.hpp"
#include "psa/psa.h"
#include "psa/types.hpp"

namespace psa {
namespace detail {

inline void check(psa_status status) {
  if (status != PSA_OK) throw Error(static_cast<Status>(status), psa_last_error());
}

inline void check_count(const std::string& name, index_t given, index_t needed) {
  if (given == needed) return;
  throw Error(Status::kInvalidArgument, name + " is " + std::to_string(given) +
                                            "; this plan needs " + std::to_string(needed));
}

}  // namespace detail

/// What computes a plan. A backend and an ISA are two of those that backends() lists.
struct PlanOptions {
  std::string backend = "auto";  ///< "auto", "cpu", "reference", or "cuda" for a CUDA device
  std::string isa{};             ///< empty: the best that this machine runs
  int num_threads = 0;           ///< 0: one per processor that the process may use; else 1..1024
  psa_parallel_for parallel_for = nullptr;  ///< the caller's threads; null: those of psa
  void* parallel_context = nullptr;         ///< first argument of `parallel_for`
};

/// The tensors of a call, not owned. Null pointers mean "not given". Element types are those of the
/// plan's ProblemShape. On the CPU all are host pointers, on CUDA pointers of the plan's device.
struct AttentionIo {
  TensorView q{};        ///< [B,Hq,Lq,D]
  TensorView k{};        ///< [B,Hkv,Lk,D]
  TensorView v{};        ///< [B,Hkv,Lk,D]
  TensorView out{};      ///< [B,Hq,Lq,D], written; must not overlap an input
  float* lse = nullptr;  ///< [B,Hq,Lq] contiguous, written: natural log, biases included
  const std::int32_t* kv_lengths = nullptr;  ///< [B], valid keys of each batch element, 0..Lk
  const float* scores = nullptr;             ///< [B,Hq,Nq,Nk], needed for Importance::kUserScores
  LevelCode* levels_out = nullptr;           ///< [B,Hq,Nq,Nk], written: the level map that was used
};

/// What a call did (docs/semantics.md S-21). Times in milliseconds.
struct RunStats {
  double density = 0;  ///< share of the logit columns that were computed
  double selection_cost =
      0;  ///< multiply-adds of the estimator and of S-23, in the unit of `density`
  std::array<index_t, kNumLevelCodes> blocks{};  ///< entries of the level map by code
  double reorder_ms = 0;
  double pyramid_ms = 0;
  double importance_ms = 0;
  double levels_ms = 0;
  double attention_ms = 0;

  [[nodiscard]] double selection_ms() const { return importance_ms + levels_ms; }
  [[nodiscard]] double total_ms() const {
    return reorder_ms + pyramid_ms + selection_ms() + attention_ms;
  }
};

/// A validated problem with everything that follows from its shapes. Immutable: any number of
/// threads may use one plan at once, each with a workspace of its own. Movable, not copyable; a
/// moved-from plan may only be assigned to or destroyed.
class Plan {
 public:
  /// Throws Error: kInvalidArgument when a field is out of its range or fields contradict each
  /// other (heads_kv must divide heads_q; grid and text must add up to len_kv); kUnsupported when
  /// no backend of this machine computes the problem.
  [[nodiscard]] static Plan create(const ProblemShape& shape, const TokenLayout& layout,
                                   const Config& config, Device device = {},
                                   const PlanOptions& options = {}) {
    const psa_problem problem = detail::to_c(detail::Problem{shape, layout, device});
    const psa_config c_config = detail::to_c(config);
    psa_plan_options c_options;
    psa_plan_options_init(&c_options);
    c_options.num_threads = options.num_threads;
    c_options.backend = options.backend.c_str();
    c_options.isa = options.isa.empty() ? nullptr : options.isa.c_str();
    c_options.parallel_for = options.parallel_for;
    c_options.parallel_context = options.parallel_context;
    psa_plan* plan = nullptr;
    detail::check(psa_plan_create(&problem, &c_config, &c_options, &plan));
    return Plan(plan, shape);
  }

  /// Bytes that each concurrent call needs, in the memory of the plan's device, aligned to 64 bytes
  /// (see Workspace); on CUDA to 256, as cudaMalloc does.
  [[nodiscard]] std::size_t workspace_bytes() const {
    std::size_t bytes = 0;
    detail::check(psa_plan_workspace_size(plan_.get(), &bytes));
    return bytes;
  }

  [[nodiscard]] const ProblemShape& shape() const { return shape_; }
  [[nodiscard]] index_t num_q_blocks() const { return num_q_blocks_; }
  [[nodiscard]] index_t num_kv_blocks() const { return num_kv_blocks_; }
  /// Entries of a level map (and of an importance map): B * Hq * Nq * Nk.
  [[nodiscard]] index_t level_map_size() const {
    return shape_.batch * shape_.heads_q * num_q_blocks_ * num_kv_blocks_;
  }
  /// `codes` seen as a level map of this plan. Throws if it has not level_map_size() entries.
  [[nodiscard]] LevelMapView level_map(std::span<LevelCode> codes) const {
    detail::check_count("number of level codes", std::ssize(codes), level_map_size());
    return {codes.data(), shape_.batch, shape_.heads_q, num_q_blocks_, num_kv_blocks_};
  }

  /// What will run and why, as lines of text for people.
  [[nodiscard]] std::string describe() const {
    std::size_t length = 0;
    detail::check(psa_plan_describe(plan_.get(), nullptr, 0, &length));
    std::string text(length, '\0');
    detail::check(psa_plan_describe(plan_.get(), text.data(), length + 1, nullptr));
    return text;
  }

  /// Working order of the tokens (S-19): order[w] = token at position w. Throws Error(kUnsupported)
  /// for orders that depend on the tensors' content.
  [[nodiscard]] std::vector<std::int32_t> token_order() const {
    std::vector<std::int32_t> order(static_cast<std::size_t>(shape_.len_q));
    detail::check(psa_plan_token_order(plan_.get(), order.data()));
    return order;
  }

  /// For calls of psa.h; owned by this object.
  [[nodiscard]] const psa_plan* handle() const { return plan_.get(); }

 private:
  struct Destroy {
    void operator()(psa_plan* plan) const { psa_plan_destroy(plan); }
  };

  Plan(psa_plan* plan, const ProblemShape& shape) : plan_(plan), shape_(shape) {
    detail::check(psa_plan_blocks(plan, &num_q_blocks_, &num_kv_blocks_));
  }

  std::unique_ptr<psa_plan, Destroy> plan_;
  ProblemShape shape_;
  index_t num_q_blocks_ = 0;
  index_t num_kv_blocks_ = 0;
};

/// A buffer of host memory, aligned as the workspace of a CPU plan must be. Throws
/// Error(kOutOfMemory).
class Workspace {
 public:
  explicit Workspace(std::size_t bytes)
      : data_(static_cast<std::byte*>(::operator new(bytes, kAlignment, std::nothrow))),
        size_(bytes) {
    if (data_ != nullptr) return;
    throw Error(Status::kOutOfMemory,
                "no memory for a workspace of " + std::to_string(bytes) + " bytes");
  }

  [[nodiscard]] std::span<std::byte> bytes() { return {data_.get(), size_}; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(std::byte* data) const { ::operator delete(data, kAlignment); }
  };

  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_;
};

namespace detail {

[[nodiscard]] inline psa_io to_c(const AttentionIo& io) {
  psa_io c;
  psa_io_init(&c);
  c.q = to_c(io.q);
  c.k = to_c(io.k);
  c.v = to_c(io.v);
  c.out = to_c(io.out);
  c.lse = io.lse;
  c.kv_lengths = io.kv_lengths;
  c.scores = io.scores;
  c.levels_out = io.levels_out;
  return c;
}

inline void check_levels(const Plan& plan, LevelMapView levels) {
  check_count("levels.batch", levels.batch, plan.shape().batch);
  check_count("levels.heads", levels.heads, plan.shape().heads_q);
  check_count("levels.num_q_blocks", levels.num_q_blocks, plan.num_q_blocks());
  check_count("levels.num_kv_blocks", levels.num_kv_blocks, plan.num_kv_blocks());
  if (levels.data == nullptr) throw Error(Status::kInvalidArgument, "levels.data is null");
}

inline void forward(const Plan& plan, const psa_io& io, std::span<std::byte> workspace,
                    Stream stream, RunStats* stats) {
  psa_stats c;
  psa_stats_init(&c);
  check(psa_forward(plan.handle(), &io, workspace.data(), workspace.size(), stream.handle,
                    stats == nullptr ? nullptr : &c));
  if (stats == nullptr) return;
  stats->density = c.density;
  stats->selection_cost = c.selection_cost;
  std::copy(std::begin(c.blocks), std::end(c.blocks), stats->blocks.begin());
  stats->reorder_ms = c.reorder_ms;
  stats->pyramid_ms = c.pyramid_ms;
  stats->importance_ms = c.importance_ms;
  stats->levels_ms = c.levels_ms;
  stats->attention_ms = c.attention_ms;
}

}  // namespace detail

/// The whole pipeline: reorder, pyramid, importance, levels, attention. Writes io.out, and io.lse
/// and io.levels_out where given; nothing when it throws for an argument. Same arguments, same
/// bits. `stats` costs one pass over the level map. On CUDA the work is queued in `stream` and this
/// returns at once, without allocating or waiting, unless stats are wanted: see psa.h.
/// Throws Error: kInvalidArgument when a tensor does not fit the plan (shape, element type, device,
/// channel stride other than 1, out over an input) or the workspace is not aligned to 64 bytes;
/// kOutOfMemory when it is smaller than plan.workspace_bytes().
inline void run(const Plan& plan, const AttentionIo& io, std::span<std::byte> workspace,
                Stream stream = {}, RunStats* stats = nullptr) {
  detail::forward(plan, detail::to_c(io), workspace, stream, stats);
}

/// As run(), with the caller's level map in place of importance and levels: codes 0 and
/// 1..num_levels, and kBlockMean if the plan reads means. Throws also when `levels` is not of
/// the plan's shape or, in host memory, holds another code (on a device such codes count as skip).
inline void run_with_levels(const Plan& plan, const AttentionIo& io, LevelMapView levels,
                            std::span<std::byte> workspace, Stream stream = {},
                            RunStats* stats = nullptr) {
  detail::check_levels(plan, levels);
  psa_io c = detail::to_c(io);
  c.levels = levels.data;
  detail::forward(plan, c, workspace, stream, stats);
}

/// A backend of this build. The strings are static.
struct BackendInfo {
  std::string_view name;    ///< for PlanOptions::backend
  std::string_view isa;     ///< for PlanOptions::isa; empty where there is no choice
  std::string_view reason;  ///< why it is not available, or what it is chosen for
  bool available = false;   ///< on this machine
};

/// Best first.
[[nodiscard]] inline std::vector<BackendInfo> backends() {
  std::vector<BackendInfo> all;
  for (std::int32_t i = 0; i < psa_backend_count(); ++i) {
    psa_backend_info info{};
    info.struct_size = sizeof(info);
    detail::check(psa_backend_at(i, &info));
    all.push_back({info.name, info.isa, info.reason, info.available != 0});
  }
  return all;
}

}  // namespace psa
