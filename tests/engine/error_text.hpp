// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

#include "psa/error.hpp"

namespace psa {

/// The message of the psa::Error with `status` that `action` throws.
inline std::string error_text(Status status, const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    const bool is_expected = error.status() == status;
    return is_expected ? error.what() : std::string("(wrong status) ") + error.what();
  }
  return "(no error)";
}

}  // namespace psa
