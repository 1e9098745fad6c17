// SPDX-License-Identifier: Apache-2.0
#pragma once

// No exception leaves the C ABI: each becomes a psa_status and a message of the calling thread.

#include <string>

#include "psa/error.hpp"
#include "psa/psa.h"

namespace psa::capi {

/// Status of the exception that is being handled; keeps its message for last_error(). Allocates
/// nothing, so that it also works when memory is exhausted.
[[nodiscard]] psa_status record_current_exception() noexcept;

/// Message of the last failed call of this thread, cut at 2047 bytes; "" if none.
[[nodiscard]] const char* last_error() noexcept;

template <typename Body>
[[nodiscard]] psa_status guarded(const Body& body) noexcept {
  try {
    body();
    return PSA_OK;
  } catch (...) {
    return record_current_exception();
  }
}

/// Throws Error(kInvalidArgument) if `pointer` is null.
inline void require(const void* pointer, const char* name) {
  if (pointer != nullptr) return;
  throw Error(Status::kInvalidArgument, std::string(name) + " is null");
}

}  // namespace psa::capi
