// SPDX-License-Identifier: Apache-2.0
#pragma once

// The backends of this build, best first, with the reason why one is not used.

#include <string>
#include <vector>

#include "core/backend.hpp"

namespace psa::core {

/// Every backend, best first: those of devices, then those of the host; the reference comes last.
/// The first call asks the drivers of this machine for their devices.
[[nodiscard]] const std::vector<BackendEntry>& backend_entries();

/// Those that compute tensors on one type of device. No driver is loaded for the host's.
[[nodiscard]] const std::vector<BackendEntry>& backend_entries(DeviceType type);

/// The first available entry of the device's type that fits `name` ("auto": any but the reference)
/// and `isa` (empty: any) and can serve the geometry. Throws Error(kUnsupported) with every
/// candidate's reason, or Error(kInvalidArgument) if no backend of that name computes on the
/// device.
[[nodiscard]] const Backend& choose_backend(const std::string& name, const std::string& isa,
                                            const Geometry& geometry, Device device = {});

}  // namespace psa::core
