// SPDX-License-Identifier: Apache-2.0

// Whole calls of the CPU backend and the time of each stage inside them. Arguments of a row:
// length, head_dim, dtype (0 f32, 2 bf16), density in percent (100: dense). Run with
//   --benchmark_repetitions=5 --benchmark_enable_random_interleaving=true
// and compare rows of one run only.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "psa/psa.hpp"

namespace {

constexpr psa::index_t kHeads = 4;

/// Normal numbers in the storage type (bf16 by truncation: only their spread matters here).
std::vector<std::byte> random_bytes(std::size_t count, psa::DType dtype, std::uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<std::byte> bytes(count * psa::size_of(dtype));
  for (std::size_t i = 0; i < count; ++i) {
    const float value = normal(generator);
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    const auto upper = static_cast<std::uint16_t>(bits >> 16);
    if (dtype == psa::DType::kF32) {
      std::memcpy(bytes.data() + 4 * i, &bits, 4);
    } else {
      std::memcpy(bytes.data() + 2 * i, &upper, 2);
    }
  }
  return bytes;
}

psa::TensorView view(std::vector<std::byte>& bytes, psa::DType dtype, psa::index_t length,
                     psa::index_t head_dim) {
  return {bytes.data(),
          dtype,
          {},
          {1, kHeads, length, head_dim},
          {kHeads * length * head_dim, length * head_dim, head_dim, 1}};
}

void Forward(benchmark::State& state) {
  const psa::index_t length = state.range(0);
  const psa::index_t head_dim = state.range(1);
  const auto dtype = static_cast<psa::DType>(state.range(2));
  const double density = static_cast<double>(state.range(3)) / 100.0;
  psa::ProblemShape shape{1, kHeads, kHeads, length, length, head_dim, dtype, dtype, dtype};
  const psa::Plan plan = psa::Plan::create(shape, {}, psa::with_density({}, density));
  const auto count = static_cast<std::size_t>(kHeads * length * head_dim);
  std::vector<std::byte> q = random_bytes(count, dtype, 1);
  std::vector<std::byte> k = random_bytes(count, dtype, 2);
  std::vector<std::byte> v = random_bytes(count, dtype, 3);
  std::vector<std::byte> out(q.size());
  psa::Workspace workspace(plan.workspace_bytes());
  psa::AttentionIo io;
  io.q = view(q, dtype, length, head_dim);
  io.k = view(k, dtype, length, head_dim);
  io.v = view(v, dtype, length, head_dim);
  io.out = view(out, dtype, length, head_dim);
  psa::RunStats stats;
  for (auto _ : state) psa::run(plan, io, workspace.bytes(), {}, &stats);
  const double columns = static_cast<double>(kHeads * length * length) * stats.density;
  state.counters["density"] = stats.density;
  state.counters["GFLOP/s"] = benchmark::Counter(4e-9 * columns * static_cast<double>(head_dim),
                                                 benchmark::Counter::kIsIterationInvariantRate);
  state.counters["pyramid_ms"] = stats.pyramid_ms;
  state.counters["importance_ms"] = stats.importance_ms;
  state.counters["levels_ms"] = stats.levels_ms;
  state.counters["attention_ms"] = stats.attention_ms;
}

BENCHMARK(Forward)
    ->ArgNames({"L", "D", "dtype", "percent"})
    ->ArgsProduct({{8192}, {64, 128}, {0, 2}, {100, 25, 15, 8}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
