// SPDX-License-Identifier: Apache-2.0
#include "cuda/fenced_memory.hpp"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <string>

#include "psa/error.hpp"

namespace psa::testing {
namespace {

/// Addresses that stay empty on both sides: more than any test's arguments.
constexpr std::size_t kFenceBytes = std::size_t{1} << 30;

void check(int status, const char* what) {
  if (status == 0) return;
  throw Error(Status::kOutOfMemory, std::string(what) + " failed with " + std::to_string(status));
}

/// A function of the driver, found at run time so that nothing links libcuda.
template <typename Function>
Function driver(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check(cudaGetDriverEntryPointByVersion(name, &function, 10020, cudaEnableDefault, &found), name);
  return reinterpret_cast<Function>(function);
}

struct Driver {
  PFN_cuMemGetAllocationGranularity_v10020 granularity =
      driver<PFN_cuMemGetAllocationGranularity_v10020>("cuMemGetAllocationGranularity");
  PFN_cuMemAddressReserve_v10020 reserve =
      driver<PFN_cuMemAddressReserve_v10020>("cuMemAddressReserve");
  PFN_cuMemAddressFree_v10020 unreserve = driver<PFN_cuMemAddressFree_v10020>("cuMemAddressFree");
  PFN_cuMemCreate_v10020 create = driver<PFN_cuMemCreate_v10020>("cuMemCreate");
  PFN_cuMemRelease_v10020 release = driver<PFN_cuMemRelease_v10020>("cuMemRelease");
  PFN_cuMemMap_v10020 map = driver<PFN_cuMemMap_v10020>("cuMemMap");
  PFN_cuMemUnmap_v10020 unmap = driver<PFN_cuMemUnmap_v10020>("cuMemUnmap");
  PFN_cuMemSetAccess_v10020 set_access = driver<PFN_cuMemSetAccess_v10020>("cuMemSetAccess");
};

struct Blocks {
  Driver driver;
  std::mutex mutex;
  std::map<CUdeviceptr, std::size_t> mapped;  // bytes by address
};

Blocks& blocks() {
  static Blocks all;
  return all;
}

void* allocate(std::size_t bytes) {
  Blocks& all = blocks();
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  const CUmemLocation location{.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device};
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = location;
  std::size_t granule = 0;
  check(all.driver.granularity(&granule, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
        "cuMemGetAllocationGranularity");
  const std::size_t whole = (bytes / granule + 1) * granule;
  CUdeviceptr fence = 0;
  check(all.driver.reserve(&fence, whole + 2 * kFenceBytes, granule, 0, 0), "cuMemAddressReserve");
  const CUdeviceptr block = fence + kFenceBytes;
  CUmemGenericAllocationHandle handle = 0;
  check(all.driver.create(&handle, whole, &properties, 0), "cuMemCreate");
  check(all.driver.map(block, whole, 0, handle, 0), "cuMemMap");
  check(all.driver.release(handle), "cuMemRelease");  // the mapping keeps it
  const CUmemAccessDesc access{.location = location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  check(all.driver.set_access(block, whole, &access, 1), "cuMemSetAccess");
  const std::lock_guard lock(all.mutex);
  all.mapped.emplace(block, whole);
  return reinterpret_cast<void*>(block);
}

void release(void* memory) {
  if (memory == nullptr) return;
  Blocks& all = blocks();
  static_cast<void>(cudaDeviceSynchronize());  // as cudaFree does
  const std::lock_guard lock(all.mutex);
  const auto found = all.mapped.find(reinterpret_cast<CUdeviceptr>(memory));
  const auto [block, whole] = *found;
  all.driver.unmap(block, whole);
  all.driver.unreserve(block - kFenceBytes, whole + 2 * kFenceBytes);
  all.mapped.erase(found);
}

struct FencedBackend {
  core::DeviceMemory memory;
  core::Backend backend;

  explicit FencedBackend(const core::Backend& original)
      : memory(*original.memory), backend(original) {
    memory.allocate = allocate;
    memory.release = release;
    backend.memory = &memory;
  }
};

}  // namespace

const core::Backend& fenced(const core::Backend& backend) {
  static std::mutex mutex;
  static std::map<const core::Backend*, FencedBackend> all;
  const std::lock_guard lock(mutex);
  // Built where it stays: it points into itself.
  return all.try_emplace(&backend, backend).first->second.backend;
}

}  // namespace psa::testing
