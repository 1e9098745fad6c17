// SPDX-License-Identifier: Apache-2.0
#include "tensors_in.hpp"

#include <cstring>
#include <new>
#include <span>
#include <tuple>
#include <utility>

#include "engine/tensors/npy.hpp"
#include "engine/tensors/printable.hpp"
#include "engine/tensors/safetensors.hpp"
#include "problem.hpp"
#include "psa/error.hpp"
#include "psa/half.hpp"

namespace psa::cli {
namespace {

constexpr std::align_val_t kAlignment{64};
constexpr std::array<const char*, 3> kRoles{"q", "k", "v"};

io::FileDType file_dtype(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return io::FileDType::kF16;
    case DType::kBF16:
      return io::FileDType::kBF16;
    case DType::kF32:
      break;
  }
  return io::FileDType::kF32;
}

/// (b, h, l, d) <-> the order of the axes in memory; both are the same exchange.
std::array<index_t, 4> in_axis_order(const std::array<index_t, 4>& shape, AxisOrder order) {
  if (order == AxisOrder::kBhld) return shape;
  return {shape[0], shape[2], shape[1], shape[3]};
}

/// What the views of AttentionInputs point into.
struct Memory {
  std::vector<io::SafetensorsFile> safetensors;
  std::vector<io::NpyFile> npy;
  std::vector<OwnedTensor> converted;
};

TensorView checked_view(const io::TensorInfo& tensor, std::span<const std::byte> data,
                        const std::string& role, const InputOptions& options) {
  const std::string what = role + " (" + io::printable(tensor.name) + ")";
  if (tensor.shape.size() != 4) {
    throw Error(Status::kInvalidArgument,
                what + " has shape " + io::shape_text(tensor.shape) + "; expected 4 axes, " +
                    (options.axis_order == AxisOrder::kBhld
                         ? "batch, heads, tokens, head_dim (--layout bhld)"
                         : "batch, tokens, heads, head_dim (--layout blhd)"));
  }
  std::array<index_t, 4> shape{};
  for (std::size_t axis = 0; axis < 4; ++axis) {
    shape[axis] = tensor.shape[axis];
    if (shape[axis] < 1) {
      throw Error(Status::kInvalidArgument, what + " has shape " + io::shape_text(tensor.shape) +
                                                "; every axis must be at least 1");
    }
  }
  const std::optional<DType> dtype = io::compute_dtype(tensor.dtype);
  if (!dtype.has_value()) {
    throw Error(Status::kInvalidArgument, what + " has elements of type " +
                                              std::string(io::name_of(tensor.dtype)) +
                                              "; allowed: F32, F16, BF16");
  }
  // Inputs are never written; TensorView serves outputs too and has no const form.
  return view_of(const_cast<std::byte*>(data.data()), *dtype,
                 in_axis_order(shape, options.axis_order), options.axis_order);
}

std::array<TensorView, 3> read_safetensors(const InputOptions& options, Memory& memory,
                                           std::map<std::string, std::string>& metadata) {
  memory.safetensors.push_back(io::SafetensorsFile::open(options.files.front()));
  const io::SafetensorsFile& file = memory.safetensors.back();
  metadata = file.metadata();
  std::array<TensorView, 3> views;
  for (std::size_t i = 0; i < 3; ++i) {
    const io::TensorInfo& tensor = file.at(options.names[i]);
    views[i] = checked_view(tensor, file.aligned_data(tensor), kRoles[i], options);
  }
  return views;
}

std::array<TensorView, 3> read_npy(const InputOptions& options, Memory& memory) {
  // NumPy has no bf16: 16-bit words are taken as bf16 only when the user says so.
  const bool is_bf16 = options.dtype == DType::kBF16;
  std::array<TensorView, 3> views;
  for (std::size_t i = 0; i < 3; ++i) {
    memory.npy.push_back(
        io::NpyFile::open(options.files[i], is_bf16 ? io::NpyWords::kBf16 : io::NpyWords::kRefuse));
    const io::NpyFile& file = memory.npy.back();
    views[i] = checked_view(file.tensor(), file.aligned_data(), kRoles[i], options);
  }
  return views;
}

std::string shape_text(const TensorView& view, AxisOrder order) {
  const std::array<index_t, 4> shape = in_axis_order(view.shape, order);
  return io::shape_text(shape);
}

void check_agreement(const AttentionInputs& inputs) {
  const auto reject = [&](const std::string& what, const TensorView& view, const char* rule,
                          const char* other_name, const TensorView& other) {
    throw Error(Status::kInvalidArgument,
                what + " has shape " + shape_text(view, inputs.axis_order) + "; " + rule + " " +
                    other_name + ", which has shape " + shape_text(other, inputs.axis_order));
  };
  const auto& [q, k, v] = std::tie(inputs.q, inputs.k, inputs.v);
  if (v.shape != k.shape) reject("v", v, "it must equal", "k", k);
  if (k.shape[0] != q.shape[0]) reject("k", k, "its batch must equal that of", "q", q);
  if (k.shape[3] != q.shape[3]) reject("k", k, "its head_dim must equal that of", "q", q);
  if (q.shape[1] % k.shape[1] != 0) {
    reject("k", k, "its heads must divide those of", "q", q);
  }
  if (k.dtype != v.dtype) {
    throw Error(Status::kInvalidArgument, "k is " + std::string(name_of(k.dtype)) + " and v is " +
                                              std::string(name_of(v.dtype)) +
                                              "; give --dtype to convert both on load");
  }
}

std::string origin_of(const InputOptions& options) {
  std::string origin;
  for (const std::filesystem::path& path : options.files) {
    origin += (origin.empty() ? "" : " ") + path.string();
  }
  return origin;
}

void check_files(const InputOptions& options) {
  const auto ends_in = [](const std::filesystem::path& path, const char* extension) {
    return path.extension() == extension;
  };
  const std::size_t count = options.files.size();
  if (count == 1 && ends_in(options.files[0], ".safetensors")) return;
  if (count == 3 && ends_in(options.files[0], ".npy") && ends_in(options.files[1], ".npy") &&
      ends_in(options.files[2], ".npy")) {
    return;
  }
  throw Error(Status::kInvalidArgument, "input is " + io::printable(origin_of(options)) +
                                            "; allowed: one .safetensors file with q, k and v, or "
                                            "three .npy files in the order q k v");
}

}  // namespace

void OwnedTensor::Free::operator()(std::byte* data) const { ::operator delete(data, kAlignment); }

OwnedTensor::OwnedTensor(const std::array<index_t, 4>& shape, DType dtype, AxisOrder order)
    : order_(order) {
  const std::optional<index_t> bytes = io::storage_bytes(file_dtype(dtype), shape);
  if (bytes.has_value()) {
    bytes_ = static_cast<std::size_t>(*bytes);
    data_.reset(static_cast<std::byte*>(::operator new(bytes_, kAlignment, std::nothrow)));
  }
  if (data_ == nullptr) {
    throw Error(Status::kOutOfMemory, "no memory for a tensor of shape " + io::shape_text(shape));
  }
  std::memset(data_.get(), 0, bytes_);
  view_ = view_of(data_.get(), dtype, shape, order);
}

io::TensorInfo OwnedTensor::info(const std::string& name) const {
  const std::array<index_t, 4> shape = in_axis_order(view_.shape, order_);
  return {name, file_dtype(view_.dtype), {shape.begin(), shape.end()}, {data_.get(), bytes_}};
}

TensorView view_of(void* data, DType dtype, const std::array<index_t, 4>& shape, AxisOrder order) {
  TensorView view;
  view.data = data;
  view.dtype = dtype;
  view.shape = shape;
  const auto [batch, heads, tokens, channels] = shape;
  static_cast<void>(batch);
  view.stride = order == AxisOrder::kBhld
                    ? std::array{heads * tokens * channels, tokens * channels, channels, index_t{1}}
                    : std::array{heads * tokens * channels, channels, heads * channels, index_t{1}};
  return view;
}

float load_element(const void* data, DType dtype, index_t element) {
  switch (dtype) {
    case DType::kF16:
      return float_from_f16(static_cast<const std::uint16_t*>(data)[element]);
    case DType::kBF16:
      return float_from_bf16(static_cast<const std::uint16_t*>(data)[element]);
    case DType::kF32:
      break;
  }
  return static_cast<const float*>(data)[element];
}

void store_element(void* data, DType dtype, index_t element, float value) {
  switch (dtype) {
    case DType::kF16:
      static_cast<std::uint16_t*>(data)[element] = f16_from_float(value);
      return;
    case DType::kBF16:
      static_cast<std::uint16_t*>(data)[element] = bf16_from_float(value);
      return;
    case DType::kF32:
      break;
  }
  static_cast<float*>(data)[element] = value;
}

float element_at(const TensorView& t, index_t b, index_t h, index_t token, index_t channel) {
  return load_element(t.data, t.dtype,
                      b * t.stride[0] + h * t.stride[1] + token * t.stride[2] + channel);
}

OwnedTensor convert(const TensorView& source, DType dtype, AxisOrder order) {
  OwnedTensor result(source.shape, dtype, order);
  const TensorView& to = result.view();
  const auto [batch, heads, tokens, channels] = source.shape;
  for (index_t b = 0; b < batch; ++b) {
    for (index_t h = 0; h < heads; ++h) {
      for (index_t t = 0; t < tokens; ++t) {
        const index_t row = b * to.stride[0] + h * to.stride[1] + t * to.stride[2];
        for (index_t d = 0; d < channels; ++d) {
          store_element(to.data, dtype, row + d, element_at(source, b, h, t, d));
        }
      }
    }
  }
  return result;
}

ProblemShape AttentionInputs::shape() const {
  ProblemShape shape;
  shape.batch = q.shape[0];
  shape.heads_q = q.shape[1];
  shape.heads_kv = k.shape[1];
  shape.len_q = q.shape[2];
  shape.len_kv = k.shape[2];
  shape.head_dim = q.shape[3];
  shape.dtype_q = q.dtype;
  shape.dtype_kv = k.dtype;
  shape.dtype_out = q.dtype;
  return shape;
}

AttentionInputs load_inputs(const InputOptions& options) {
  check_files(options);
  const auto memory = std::make_shared<Memory>();
  AttentionInputs inputs;
  inputs.axis_order = options.axis_order;
  inputs.origin = origin_of(options);
  std::array<TensorView, 3> views = options.files.size() == 1
                                        ? read_safetensors(options, *memory, inputs.metadata)
                                        : read_npy(options, *memory);
  for (TensorView& view : views) {
    if (!options.dtype.has_value() || *options.dtype == view.dtype) continue;
    memory->converted.push_back(convert(view, *options.dtype, options.axis_order));
    view = memory->converted.back().view();
  }
  inputs.q = views[0];
  inputs.k = views[1];
  inputs.v = views[2];
  inputs.memory = memory;
  check_agreement(inputs);
  return inputs;
}

}  // namespace psa::cli
