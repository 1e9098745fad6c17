// SPDX-License-Identifier: Apache-2.0
#include "engine/cuda/device.hpp"

#include "engine/cuda/cuda_check.hpp"

namespace psa::engine {
namespace {

cudaStream_t to_cuda(void* stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t to_event(void* event) { return static_cast<cudaEvent_t>(event); }

cudaDeviceProp properties() {
  cudaDeviceProp found{};
  check_cuda(cudaGetDeviceProperties(&found, 0), "cudaGetDeviceProperties");
  return found;
}

}  // namespace

std::string why_no_device() {
  int version = 0;
  if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0) {
    return "no NVIDIA driver is loaded";
  }
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  static_cast<void>(cudaGetLastError());
  if (error != cudaSuccess) return std::string("CUDA cannot start: ") + cudaGetErrorString(error);
  if (count == 0) return "the driver sees no CUDA device";
  constexpr int kOldest = 8;
  const cudaDeviceProp found = properties();
  if (found.major >= kOldest) return "";
  return std::string(found.name) + " has compute capability " + std::to_string(found.major) + "." +
         std::to_string(found.minor) + "; needed is 8.0";
}

std::string device_name() { return properties().name; }

std::size_t device_memory_in_use() {
  std::size_t free_bytes = 0;
  std::size_t all_bytes = 0;
  check_cuda(cudaMemGetInfo(&free_bytes, &all_bytes), "cudaMemGetInfo");
  return all_bytes - free_bytes;
}

template <MemoryKind kKind>
void CudaMemory<kKind>::reserve(std::size_t bytes) {
  if (bytes <= size_) return;
  data_.reset();  // before the larger one is there
  size_ = 0;
  void* memory = nullptr;
  if constexpr (kKind == MemoryKind::kDevice) {
    check_cuda(cudaMalloc(&memory, bytes), "memory of the CUDA device");
  } else {
    check_cuda(cudaMallocHost(&memory, bytes), "pinned memory");
  }
  data_.reset(static_cast<std::byte*>(memory));
  size_ = bytes;
}

template <MemoryKind kKind>
void CudaMemory<kKind>::Release::operator()(std::byte* data) const noexcept {
  static_cast<void>(kKind == MemoryKind::kDevice ? cudaFree(data) : cudaFreeHost(data));
}

template class CudaMemory<MemoryKind::kDevice>;
template class CudaMemory<MemoryKind::kPinned>;

DeviceStream::DeviceStream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  stream_ = stream;
}

DeviceStream::~DeviceStream() { static_cast<void>(cudaStreamDestroy(to_cuda(stream_))); }

void DeviceStream::copy_to_device(void* to, const void* from, std::size_t bytes) const {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, to_cuda(stream_)),
             "copy to the CUDA device");
}

void DeviceStream::copy_to_host(void* to, const void* from, std::size_t bytes) const {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, to_cuda(stream_)),
             "copy from the CUDA device");
}

void DeviceStream::synchronize() const {
  check_cuda(cudaStreamSynchronize(to_cuda(stream_)), "computation on the CUDA device");
}

DeviceEvent::DeviceEvent() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreate(&event), "cudaEventCreate");
  event_ = event;
}

DeviceEvent::~DeviceEvent() {
  if (event_ != nullptr) static_cast<void>(cudaEventDestroy(to_event(event_)));
}

void DeviceEvent::record(const DeviceStream& stream) const {
  check_cuda(cudaEventRecord(to_event(event_), to_cuda(stream.handle().handle)), "cudaEventRecord");
}

void DeviceEvent::wait() const {
  check_cuda(cudaEventSynchronize(to_event(event_)), "computation on the CUDA device");
}

double DeviceEvent::ms_since(const DeviceEvent& begin) const {
  float ms = 0;
  check_cuda(cudaEventElapsedTime(&ms, to_event(begin.event_), to_event(event_)),
             "cudaEventElapsedTime");
  return static_cast<double>(ms);
}

}  // namespace psa::engine
