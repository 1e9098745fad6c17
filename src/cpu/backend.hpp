// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "core/backend.hpp"

namespace psa::cpu {

/// One backend for each instruction set that this CPU can run, slowest first.
[[nodiscard]] std::span<const core::Backend> all_backends();

/// The quickest of all_backends().
[[nodiscard]] const core::Backend& backend();

}  // namespace psa::cpu
