// SPDX-License-Identifier: Apache-2.0
#include "core/registry.hpp"

#include <array>
#include <cstring>
#include <utility>

#include "cpu/backend.hpp"
#include "cuda/backend.hpp"
#include "psa/error.hpp"
#include "reference/backend.hpp"

namespace psa::core {
namespace {

struct KnownIsa {
  const char* isa;
  const char* purpose;
  const char* missing;
};

constexpr std::array<KnownIsa, 4> kCpuIsas{{
    {"avx512_bf16", "AVX-512 with bf16 dot products",
     "this processor has no AVX512_BF16 instructions"},
    {"avx512", "AVX-512; bf16 and f16 are computed in f32", "this processor has no AVX-512"},
    {"avx2", "AVX2 and FMA; bf16 and f16 are computed in f32", "this processor has no AVX2"},
    {"scalar", "any processor", "not in this build"},
}};

std::vector<BackendEntry> make_host_entries() {
  std::vector<BackendEntry> entries;
  for (const KnownIsa& known : kCpuIsas) {
    BackendEntry entry{nullptr, "cpu", known.isa, known.missing};
    for (const Backend& backend : cpu::all_backends()) {
      if (std::strcmp(backend.isa, known.isa) != 0) continue;
      entry.backend = &backend;
      entry.reason = known.purpose;
    }
    entries.push_back(entry);
  }
  // Newer instructions are quicker, but for bf16 dot products on some processors.
  const bool has_bf16 = entries[0].backend != nullptr;
  if (has_bf16 && entries[0].backend != &cpu::backend()) {
    entries[0].reason = "AVX-512 with bf16 dot products, slower than f32 on this processor";
    std::swap(entries[0], entries[1]);
  }
  entries.push_back({&reference::backend(), "reference", "",
                     "the oracle: double precision, naive; only when asked for by name"});
  return entries;
}

std::vector<BackendEntry> make_all_entries() {
  std::vector<BackendEntry> all = backend_entries(DeviceType::kCuda);
  const std::vector<BackendEntry>& host = backend_entries(DeviceType::kCpu);
  all.insert(all.end(), host.begin(), host.end());
  return all;
}

std::string description(const std::string& name, const std::string& isa, Device device) {
  return (device.type == DeviceType::kCuda ? "device is CUDA " + std::to_string(device.index) + ", "
                                           : std::string()) +
         "backend is \"" + name + "\"" + (isa.empty() ? "" : ", isa \"" + isa + "\"");
}

/// A backend of the other type of memory is a mistake of the caller's, not a lack of this machine.
void check_memory(const std::string& name, Device device) {
  const bool is_host_backend = name == "cpu" || name == "reference";
  if (device.type == DeviceType::kCuda && is_host_backend) {
    throw Error(Status::kInvalidArgument, description(name, "", device) +
                                              ", which computes tensors in host memory only; "
                                              "allowed: auto, cuda");
  }
  if (device.type == DeviceType::kCpu && name == "cuda") {
    throw Error(Status::kInvalidArgument,
                "backend is \"cuda\", but the problem's device is the CPU; set its device type to "
                "CUDA and give device pointers, or use auto, cpu or reference");
  }
}

}  // namespace

const std::vector<BackendEntry>& backend_entries() {
  static const std::vector<BackendEntry> entries = make_all_entries();
  return entries;
}

const std::vector<BackendEntry>& backend_entries(DeviceType type) {
  if (type == DeviceType::kCuda) return cuda::entries();
  static const std::vector<BackendEntry> entries = make_host_entries();
  return entries;
}

const Backend& choose_backend(const std::string& name, const std::string& isa,
                              const Geometry& geometry, Device device) {
  check_memory(name, device);
  std::string refused;
  for (const BackendEntry& entry : backend_entries(device.type)) {
    const bool is_reference = std::strcmp(entry.name, "reference") == 0;
    if (name == "auto" ? is_reference : name != entry.name) continue;
    if (!isa.empty() && isa != entry.isa) continue;
    const char* why_not =
        entry.backend == nullptr ? entry.reason : entry.backend->why_not(geometry, device);
    if (why_not == nullptr) return *entry.backend;
    refused += std::string("; ") + entry.name + " " + entry.isa + ": " + why_not;
  }
  std::string message = description(name, isa, device);
  if (!refused.empty()) throw Error(Status::kUnsupported, message + refused);
  message += "; allowed: auto";
  for (const BackendEntry& entry : backend_entries(device.type)) {
    message += std::string(", ") + entry.name + (*entry.isa != '\0' ? " " : "") + entry.isa;
  }
  throw Error(Status::kInvalidArgument, message);
}

}  // namespace psa::core
