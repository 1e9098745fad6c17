// SPDX-License-Identifier: Apache-2.0
#include "engine/tensors/tensor_info.hpp"

#include <array>
#include <bit>

namespace psa::io {
namespace {

static_assert(std::endian::native == std::endian::little,
              "tensor files are little-endian and are viewed in place");

struct DTypeRow {
  FileDType dtype;
  std::string_view name;
  int bits;
};

constexpr std::array<DTypeRow, 22> kDTypes{{
    {FileDType::kBool, "BOOL", 8},
    {FileDType::kF4, "F4", 4},
    {FileDType::kF6E2M3, "F6_E2M3", 6},
    {FileDType::kF6E3M2, "F6_E3M2", 6},
    {FileDType::kU8, "U8", 8},
    {FileDType::kI8, "I8", 8},
    {FileDType::kF8E5M2, "F8_E5M2", 8},
    {FileDType::kF8E4M3, "F8_E4M3", 8},
    {FileDType::kF8E8M0, "F8_E8M0", 8},
    {FileDType::kF8E4M3Fnuz, "F8_E4M3FNUZ", 8},
    {FileDType::kF8E5M2Fnuz, "F8_E5M2FNUZ", 8},
    {FileDType::kI16, "I16", 16},
    {FileDType::kU16, "U16", 16},
    {FileDType::kF16, "F16", 16},
    {FileDType::kBF16, "BF16", 16},
    {FileDType::kI32, "I32", 32},
    {FileDType::kU32, "U32", 32},
    {FileDType::kF32, "F32", 32},
    {FileDType::kC64, "C64", 64},
    {FileDType::kF64, "F64", 64},
    {FileDType::kI64, "I64", 64},
    {FileDType::kU64, "U64", 64},
}};

constexpr bool rows_follow_the_enum() {
  for (std::size_t i = 0; i < kDTypes.size(); ++i) {
    if (static_cast<std::size_t>(kDTypes[i].dtype) != i) return false;
  }
  return true;
}
static_assert(rows_follow_the_enum());

const DTypeRow& row_of(FileDType dtype) { return kDTypes[static_cast<std::size_t>(dtype)]; }

}  // namespace

std::string_view name_of(FileDType dtype) { return row_of(dtype).name; }

int bits_of(FileDType dtype) { return row_of(dtype).bits; }

std::optional<FileDType> file_dtype_of(std::string_view name) {
  for (const DTypeRow& row : kDTypes) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

std::optional<DType> compute_dtype(FileDType dtype) {
  switch (dtype) {
    case FileDType::kF32:
      return DType::kF32;
    case FileDType::kF16:
      return DType::kF16;
    case FileDType::kBF16:
      return DType::kBF16;
    default:
      return std::nullopt;
  }
}

std::optional<index_t> storage_bytes(FileDType dtype, std::span<const index_t> shape) {
  index_t elements = 1;
  bool is_empty = false;
  for (const index_t extent : shape) {
    if (extent < 0) return std::nullopt;
    if (extent == 0) {
      is_empty = true;
    } else if (__builtin_mul_overflow(elements, extent, &elements)) {
      return std::nullopt;
    }
  }
  if (is_empty) return 0;
  // Eight elements of b bits take b bytes, so that packed types need no product in bits, which
  // would overflow at an eighth of the range.
  const index_t bits = bits_of(dtype);
  const index_t tail_bits = elements % 8 * bits;
  index_t bytes = 0;
  if (tail_bits % 8 != 0 || __builtin_mul_overflow(elements / 8, bits, &bytes) ||
      __builtin_add_overflow(bytes, tail_bits / 8, &bytes)) {
    return std::nullopt;
  }
  return bytes;
}

std::string shape_text(std::span<const index_t> shape) {
  std::string text = "[";
  for (const index_t extent : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(extent);
  }
  return text + "]";
}

}  // namespace psa::io
