// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime_api.h>

#include "device_memory.hpp"
#include "psa/error.hpp"

namespace psa::cli {
namespace {

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw Error(error == cudaErrorMemoryAllocation ? Status::kOutOfMemory : Status::kInternal,
              std::string(what) + ": " + cudaGetErrorString(error));
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

CudaDevice describe_device(int index) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  CudaDevice device;
  device.name = properties.name;
  device.major = properties.major;
  device.minor = properties.minor;
  device.multiprocessors = properties.multiProcessorCount;
  device.memory_bytes = properties.totalGlobalMem;
  device.cache_bytes = static_cast<std::uint64_t>(properties.l2CacheSize);
  return device;
}

}  // namespace

void ReleaseDeviceMemory::operator()(std::byte* memory) const noexcept {
  static_cast<void>(cudaFree(memory));
}

DeviceMemory allocate_on_device(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes), "memory of the CUDA device");
  return DeviceMemory(static_cast<std::byte*>(memory));
}

void copy_to_device(std::byte* to, const void* from, std::size_t bytes) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copy to the CUDA device");
}

void copy_from_device(void* to, const std::byte* from, std::size_t bytes) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "copy from the CUDA device");
}

struct DeviceClock::Events {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  DeviceMemory ballast;  ///< twice the cache
  std::size_t ballast_bytes = 0;
};

DeviceClock::DeviceClock() : events_(std::make_unique<Events>()) {
  check(cudaEventCreate(&events_->begin), "cudaEventCreate");
  check(cudaEventCreate(&events_->end), "cudaEventCreate");
  events_->ballast_bytes = 2 * static_cast<std::size_t>(attribute(cudaDevAttrL2CacheSize, 0));
  events_->ballast = allocate_on_device(events_->ballast_bytes);
}

DeviceClock::~DeviceClock() {
  static_cast<void>(cudaEventDestroy(events_->begin));
  static_cast<void>(cudaEventDestroy(events_->end));
}

void DeviceClock::start() {
  check(cudaMemsetAsync(events_->ballast.get(), 0, events_->ballast_bytes), "cudaMemsetAsync");
  check(cudaEventRecord(events_->begin), "cudaEventRecord");
}

double DeviceClock::stop() {
  check(cudaEventRecord(events_->end), "cudaEventRecord");
  check(cudaEventSynchronize(events_->end), "computation on the CUDA device");
  float ms = 0;
  check(cudaEventElapsedTime(&ms, events_->begin, events_->end), "cudaEventElapsedTime");
  return static_cast<double>(ms);
}

CudaReport cuda_report() {
  CudaReport report;
  int version = 0;
  if (cudaRuntimeGetVersion(&version) == cudaSuccess) report.runtime = version_text(version);
  if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0) return report;
  report.driver = version_text(version);
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) return report;
  for (int index = 0; index < count; ++index) report.devices.push_back(describe_device(index));
  return report;
}

}  // namespace psa::cli
