// SPDX-License-Identifier: Apache-2.0
#pragma once

// Checks of a call's tensors against the plan, before anything is written.

#include "core/plan.hpp"

namespace psa::core {

void check_query(const Geometry& geometry, const CallIo& io);
void check_keys(const Geometry& geometry, const CallIo& io);
void check_values(const Geometry& geometry, const CallIo& io);
/// Also that `out` is not one of the inputs.
void check_output(const Geometry& geometry, const CallIo& io);
/// 0 <= kv_lengths[b] <= len_kv, and only text at the back is cut when tokens are reordered (S-1).
void check_kv_lengths(const Geometry& geometry, const std::int32_t* kv_lengths);

}  // namespace psa::core
