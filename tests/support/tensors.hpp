// SPDX-License-Identifier: Apache-2.0
#pragma once

// Tensors that own their memory, and random ones.

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/backend.hpp"
#include "psa/types.hpp"
#include "support/guarded_buffer.hpp"

namespace psa::testing {

using Shape = std::array<index_t, 4>;

/// Order of the axes in memory. kPadded is [B,H,L,D] with 3 unused channels behind each row.
enum class MemoryLayout { kBhld, kBlhd, kPadded };

/// A [B,H,L,D] tensor in guarded memory that starts as NaN.
class Tensor {
 public:
  Tensor(const Shape& shape, DType dtype, MemoryLayout layout = MemoryLayout::kBhld);

  [[nodiscard]] TensorView view();
  [[nodiscard]] const Shape& shape() const { return shape_; }
  [[nodiscard]] float get(index_t b, index_t h, index_t l, index_t c) const;
  void set(index_t b, index_t h, index_t l, index_t c, float value);
  void fill(float value);
  [[nodiscard]] const GuardedBuffer& buffer() const { return buffer_; }
  /// Whether the unused channels behind the rows are as they were.
  [[nodiscard]] bool has_untouched_gaps() const;

 private:
  Shape shape_;
  Shape stride_;
  DType dtype_;
  GuardedBuffer buffer_;
};

/// Normal values of standard deviation `deviation`; the same seed gives the same values before they
/// are rounded, whatever the storage type and the layout.
[[nodiscard]] Tensor random_tensor(const Shape& shape, DType dtype, std::uint64_t seed,
                                   MemoryLayout layout = MemoryLayout::kBhld,
                                   double deviation = 1.0);

/// The defaults of psa with blocks of 16.
[[nodiscard]] Config small_blocks();

/// A shape, its tokens and a configuration.
struct Problem {
  ProblemShape shape{.len_q = 64, .len_kv = 64, .head_dim = 8};
  TokenLayout layout;
  Config config = small_blocks();

  [[nodiscard]] core::Geometry geometry() const;
};

/// One line for messages: sizes, storage types and what is set.
[[nodiscard]] std::string describe(const Problem& problem);

/// The inputs of a problem. Empty vectors: no key lengths, identity orders.
struct QkvTensors {
  Tensor q;
  Tensor k;
  Tensor v;
  std::vector<std::int32_t> kv_lengths;  // [B]
  std::vector<std::int32_t> q_index;     // [B, Hq, Lq]
  std::vector<std::int32_t> kv_index;    // [B, Hkv, Lkv]

  [[nodiscard]] core::Inputs inputs();
};

[[nodiscard]] QkvTensors random_qkv(const Problem& problem, std::uint64_t seed,
                                    MemoryLayout layout = MemoryLayout::kBhld);

/// `count` random permutations of 0..len-1, one behind the other.
[[nodiscard]] std::vector<std::int32_t> random_orders(index_t count, index_t len,
                                                      std::uint64_t seed);

}  // namespace psa::testing
