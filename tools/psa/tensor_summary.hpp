// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a tensor of a file holds, in numbers.

#include "engine/tensors/tensor_info.hpp"

namespace psa::cli {

struct TensorSummary {
  bool is_readable = false;  ///< the element type has values that can be shown
  index_t elements = 0;
  double min = 0;  ///< of the finite elements; 0 if there are none
  double max = 0;
  double mean = 0;
  index_t nan = 0;
  index_t infinite = 0;
};

/// Reads every element. Read are F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, BOOL.
[[nodiscard]] TensorSummary summarize(const io::TensorInfo& tensor);

}  // namespace psa::cli
