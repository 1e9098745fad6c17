// SPDX-License-Identifier: Apache-2.0
#pragma once

// Plan: everything about a call that does not depend on the tensors' contents, validated once.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/backend.hpp"
#include "psa/config.hpp"
#include "psa/level_map.hpp"
#include "psa/types.hpp"

namespace psa::core {

struct PlanOptions {
  std::string backend = "auto";
  std::string isa;  ///< empty: the best
  int num_threads = 0;
  ParallelHook hook;
};

/// The tensors of a call; see psa_io in <psa/psa.h> for shapes. Null pointers mean "not given".
struct CallIo {
  TensorView q, k, v, out;
  float* lse = nullptr;
  const std::int32_t* kv_lengths = nullptr;
  const float* scores = nullptr;
  const LevelCode* levels = nullptr;
  LevelCode* levels_out = nullptr;
};

/// What a call did (S-21); times in milliseconds.
struct RunStats {
  double density = 0;
  double selection_cost = 0;
  std::array<index_t, kNumLevelCodes> blocks{};
  double reorder_ms = 0, pyramid_ms = 0, importance_ms = 0, levels_ms = 0, attention_ms = 0;
};

/// Pieces of a call's workspace. One function lays them out, with a null base to count bytes.
struct Workspace {
  std::int32_t* q_index = nullptr;
  std::int32_t* kv_index = nullptr;
  std::byte* cluster_work = nullptr;
  KvPyramid pyramid{};
  std::uint8_t* caps = nullptr;
  float* weights = nullptr;
  float* importance = nullptr;
  LevelCode* levels = nullptr;
  std::byte* attention_work = nullptr;  ///< where importance is
  std::byte* scratch = nullptr;
};

class StageClock;

class Plan {
 public:
  /// Throws Error(kInvalidArgument or kUnsupported) naming the field at fault.
  Plan(const ProblemShape& shape, const TokenLayout& layout, const Config& config, Device device,
       const PlanOptions& options);
  /// On a given backend, which must be able to serve the geometry.
  Plan(const Geometry& geometry, const Backend& backend, Device device, const PlanOptions& options);

  [[nodiscard]] const Geometry& geometry() const { return geometry_; }
  /// Where the tensors and the workspace of its calls lie.
  [[nodiscard]] const DeviceMemory& memory() const { return *backend_->memory; }
  [[nodiscard]] Device device() const { return device_; }
  [[nodiscard]] std::size_t workspace_bytes() const { return workspace_bytes_; }
  [[nodiscard]] std::string describe() const;
  /// S-19; empty for the identity and for content-based orders.
  [[nodiscard]] const std::vector<std::int32_t>& token_order() const { return static_order_; }

  // What the functions of the same names in <psa/psa.h> do. All pointers, those of the workspace
  // too, lie in the memory of the plan's device.
  void forward(const CallIo& io, std::span<std::byte> workspace, RunStats* stats,
               Stream stream = {}) const;
  void estimate_importance(const CallIo& io, float* importance, std::span<std::byte> workspace,
                           Stream stream = {}) const;
  void assign_levels(const CallIo& io, const float* importance, LevelCode* levels,
                     std::span<std::byte> workspace, Stream stream = {}) const;
  void select_levels(const CallIo& io, LevelCode* levels, std::span<std::byte> workspace,
                     Stream stream = {}) const;
  void build_pyramid(const CallIo& io, int level, void* k_pooled, void* v_pooled,
                     std::span<std::byte> workspace, Stream stream = {}) const;

 private:
  /// Memory of a device that the plan owns.
  struct Release {
    const DeviceMemory* memory;
    void operator()(void* data) const { memory->release(data); }
  };
  using DeviceArray = std::unique_ptr<void, Release>;

  Plan(const Geometry& geometry, const PlanOptions& options, Device device);

  Geometry geometry_;
  const Backend* backend_;
  Device device_;
  Executor executor_;
  std::vector<std::int32_t> static_order_;
  DeviceArray device_order_;       ///< static_order_ where the host's is not read
  DeviceArray device_budgets_;     ///< geometry_.head_budgets likewise
  RowChunk first_chunk_;           ///< of importance; no other is larger
  std::size_t scratch_bytes_ = 0;  ///< of each worker, on this device
  std::size_t workspace_bytes_ = 0;

  [[nodiscard]] CurrentDevice make_current() const { return {memory(), device_.index}; }
  /// A copy on the device; null if there is nothing to copy.
  [[nodiscard]] DeviceArray copy_to_device(std::span<const std::byte> values) const;
  /// S-24, where the stages read them; null: all heads have the budget of the configuration.
  [[nodiscard]] const float* head_budgets() const;
  Workspace lay_out(std::byte* base, std::size_t* bytes) const;
  Workspace carve(std::span<std::byte> workspace) const;
  StageContext context(const Workspace& ws, Stream stream) const;
  void check_contents(const CallIo& io) const;
  Inputs order_inputs(const CallIo& io, const Workspace& ws, Stream stream, bool needs_q) const;
  void measure_blocks(const StageContext& ctx, const Inputs& inputs, const Workspace& ws) const;
  void select(const Inputs& inputs, const CallIo& io, const Workspace& ws, LevelMapView levels,
              StageClock& clock, Stream stream) const;
  void measure(const CallIo& io, LevelMapView levels, Stream stream, RunStats* stats) const;
};

}  // namespace psa::core
