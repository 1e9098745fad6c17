// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/backend.hpp"

namespace psa::reference {

/// The oracle: every stage naive, in double, on one thread; serves every geometry.
[[nodiscard]] const core::Backend& backend();

}  // namespace psa::reference
