// SPDX-License-Identifier: Apache-2.0
#pragma once

// Checks of a call's tensors against the plan, before anything is written.

#include <cstdint>
#include <span>

#include "core/plan.hpp"

namespace psa::core {

// Tensors must say that they lie on `device`, the plan's.
void check_query(const Geometry& geometry, Device device, const CallIo& io);
void check_keys(const Geometry& geometry, Device device, const CallIo& io);
void check_values(const Geometry& geometry, Device device, const CallIo& io);
/// Also that `out` is not one of the inputs.
void check_output(const Geometry& geometry, Device device, const CallIo& io);
/// 0 <= kv_lengths[b] <= len_kv, and only text at the back is cut when tokens are reordered (S-1).
void check_kv_lengths(const Geometry& geometry, const std::int32_t* kv_lengths);
/// To 0..len_kv, which is how backends of a device read lengths that nobody could check.
void clamp_kv_lengths(const Geometry& geometry, std::span<std::int32_t> kv_lengths);

}  // namespace psa::core
