// SPDX-License-Identifier: Apache-2.0
#pragma once

// q, k and v of a call from a .safetensors file or three .npy files, and tensors in memory.

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/tensors/tensor_info.hpp"
#include "psa/types.hpp"

namespace psa::cli {

/// Order of the axes of a tensor in a file or in memory. TensorView is (b, h, l, d) for both.
enum class AxisOrder : std::uint8_t { kBhld, kBlhd };

/// A contiguous tensor that owns its memory (64-byte aligned, zeroed).
class OwnedTensor {
 public:
  OwnedTensor() = default;
  /// `shape` is (batch, head, token, channel) whatever the axis order.
  OwnedTensor(const std::array<index_t, 4>& shape, DType dtype, AxisOrder order = AxisOrder::kBhld);

  [[nodiscard]] const TensorView& view() const { return view_; }
  [[nodiscard]] AxisOrder axis_order() const { return order_; }
  /// For the writers of engine/tensors: shape in axis order, a view of the data.
  [[nodiscard]] io::TensorInfo info(const std::string& name) const;

 private:
  struct Free {
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Free> data_;
  TensorView view_;
  AxisOrder order_ = AxisOrder::kBhld;
  std::size_t bytes_ = 0;
};

/// A view of contiguous memory.
[[nodiscard]] TensorView view_of(void* data, DType dtype, const std::array<index_t, 4>& shape,
                                 AxisOrder order);

/// Elements as float and back; `element` counts in the dtype's size from `data`.
[[nodiscard]] float load_element(const void* data, DType dtype, index_t element);
void store_element(void* data, DType dtype, index_t element, float value);
/// Element (b, h, token, channel) of a view.
[[nodiscard]] float element_at(const TensorView& t, index_t b, index_t h, index_t token,
                               index_t channel);

/// A copy of `source` with another storage type, rounded once.
[[nodiscard]] OwnedTensor convert(const TensorView& source, DType dtype, AxisOrder order);

/// What to read and how.
struct InputOptions {
  std::vector<std::filesystem::path> files;  ///< one .safetensors, or q, k and v as .npy
  std::array<std::string, 3> names{"q", "k", "v"};
  AxisOrder axis_order = AxisOrder::kBhld;
  std::optional<DType> dtype;  ///< convert on load
};

/// The loaded tensors. Views into mapped files or converted copies; valid as long as this object
/// (which may be moved) lives.
struct AttentionInputs {
  TensorView q, k, v;
  AxisOrder axis_order = AxisOrder::kBhld;
  std::map<std::string, std::string> metadata;  ///< of a .safetensors file
  std::string origin;                           ///< path(s), for reports
  std::shared_ptr<const void> memory;           ///< what the views point into

  /// Sizes and types; dtype_out is that of q.
  [[nodiscard]] ProblemShape shape() const;
};

/// Throws Error: kInvalidArgument for what the caller named or a shape that is no q/k/v, kIo for a
/// file that cannot be read.
[[nodiscard]] AttentionInputs load_inputs(const InputOptions& options);

}  // namespace psa::cli
