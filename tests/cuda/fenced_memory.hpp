// SPDX-License-Identifier: Apache-2.0
#pragma once

// Device memory with nothing mapped around it, so that touching what lies beside a call's arguments
// and workspace is an illegal access, however the rest of the device's memory is laid out.

#include "core/backend.hpp"

namespace psa::testing {

/// The backend, with fenced memory in place of its own. Lives as long as the program.
[[nodiscard]] const core::Backend& fenced(const core::Backend& backend);

}  // namespace psa::testing
