// SPDX-License-Identifier: Apache-2.0
#include "placement.hpp"

#include <algorithm>
#include <sstream>

#include "psa/stages.hpp"
#include "timing.hpp"

namespace psa::cli {
namespace {

bool is_host(Device device) { return device.type == DeviceType::kCpu; }

/// From the first element to the last one, the last included.
std::size_t bytes_of(const TensorView& view) {
  index_t last = 0;
  for (std::size_t axis = 0; axis < 4; ++axis) last += (view.shape[axis] - 1) * view.stride[axis];
  return static_cast<std::size_t>(last + 1) * size_of(view.dtype);
}

DeviceMemory copy_of(const void* host, std::size_t bytes) {
  DeviceMemory memory = allocate_on_device(bytes);
  copy_to_device(memory.get(), host, bytes);
  return memory;
}

}  // namespace

Device device_of(const PlanOptions& options) {
  return options.backend == "cuda" ? Device{DeviceType::kCuda, 0} : Device{};
}

Plan make_plan(const Problem& problem, const PlanOptions& options) {
  return Plan::create(problem.shape, problem.layout, problem.config, device_of(options), options);
}

Executed executed_by(const Plan& plan) {
  const std::string text = plan.describe();
  const std::size_t line = text.find("backend ");
  if (line == std::string::npos) return {};
  std::istringstream all(text.substr(line, text.find('\n', line) - line));
  std::string names;
  std::getline(all, names, ',');
  std::istringstream words(names);
  std::string label;
  Executed executed;
  words >> label >> executed.backend >> executed.isa;
  all >> executed.threads;  // fails, and leaves 0, for "device 0"
  return executed;
}

PlacedInputs::PlacedInputs(const AttentionIo& host, Device device) : device_(device), io_(host) {
  io_.out = {};
  io_.lse = nullptr;
  io_.levels_out = nullptr;
  if (is_host(device)) return;
  place(&io_.q);
  place(&io_.k);
  place(&io_.v);
  if (io_.kv_lengths != nullptr) {
    const auto batch = static_cast<std::size_t>(host.k.shape[0]);
    memory_.push_back(copy_of(host.kv_lengths, batch * sizeof(std::int32_t)));
    io_.kv_lengths = reinterpret_cast<const std::int32_t*>(memory_.back().get());
  }
}

void PlacedInputs::place(TensorView* view) {
  memory_.push_back(copy_of(view->data, bytes_of(*view)));
  view->data = memory_.back().get();
  view->device = device_;
}

Placed::Placed(Device device, void* host, std::size_t bytes)
    : host_(static_cast<std::byte*>(host)), bytes_(bytes) {
  if (!is_host(device)) memory_ = allocate_on_device(bytes);
}

Placed::Placed(Device device, const TensorView& host) : Placed(device, host.data, bytes_of(host)) {
  view_ = host;
  view_.data = data<void>();
  view_.device = device;
}

void Placed::copy_from_host() const {
  if (memory_ != nullptr) copy_to_device(memory_.get(), host_, bytes_);
}

void Placed::copy_to_host() const {
  if (memory_ != nullptr) copy_from_device(host_, memory_.get(), bytes_);
}

std::span<std::byte> PlacedWorkspace::of(const Plan& plan) {
  const std::size_t bytes = plan.workspace_bytes();
  if (is_host(device_)) {
    if (!host_ || host_->bytes().size() < bytes) host_.emplace(bytes);
    return host_->bytes();
  }
  if (bytes_ < bytes) {
    memory_.reset();
    memory_ = allocate_on_device(bytes);
    bytes_ = bytes;
  }
  return {memory_.get(), bytes_};
}

void select_levels(const Plan& plan, const PlacedInputs& inputs, LevelMapView levels) {
  PlacedWorkspace workspace(inputs.device());
  const Placed codes(inputs.device(), levels.data, static_cast<std::size_t>(levels.size()));
  LevelMapView there = levels;
  there.data = codes.data<LevelCode>();
  stages::select_levels(plan, inputs.io(), there, workspace.of(plan));
  codes.copy_to_host();
}

CallTimer::CallTimer(Device device) {
  if (!is_host(device)) device_clock_.emplace();
}

double CallTimer::run(const Plan& plan, const AttentionIo& io, std::span<std::byte> workspace,
                      RunStats* stats) {
  if (!device_clock_) {
    const Stopwatch watch;
    psa::run(plan, io, workspace, {}, stats);
    return watch.ms();
  }
  device_clock_->start();
  psa::run(plan, io, workspace);
  const double ms = device_clock_->stop();
  if (stats != nullptr) psa::run(plan, io, workspace, {}, stats);
  return ms;
}

}  // namespace psa::cli
