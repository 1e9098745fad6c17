// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace psa {

/// What went wrong, in the classes that a caller can act on. Values equal those of `psa_status`.
enum class Status : std::int32_t {
  kOk = 0,
  kInvalidArgument = 1,  ///< an argument is out of its documented range; nothing was written
  kUnsupported = 2,      ///< valid, but no backend here computes it
  kOutOfMemory = 3,      ///< host or device memory is exhausted, or the workspace is too small
  kIo = 4,               ///< a file could not be read or written, or its content is not valid
  kInternal = 5,         ///< a defect of psa itself
};

/// Every failure inside psa. The message names the argument, what was given and what is allowed.
class Error : public std::runtime_error {
 public:
  Error(Status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  [[nodiscard]] Status status() const noexcept { return status_; }

 private:
  Status status_;
};

}  // namespace psa
