// SPDX-License-Identifier: Apache-2.0
#include "tensor_summary.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "psa/half.hpp"

namespace psa::cli {
namespace {

template <typename Stored, typename Decode>
TensorSummary summarize_as(const io::TensorInfo& tensor, const Decode& decode) {
  TensorSummary s;
  s.is_readable = true;
  s.elements = static_cast<index_t>(tensor.data.size() / sizeof(Stored));
  s.min = std::numeric_limits<double>::infinity();
  s.max = -s.min;
  double sum = 0;
  for (index_t i = 0; i < s.elements; ++i) {
    Stored stored;  // copied, since a file need not align its tensors
    std::memcpy(&stored, tensor.data.data() + static_cast<std::size_t>(i) * sizeof(Stored),
                sizeof(Stored));
    const double value = decode(stored);
    if (std::isnan(value)) {
      ++s.nan;
    } else if (std::isinf(value)) {
      ++s.infinite;
    } else {
      s.min = std::min(s.min, value);
      s.max = std::max(s.max, value);
      sum += value;
    }
  }
  const index_t finite = s.elements - s.nan - s.infinite;
  if (finite == 0) s.min = s.max = 0;
  if (finite > 0) s.mean = sum / static_cast<double>(finite);
  return s;
}

template <typename Stored>
TensorSummary summarize_plain(const io::TensorInfo& tensor) {
  return summarize_as<Stored>(tensor, [](Stored x) { return static_cast<double>(x); });
}

}  // namespace

TensorSummary summarize(const io::TensorInfo& tensor) {
  switch (tensor.dtype) {
    case io::FileDType::kF64:
      return summarize_plain<double>(tensor);
    case io::FileDType::kF32:
      return summarize_plain<float>(tensor);
    case io::FileDType::kF16:
      return summarize_as<std::uint16_t>(
          tensor, [](std::uint16_t x) { return static_cast<double>(float_from_f16(x)); });
    case io::FileDType::kBF16:
      return summarize_as<std::uint16_t>(
          tensor, [](std::uint16_t x) { return static_cast<double>(float_from_bf16(x)); });
    case io::FileDType::kI64:
      return summarize_plain<std::int64_t>(tensor);
    case io::FileDType::kI32:
      return summarize_plain<std::int32_t>(tensor);
    case io::FileDType::kI16:
      return summarize_plain<std::int16_t>(tensor);
    case io::FileDType::kI8:
      return summarize_plain<std::int8_t>(tensor);
    case io::FileDType::kU64:
      return summarize_plain<std::uint64_t>(tensor);
    case io::FileDType::kU32:
      return summarize_plain<std::uint32_t>(tensor);
    case io::FileDType::kU16:
      return summarize_plain<std::uint16_t>(tensor);
    case io::FileDType::kU8:
    case io::FileDType::kBool:
      return summarize_plain<std::uint8_t>(tensor);
    default:
      return {};
  }
}

}  // namespace psa::cli
