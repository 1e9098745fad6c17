// SPDX-License-Identifier: Apache-2.0
#include "support/tensors.hpp"

#include <algorithm>
#include <numeric>
#include <random>
#include <sstream>

#include "core/geometry.hpp"
#include "core/tensor.hpp"

namespace psa::testing {
namespace {

Shape strides_of(const Shape& shape, MemoryLayout layout) {
  const auto [b, h, l, d] = shape;
  if (layout == MemoryLayout::kBlhd) return {l * h * d, d, h * d, 1};
  const index_t row = layout == MemoryLayout::kPadded ? d + 3 : d;
  return {h * l * row, l * row, row, 1};
}

std::size_t bytes_of(const Shape& shape, const Shape& stride, DType dtype) {
  index_t last = 0;
  for (std::size_t axis = 0; axis < 4; ++axis) last += (shape[axis] - 1) * stride[axis];
  return static_cast<std::size_t>(last + 1) * size_of(dtype);
}

}  // namespace

Tensor::Tensor(const Shape& shape, DType dtype, MemoryLayout layout)
    : shape_(shape),
      stride_(strides_of(shape, layout)),
      dtype_(dtype),
      buffer_(bytes_of(shape, stride_, dtype)) {}

TensorView Tensor::view() { return {buffer_.data(), dtype_, Device{}, shape_, stride_}; }

float Tensor::get(index_t b, index_t h, index_t l, index_t c) const {
  const index_t row = b * stride_[0] + h * stride_[1] + l * stride_[2];
  return core::load_element(buffer_.data() + row * static_cast<index_t>(size_of(dtype_)), dtype_,
                            c);
}

void Tensor::set(index_t b, index_t h, index_t l, index_t c, float value) {
  core::store_element(core::row_address(view(), b, h, l), dtype_, c, value);
}

void Tensor::fill(float value) {
  for (index_t b = 0; b < shape_[0]; ++b) {
    for (index_t h = 0; h < shape_[1]; ++h) {
      for (index_t l = 0; l < shape_[2]; ++l) {
        for (index_t c = 0; c < shape_[3]; ++c) set(b, h, l, c, value);
      }
    }
  }
}

bool Tensor::has_untouched_gaps() const {
  std::vector<bool> in_gap(buffer_.size(), true);
  const std::size_t element_bytes = size_of(dtype_);
  for (index_t b = 0; b < shape_[0]; ++b) {
    for (index_t h = 0; h < shape_[1]; ++h) {
      for (index_t l = 0; l < shape_[2]; ++l) {
        const index_t row = b * stride_[0] + h * stride_[1] + l * stride_[2];
        const auto first = in_gap.begin() + row * static_cast<index_t>(element_bytes);
        std::fill_n(first, static_cast<std::size_t>(shape_[3]) * element_bytes, false);
      }
    }
  }
  for (std::size_t i = 0; i < in_gap.size(); ++i) {
    if (in_gap[i] && buffer_.data()[i] != std::byte{0xFF}) return false;
  }
  return true;
}

Tensor random_tensor(const Shape& shape, DType dtype, std::uint64_t seed, MemoryLayout layout,
                     double deviation) {
  Tensor tensor(shape, dtype, layout);
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal(0.0, deviation);
  for (index_t b = 0; b < shape[0]; ++b) {
    for (index_t h = 0; h < shape[1]; ++h) {
      for (index_t l = 0; l < shape[2]; ++l) {
        for (index_t c = 0; c < shape[3]; ++c) {
          tensor.set(b, h, l, c, static_cast<float>(normal(generator)));
        }
      }
    }
  }
  return tensor;
}

Config small_blocks() {
  Config config;
  config.block_q = 16;
  config.block_kv = 16;
  return config;
}

core::Geometry Problem::geometry() const { return core::make_geometry(shape, layout, config); }

std::string describe(const Problem& problem) {
  static constexpr const char* kTypes[] = {"f32", "f16", "bf16"};
  const ProblemShape& s = problem.shape;
  const Config& c = problem.config;
  std::ostringstream text;
  text << "B" << s.batch << " Hq" << s.heads_q << " Hkv" << s.heads_kv << " Lq" << s.len_q << " Lkv"
       << s.len_kv << " D" << s.head_dim << " " << kTypes[static_cast<int>(s.dtype_q)] << "/"
       << kTypes[static_cast<int>(s.dtype_kv)] << "/" << kTypes[static_cast<int>(s.dtype_out)]
       << " blocks " << c.block_q << "x" << c.block_kv << (c.causal ? " causal" : "")
       << (c.compat == Compat::kOfficial ? " official" : "") << " text "
       << problem.layout.text_tokens;
  return text.str();
}

core::Inputs QkvTensors::inputs() {
  const index_t len_q = q.shape()[2];
  const index_t len_kv = k.shape()[2];
  core::Inputs inputs{q.view(), k.view(), v.view(), {}, {}, nullptr};
  if (!kv_lengths.empty()) inputs.kv_lengths = kv_lengths.data();
  if (!q_index.empty()) inputs.q_order = {q_index.data(), q.shape()[1] * len_q, len_q};
  if (!kv_index.empty()) inputs.kv_order = {kv_index.data(), k.shape()[1] * len_kv, len_kv};
  return inputs;
}

QkvTensors random_qkv(const Problem& problem, std::uint64_t seed, MemoryLayout layout) {
  const ProblemShape& s = problem.shape;
  const Shape shape_q{s.batch, s.heads_q, s.len_q, s.head_dim};
  const Shape shape_kv{s.batch, s.heads_kv, s.len_kv, s.head_dim};
  return {random_tensor(shape_q, s.dtype_q, 3 * seed, layout),
          random_tensor(shape_kv, s.dtype_kv, 3 * seed + 1, layout),
          random_tensor(shape_kv, s.dtype_kv, 3 * seed + 2, layout),
          {},
          {},
          {}};
}

std::vector<std::int32_t> random_orders(index_t count, index_t len, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<std::int32_t> orders(static_cast<std::size_t>(count * len));
  for (index_t i = 0; i < count; ++i) {
    const auto first = orders.begin() + i * len;
    std::iota(first, first + len, 0);
    std::shuffle(first, first + len, generator);
  }
  return orders;
}

}  // namespace psa::testing
