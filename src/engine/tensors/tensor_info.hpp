// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "psa/types.hpp"

namespace psa::io {

/// Element types that a tensor file can hold: all of safetensors, in the order of its definition.
enum class FileDType : std::uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

/// Largest number of axes that a file may give to a tensor.
inline constexpr std::size_t kMaxRank = 64;

/// One tensor of a file. Row-major, little-endian, without padding.
struct TensorInfo {
  std::string name;
  FileDType dtype = FileDType::kF32;
  std::vector<index_t> shape;       ///< outermost axis first; empty for a scalar
  std::span<const std::byte> data;  ///< owned by someone else; any alignment
};

/// The name that safetensors uses, such as "BF16".
[[nodiscard]] std::string_view name_of(FileDType dtype);
[[nodiscard]] std::optional<FileDType> file_dtype_of(std::string_view name);
/// Bits per element; 4 or 6 for the packed types.
[[nodiscard]] int bits_of(FileDType dtype);
/// The attention library's type of the same elements, if it has one.
[[nodiscard]] std::optional<DType> compute_dtype(FileDType dtype);

/// Bytes of a tensor, or nothing if they are not a whole number below 2^63, an axis is negative, or
/// the product of the non-zero axes does not fit (so that strides computed from the shape cannot
/// overflow either, even if one axis is zero).
[[nodiscard]] std::optional<index_t> storage_bytes(FileDType dtype, std::span<const index_t> shape);

/// "[2, 3]", for messages.
[[nodiscard]] std::string shape_text(std::span<const index_t> shape);

/// Whether elements of `dtype` may be viewed as T. F16 and BF16 are seen as their 16 bits.
template <typename T>
[[nodiscard]] constexpr bool is_stored_as(FileDType dtype) {
  if constexpr (std::is_same_v<T, float>) {
    return dtype == FileDType::kF32;
  } else if constexpr (std::is_same_v<T, std::uint16_t>) {
    return dtype == FileDType::kF16 || dtype == FileDType::kBF16;
  } else if constexpr (std::is_same_v<T, std::int32_t>) {
    return dtype == FileDType::kI32;
  } else if constexpr (std::is_same_v<T, std::int64_t>) {
    return dtype == FileDType::kI64;
  } else {
    static_assert(std::is_same_v<T, std::uint8_t>, "no file type is viewed as this type");
    return dtype == FileDType::kU8 || dtype == FileDType::kBool;
  }
}

}  // namespace psa::io
