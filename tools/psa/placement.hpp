// SPDX-License-Identifier: Apache-2.0
#pragma once

// Where a call is computed. Files, pictures and tables need host memory; a plan for a CUDA device
// needs its arguments there. What is placed here is the host's own memory for the other plans.

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "device_memory.hpp"
#include "problem.hpp"
#include "psa/plan.hpp"

namespace psa::cli {

/// Backend "cuda": CUDA device 0 (CUDA_VISIBLE_DEVICES says which that is); others: the host.
[[nodiscard]] Device device_of(const PlanOptions& options);

[[nodiscard]] Plan make_plan(const Problem& problem, const PlanOptions& options);

/// The "backend" line of Plan::describe(): "cpu avx512_bf16, 2 threads" or "cuda sm_90a, device 0".
struct Executed {
  std::string backend;
  std::string isa;
  int threads = 0;  ///< 0: none of the host's
};
[[nodiscard]] Executed executed_by(const Plan& plan);

/// The inputs of a call where its plan reads them.
class PlacedInputs {
 public:
  /// q, k, v and kv_lengths of `host`, which must live as long as this object.
  PlacedInputs(const AttentionIo& host, Device device);

  /// With neither output nor level map.
  [[nodiscard]] const AttentionIo& io() const { return io_; }
  [[nodiscard]] Device device() const { return device_; }

 private:
  void place(TensorView* view);

  Device device_;
  AttentionIo io_;
  std::vector<DeviceMemory> memory_;
};

/// Host memory for a result of a call, or for an argument that is one of another.
class Placed {
 public:
  Placed(Device device, void* host, std::size_t bytes);
  template <typename T>
  Placed(Device device, std::span<T> host) : Placed(device, host.data(), host.size_bytes()) {}
  /// Contiguous, or [B,L,H,D].
  Placed(Device device, const TensorView& host);

  template <typename T>
  [[nodiscard]] T* data() const {
    return reinterpret_cast<T*>(memory_ == nullptr ? host_ : memory_.get());
  }
  /// The tensor that this was made of, there.
  [[nodiscard]] const TensorView& view() const { return view_; }
  void copy_from_host() const;
  void copy_to_host() const;

 private:
  std::byte* host_;
  std::size_t bytes_;
  DeviceMemory memory_;  // null: the host's is used
  TensorView view_;
};

/// Workspaces for plans of one device, one call at a time.
class PlacedWorkspace {
 public:
  explicit PlacedWorkspace(Device device) : device_(device) {}
  [[nodiscard]] std::span<std::byte> of(const Plan& plan);

 private:
  Device device_;
  std::optional<Workspace> host_;
  DeviceMemory memory_;
  std::size_t bytes_ = 0;
};

/// stages::select_levels() into a level map on the host.
void select_levels(const Plan& plan, const PlacedInputs& inputs, LevelMapView levels);

/// Times calls: on the host with its clock, stats included; on a device with the device's, from an
/// empty cache. There stats wait after each stage, so they are taken in a call of their own.
class CallTimer {
 public:
  explicit CallTimer(Device device);
  /// Milliseconds of one call.
  double run(const Plan& plan, const AttentionIo& io, std::span<std::byte> workspace,
             RunStats* stats);

 private:
  std::optional<DeviceClock> device_clock_;
};

}  // namespace psa::cli
