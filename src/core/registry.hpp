// SPDX-License-Identifier: Apache-2.0
#pragma once

// The backends of this build, best first, with the reason why one is not used.

#include <string>
#include <vector>

#include "core/backend.hpp"

namespace psa::core {

struct BackendEntry {
  const Backend* backend;  ///< null: this machine cannot run it
  const char* name;
  const char* isa;
  const char* reason;  ///< why it is not available, or what it is for
};

/// Best first; the reference comes last.
[[nodiscard]] const std::vector<BackendEntry>& backend_entries();

/// The first available entry that fits `name` ("auto": any but the reference) and `isa` (empty:
/// any) and can serve the geometry. Throws Error(kUnsupported) with every candidate's reason.
[[nodiscard]] const Backend& choose_backend(const std::string& name, const std::string& isa,
                                            const Geometry& geometry);

}  // namespace psa::core
