// SPDX-License-Identifier: Apache-2.0
#include "cuda/device_memory.hpp"
#include "cuda/launch.cuh"

namespace psa::cuda {
namespace {

/// What cudaMalloc gives, and more than the widest load or bulk copy needs.
constexpr std::size_t kAlignment = 256;

std::int32_t set_current(std::int32_t index) {
  int previous = 0;
  check_cuda(cudaGetDevice(&previous), "cudaGetDevice");
  if (previous != index) check_cuda(cudaSetDevice(index), "cudaSetDevice");
  return previous;
}

void* allocate(std::size_t bytes) {
  void* memory = nullptr;
  check_cuda(cudaMalloc(&memory, bytes), "cudaMalloc");
  return memory;
}

void release(void* memory) { static_cast<void>(cudaFree(memory)); }

void copy(const core::RowCopy& rows, Stream stream) {
  const auto copy_bytes = [&](void* to, const void* from, std::size_t bytes) {
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_of(stream)),
               "cudaMemcpyAsync");
  };
  if (rows.to_pitch == rows.row_bytes && rows.from_pitch == rows.row_bytes) {
    copy_bytes(rows.to, rows.from, rows.row_bytes * static_cast<std::size_t>(rows.rows));
    return;
  }
  // Row by row: the pitch of cudaMemcpy2DAsync ends at 2^31 bytes, that of a level map's heads not.
  auto* to = static_cast<std::byte*>(rows.to);
  const auto* from = static_cast<const std::byte*>(rows.from);
  for (index_t row = 0; row < rows.rows; ++row) {
    copy_bytes(to, from, rows.row_bytes);
    to += rows.to_pitch;
    from += rows.from_pitch;
  }
}

void fill(void* to, std::uint8_t byte, std::size_t bytes, Stream stream) {
  check_cuda(cudaMemsetAsync(to, byte, bytes, stream_of(stream)), "cudaMemsetAsync");
}

void synchronize(Stream stream) {
  check_cuda(cudaStreamSynchronize(stream_of(stream)), "cudaStreamSynchronize");
}

/// Not during a capture, which waiting for the time would break: only stats ask for it.
void* mark(Stream stream) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(stream_of(stream), &capture), "cudaStreamIsCapturing");
  if (capture != cudaStreamCaptureStatusNone) {
    throw Error(Status::kInvalidArgument,
                "stats are wanted while the stream is being captured; they would wait for it");
  }
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreate(&event), "cudaEventCreate");
  if (const cudaError_t error = cudaEventRecord(event, stream_of(stream)); error != cudaSuccess) {
    cudaEventDestroy(event);
    check_cuda(error, "cudaEventRecord");
  }
  return event;
}

double milliseconds(void* from, void* to) {
  float ms = 0;
  check_cuda(cudaEventSynchronize(static_cast<cudaEvent_t>(to)), "cudaEventSynchronize");
  check_cuda(
      cudaEventElapsedTime(&ms, static_cast<cudaEvent_t>(from), static_cast<cudaEvent_t>(to)),
      "cudaEventElapsedTime");
  return static_cast<double>(ms);
}

void forget(void* mark) { static_cast<void>(cudaEventDestroy(static_cast<cudaEvent_t>(mark))); }

}  // namespace

const core::DeviceMemory kDeviceMemory{.type = DeviceType::kCuda,
                                       .alignment = kAlignment,
                                       .set_current = set_current,
                                       .allocate = allocate,
                                       .release = release,
                                       .copy = copy,
                                       .fill = fill,
                                       .synchronize = synchronize,
                                       .mark = mark,
                                       .milliseconds = milliseconds,
                                       .forget = forget};

}  // namespace psa::cuda
