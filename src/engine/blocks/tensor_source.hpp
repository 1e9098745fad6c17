// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <vector>

#include "psa/types.hpp"

namespace psa::engine {

/// Where the weights of a model come from: a checkpoint, or whoever needs a model without one.
class TensorSource {
 public:
  virtual ~TensorSource() = default;

  /// The values of a tensor, outermost axis first. Throws Error(kIo) that names it when it cannot
  /// be had in that shape.
  [[nodiscard]] virtual std::vector<float> values(std::string_view name,
                                                  const std::vector<index_t>& shape) const = 0;
};

}  // namespace psa::engine
