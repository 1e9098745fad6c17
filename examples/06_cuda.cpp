// SPDX-License-Identifier: Apache-2.0
// Tensors on a GPU: the same call in the caller's stream, then as a CUDA graph.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <psa/half.hpp>
#include <vector>

#include "sample.hpp"

namespace {

constexpr psa::Device kDevice{psa::DeviceType::kCuda, 0};

void check(cudaError_t error) {
  if (error != cudaSuccess) throw psa::Error(psa::Status::kInternal, cudaGetErrorString(error));
}

/// Device memory, freed when the program ends.
void* allocate(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes));
  return memory;
}

/// The values as bf16 on the device, [B,H,L,D].
psa::TensorView upload(const Sample& sample, std::vector<float>& values) {
  std::vector<std::uint16_t> half;
  for (const float x : values) half.push_back(psa::bf16_from_float(x));
  psa::TensorView view = sample.view(values);
  view.data = allocate(half.size() * 2);
  view.dtype = psa::DType::kBF16;
  view.device = kDevice;
  check(cudaMemcpy(view.data, half.data(), half.size() * 2, cudaMemcpyHostToDevice));
  return view;
}

std::vector<float> download(const psa::TensorView& view, std::size_t size) {
  std::vector<std::uint16_t> half(size);
  check(cudaMemcpy(half.data(), view.data, size * 2, cudaMemcpyDeviceToHost));
  std::vector<float> values;
  for (const std::uint16_t x : half) values.push_back(psa::float_from_bf16(x));
  return values;
}

/// run() neither allocates nor waits, so a graph can hold it.
void replay_as_graph(const psa::Plan& plan, const psa::AttentionIo& io,
                     std::span<std::byte> workspace, cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  psa::run(plan, io, workspace, {stream});
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&replay, graph, 0));
  for (int step = 0; step < 3; ++step) check(cudaGraphLaunch(replay, stream));
  check(cudaStreamSynchronize(stream));
}

}  // namespace

int main() try {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA device here\n");
    return 77;
  }
  Sample sample;
  const std::vector<float> dense = sample.dense();  // on the CPU, in float
  std::vector<float> zeros(sample.size());
  psa::AttentionIo io{.q = upload(sample, sample.q),
                      .k = upload(sample, sample.k),
                      .v = upload(sample, sample.v),
                      .out = upload(sample, zeros)};

  sample.shape.dtype_q = sample.shape.dtype_kv = sample.shape.dtype_out = psa::DType::kBF16;
  const psa::Plan plan = psa::Plan::create(sample.shape, sample.layout, psa::Config{}, kDevice);
  std::printf("%s", plan.describe().c_str());
  const std::span<std::byte> workspace{static_cast<std::byte*>(allocate(plan.workspace_bytes())),
                                       plan.workspace_bytes()};
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream));

  psa::run(plan, io, workspace, {stream});
  check(cudaStreamSynchronize(stream));
  const std::vector<float> out = download(io.out, sample.size());
  std::printf("error beside dense attention: %.4f\n", relative_error(out, dense));

  replay_as_graph(plan, io, workspace, stream);
  const bool is_equal = download(io.out, sample.size()) == out;
  std::printf("three replays of a graph give %s results\n", is_equal ? "equal" : "different");
  return is_equal ? 0 : 1;
} catch (const psa::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
