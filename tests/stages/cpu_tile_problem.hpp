// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the tests of the tile kernels share: guarded buffers, rows in memory, attention by the
// kernels of one ISA and by plain loops.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numbers>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/tensor.hpp"
#include "cpu/tile.hpp"
#include "psa/half.hpp"

namespace psa::cpu {

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr double kEpsilon = 0x1p-23;  // of float

/// 64-byte aligned, filled with NaN so that a read of something never written shows up, with a
/// guard behind the end.
class Buffer {
 public:
  explicit Buffer(std::size_t bytes)
      : bytes_(bytes),
        data_(static_cast<std::byte*>(::operator new (bytes + kGuard, std::align_val_t{64}))) {
    std::memset(data_.get(), 0xFF, bytes + kGuard);
  }
  ~Buffer() { EXPECT_TRUE(guard_intact()) << "written past the end of " << bytes_ << " bytes"; }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  [[nodiscard]] void* data() const { return data_.get(); }
  [[nodiscard]] float* floats() const { return reinterpret_cast<float*>(data_.get()); }

 private:
  static constexpr std::size_t kGuard = 256;
  struct Free {
    void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{64}); }
  };
  [[nodiscard]] bool guard_intact() const {
    return std::all_of(data_.get() + bytes_, data_.get() + bytes_ + kGuard,
                       [](std::byte b) { return b == std::byte{0xFF}; });
  }

  std::size_t bytes_;
  std::unique_ptr<std::byte, Free> data_;
};

/// Rows of one head in memory with a gap between rows, and the numbers that they hold.
struct Matrix {
  int count;
  int dim;
  DType dtype;
  index_t stride;
  std::vector<std::byte> bytes;

  Matrix(int rows, int channels, DType type, int gap = 3)
      : count(rows),
        dim(channels),
        dtype(type),
        stride(channels + gap),
        bytes(static_cast<std::size_t>(rows * stride) * size_of(type), std::byte{0xFF}) {}

  [[nodiscard]] void* row(int r) {
    return bytes.data() + static_cast<std::size_t>(r * stride) * size_of(dtype);
  }
  [[nodiscard]] float at(int r, int c) const {
    return core::load_element(bytes.data() + static_cast<std::size_t>(r * stride) * size_of(dtype),
                              dtype, c);
  }
  void set(int r, int c, float value) { core::store_element(row(r), dtype, c, value); }

  [[nodiscard]] InputRows input(int first = 0, const std::int32_t* index = nullptr) const {
    return {.data = bytes.data(), .dtype = dtype, .stride = stride, .first = first, .index = index};
  }
  [[nodiscard]] OutputRows output(float* lse) {
    return {.data = bytes.data(), .dtype = dtype, .stride = stride, .lse = lse};
  }
};

inline Matrix random_matrix(int rows, int dim, DType dtype, unsigned seed) {
  Matrix m(rows, dim, dtype);
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < dim; ++c) m.set(r, c, normal(generator));
  }
  return m;
}

/// The number that the kernel multiplies with.
inline float operand(Compute compute, float value) {
  return compute == Compute::kBF16 ? float_from_bf16(bf16_from_float(value)) : value;
}

/// All buffers of one query pack.
struct Pack {
  const TileKernels& kernels;
  PackShape shape;
  Buffer queries, keys, values, scores, output, max, sum, rescale;

  Pack(const TileKernels& k, PackShape s)
      : kernels(k),
        shape(s),
        queries(query_pack_bytes(k.compute, s.rows, s.head_dim)),
        keys(tile_bytes(k.compute, s.head_dim)),
        values(tile_bytes(k.compute, s.head_dim)),
        scores(score_floats(s.rows) * sizeof(float)),
        output(output_floats(s.rows, s.head_dim) * sizeof(float)),
        max(state_bytes()),
        sum(state_bytes()),
        rescale(state_bytes()) {}

  [[nodiscard]] std::size_t state_bytes() const {
    return static_cast<std::size_t>(padded_queries(shape.rows)) * sizeof(float);
  }
  [[nodiscard]] SoftmaxState state() const {
    return {.max_log2 = max.floats(), .sum = sum.floats(), .rescale = rescale.floats()};
  }
  [[nodiscard]] TileStep step(int count, const LogitRule& rule = {}) const {
    return {.shape = shape,
            .keys = count,
            .rule = rule,
            .queries = queries.data(),
            .key_tile = keys.data(),
            .value_tile = values.data(),
            .scores = scores.floats(),
            .output = output.floats(),
            .state = state()};
  }
  void load_keys(const InputRows& rows, int at, int count) const {
    kernels.load_keys(rows, {keys.data(), shape.head_dim, at, count});
  }
  [[nodiscard]] bool load_values(const InputRows& rows, int at, int count) const {
    return kernels.load_values(rows, {values.data(), shape.head_dim, at, count});
  }
  [[nodiscard]] float score(int key, int query) const {
    return scores.floats()[score_at(shape.rows, key, query)];
  }
};

/// Which keys exist and how they are weighed; `order` cuts them into tiles of the given sizes.
struct Problem {
  Matrix q, k, v;
  std::vector<int> tiles;
  float scale_log2 = 1.0F;
  std::vector<float> bias_log2 = {};
  std::vector<std::int32_t> first_query = {};
  std::vector<std::int32_t> key_index = {};
  bool in_one_call = true;  ///< attend, or its three parts one after the other

  [[nodiscard]] int key_row(int key) const {
    return key_index.empty() ? key : key_index[static_cast<std::size_t>(key)];
  }
  [[nodiscard]] bool visible(int query, int key) const {
    return first_query.empty() || query >= first_query[static_cast<std::size_t>(key)];
  }
};

struct Result {
  Matrix out;
  std::vector<float> lse;
};

inline Result run_kernels(const TileKernels& kernels, const Problem& p,
                          DType out_dtype = DType::kF32) {
  const Pack pack(kernels, {p.q.count, p.q.dim});
  kernels.pack_queries(pack.shape, p.q.input(), pack.queries.data());
  reset_output(pack.shape, pack.output.floats(), pack.state());
  int begin = 0;
  for (const int count : p.tiles) {
    const std::int32_t* index = p.key_index.empty() ? nullptr : p.key_index.data();
    // Two pieces, so that the second starts anywhere in the tile.
    const int cut = count / 3;
    pack.load_keys(p.k.input(begin, index), 0, cut);
    pack.load_keys(p.k.input(begin + cut, index), cut, count - cut);
    const bool finite_a = pack.load_values(p.v.input(begin, index), 0, cut);
    const bool finite_b = pack.load_values(p.v.input(begin + cut, index), cut, count - cut);
    TileStep step = pack.step(count, {.scale_log2 = p.scale_log2});
    step.values_finite = finite_a && finite_b;
    if (!p.bias_log2.empty()) step.rule.bias_log2 = p.bias_log2.data() + begin;
    if (!p.first_query.empty()) step.rule.first_query = p.first_query.data() + begin;
    if (p.in_one_call) {
      kernels.attend(step);
    } else {
      kernels.scores(step, false);
      kernels.softmax(step);
      kernels.accumulate(step);
    }
    begin += count;
  }
  Result result{Matrix(p.q.count, p.q.dim, out_dtype),
                std::vector<float>(static_cast<std::size_t>(p.q.count))};
  kernels.store_output(pack.shape, pack.output.floats(), pack.state(),
                       result.out.output(result.lse.data()));
  return result;
}

/// Soft-max attention by plain loops in Real, on the operands that the compute type gives. For
/// float and bf16 the probabilities are rounded where the kernel must round them.
template <typename Real>
Result run_plain(Compute compute, const Problem& p, bool round_probabilities) {
  const int keys =
      static_cast<int>(p.tiles.empty() ? 0 : std::accumulate(p.tiles.begin(), p.tiles.end(), 0));
  Result result{Matrix(p.q.count, p.q.dim, DType::kF32),
                std::vector<float>(static_cast<std::size_t>(p.q.count))};
  std::vector<Real> logit(static_cast<std::size_t>(keys));
  for (int i = 0; i < p.q.count; ++i) {
    Real max = -std::numeric_limits<Real>::infinity();
    for (int j = 0; j < keys; ++j) {
      Real& s = logit[static_cast<std::size_t>(j)];
      s = 0;
      for (int c = 0; c < p.q.dim; ++c) {
        s += static_cast<Real>(operand(compute, p.q.at(i, c))) *
             static_cast<Real>(operand(compute, p.k.at(p.key_row(j), c)));
      }
      s = s * static_cast<Real>(p.scale_log2);
      if (!p.bias_log2.empty()) s += static_cast<Real>(p.bias_log2[static_cast<std::size_t>(j)]);
      if (!p.visible(i, j)) s = -std::numeric_limits<Real>::infinity();
      max = std::max(max, s);
    }
    Real sum = 0;
    std::vector<Real> o(static_cast<std::size_t>(p.q.dim), Real{0});
    for (int j = 0; j < keys; ++j) {
      if (!p.visible(i, j)) continue;
      Real w = std::exp2(logit[static_cast<std::size_t>(j)] - max);
      sum += w;
      if (round_probabilities) w = static_cast<Real>(operand(compute, static_cast<float>(w)));
      for (int c = 0; c < p.q.dim; ++c) {
        o[static_cast<std::size_t>(c)] +=
            w * static_cast<Real>(operand(compute, p.v.at(p.key_row(j), c)));
      }
    }
    for (int c = 0; c < p.q.dim; ++c) {
      result.out.set(i, c,
                     sum == 0 ? 0.0F : static_cast<float>(o[static_cast<std::size_t>(c)] / sum));
    }
    result.lse[static_cast<std::size_t>(i)] =
        static_cast<float>((max + std::log2(sum)) * std::numbers::ln2_v<Real>);
  }
  return result;
}

inline Problem random_problem(int rows, int head_dim, DType dtype, std::vector<int> tiles,
                              unsigned seed) {
  const int keys = std::accumulate(tiles.begin(), tiles.end(), 0);
  return {.q = random_matrix(rows, head_dim, dtype, seed),
          .k = random_matrix(keys, head_dim, dtype, seed + 1),
          .v = random_matrix(keys, head_dim, dtype, seed + 2),
          .tiles = std::move(tiles),
          .scale_log2 = std::numbers::log2e_v<float> / std::sqrt(static_cast<float>(head_dim))};
}

inline std::vector<std::int32_t> staircase(int keys, int rows) {
  std::vector<std::int32_t> first(static_cast<std::size_t>(keys));
  for (int j = 0; j < keys; ++j) first[static_cast<std::size_t>(j)] = (j * 7) % (rows + 5) - 2;
  return first;
}

/// A test for every table that this machine has.
class TileTest : public ::testing::TestWithParam<const TileKernels*> {
 protected:
  const TileKernels& kernels() const { return *GetParam(); }
};

inline auto every_isa() {
  return ::testing::ValuesIn(all_supported().begin(), all_supported().end());
}

inline std::string isa_name(const ::testing::TestParamInfo<const TileKernels*>& info) {
  return info.param->isa;
}

}  // namespace psa::cpu
