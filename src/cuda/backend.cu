// SPDX-License-Identifier: Apache-2.0

// The tables of the CUDA backend, one per kind of tensor-core instruction, and the devices that run
// them.

#include <algorithm>
#include <string>
#include <utility>

#include "cuda/attention/launches.hpp"
#include "cuda/backend.hpp"
#include "cuda/device_memory.hpp"
#include "cuda/launch.cuh"
#include "cuda/stages.hpp"
#include "psa/config.hpp"

namespace psa::cuda {
namespace {

/// Importance of all heads of a batch element at a time, up to L = 75,600 with 12 heads and blocks
/// of 128 x 64: a launch per chunk of 1 MiB would cost more than the estimate.
constexpr std::size_t kChunkBytes = std::size_t{32} << 20;

/// Compute capability, 10 * major + minor.
constexpr int kHopper = 90;
constexpr int kOldest = 80;

struct Devices {
  std::vector<int> capability;  ///< by index
  std::string problem;          ///< why there is none
};

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string describe_failure(cudaError_t error) {
  if (error == cudaErrorNoDevice) return "the driver sees no CUDA device";
  int driver = 0;
  int runtime = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    return "no NVIDIA driver is loaded";
  }
  static_cast<void>(cudaRuntimeGetVersion(&runtime));
  if (error == cudaErrorInsufficientDriver) {
    return "the NVIDIA driver serves CUDA " + version_text(driver) + "; psa was built with CUDA " +
           version_text(runtime);
  }
  return std::string("CUDA cannot start: ") + cudaGetErrorString(error);
}

Devices find_devices() {
  Devices found;
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  static_cast<void>(cudaGetLastError());
  if (error != cudaSuccess) {
    found.problem = describe_failure(error);
    return found;
  }
  for (int index = 0; index < count; ++index) {
    int major = 0;
    int minor = 0;
    check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index),
               "cudaDeviceGetAttribute");
    check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index),
               "cudaDeviceGetAttribute");
    found.capability.push_back(10 * major + minor);
  }
  if (count == 0) found.problem = "the driver sees no CUDA device";
  return found;
}

const Devices& devices() {
  static const Devices found = find_devices();
  return found;
}

bool runs_sm90a(int capability) { return capability == kHopper; }
bool runs_sm80(int capability) { return capability >= kOldest; }

// ---- what a geometry needs ---------------------------------------------------------------------

bool is_half(DType dtype) { return dtype == DType::kF16 || dtype == DType::kBF16; }

const char* why_not_any(const core::Geometry& g) {
  const ProblemShape& shape = g.shape;
  if (!is_half(shape.dtype_q) || shape.dtype_kv != shape.dtype_q ||
      shape.dtype_out != shape.dtype_q) {
    return "q, k, v and out must all be f16 or all be bf16";
  }
  if (g.config.reorder == Reorder::kKMeans || g.config.reorder == Reorder::kHybrid) {
    return "the orders kmeans and hybrid are computed by the cpu backend only";
  }
  if (g.config.compat == Compat::kOfficial) {
    return "compat = official is computed by the cpu backend only";
  }
  return nullptr;
}

const char* why_not_device(Device device, bool (*runs)(int capability), const char* needs) {
  const auto index = static_cast<std::size_t>(device.index);  // negative values become large
  if (index >= devices().capability.size()) return "this process has no CUDA device of that index";
  return runs(devices().capability[index]) ? nullptr : needs;
}

const char* why_not_sm80(const core::Geometry& g, Device device) {
  const char* reason = why_not_any(g);
  if (reason != nullptr) return reason;
  return why_not_device(device, runs_sm80, "the device's compute capability is below 8.0");
}

const char* why_not_sm90a(const core::Geometry& g, Device device) {
  const char* reason = why_not_any(g);
  if (reason != nullptr) return reason;
  if (g.shape.head_dim > 128) return "head_dim is above 128";
  if (g.shape.head_dim % 8 != 0) return "head_dim is no multiple of 8 (rows of 16 bytes)";
  return why_not_device(device, runs_sm90a, "the device's compute capability is not 9.0");
}

// ---- the tables --------------------------------------------------------------------------------

template <std::size_t (*kImportanceScratch)(const core::Geometry&)>
std::size_t scratch_bytes(const core::Geometry& g) {
  return std::max(
      {value_weights_scratch(g), kImportanceScratch(g), levels_scratch(g), attention_scratch(g)});
}

std::size_t no_bytes(const core::Geometry& /*geometry*/) { return 0; }

constexpr core::Backend make_table(
    const char* isa, const char* (*why_not)(const core::Geometry&, Device),
    std::size_t (*scratch)(const core::Geometry&),
    void (*importance)(const StageContext&, const core::ImportanceParams&),
    void (*attention)(const StageContext&, const core::AttentionParams&)) {
  return {.name = "cuda",
          .isa = isa,
          .memory = &kDeviceMemory,
          .why_not = why_not,
          .chunk_bytes = kChunkBytes,
          .scratch_bytes = scratch,
          .cluster_bytes = no_bytes,
          .attention_bytes = attention_bytes,
          .cluster = nullptr,  // why_not_any
          .pyramid = pyramid,
          .similarity = similarity,
          .value_weights = value_weights,
          .importance = importance,
          .levels = levels,
          .attention = attention};
}

/// `missing` is said where no device runs the table; it must be static.
core::BackendEntry entry_of(const core::Backend& table, bool (*runs)(int capability),
                            const char* purpose, const char* missing) {
  const std::vector<int>& capability = devices().capability;
  if (capability.empty()) return {nullptr, "cuda", table.isa, devices().problem.c_str()};
  if (std::none_of(capability.begin(), capability.end(), runs)) {
    return {nullptr, "cuda", table.isa, missing};
  }
  return {&table, "cuda", table.isa, purpose};
}

std::vector<core::BackendEntry> make_entries() {
  return {entry_of(kSm90a, runs_sm90a, "Hopper: wgmma fed by TMA; head_dim up to 128",
                   "no device of compute capability 9.0"),
          entry_of(kSm80, runs_sm80, "mma.sync tensor cores: compute capability 8.0 and newer",
                   "no device of compute capability 8.0 or newer")};
}

}  // namespace

constinit const core::Backend kSm90a =
    make_table("sm_90a", why_not_sm90a, scratch_bytes<importance_scratch_sm90>, importance_sm90,
               attention_sm90);
constinit const core::Backend kSm80 = make_table(
    "sm_80", why_not_sm80, scratch_bytes<importance_scratch_sm80>, importance_sm80, attention_sm80);

const std::vector<core::BackendEntry>& entries() {
  static const std::vector<core::BackendEntry> all = make_entries();
  return all;
}

}  // namespace psa::cuda
