// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace psa::cli {

/// What psa tune is to reach.
struct TuneTarget {
  enum class Kind { kDensity, kError, kPsnr };
  Kind kind = Kind::kDensity;
  double value = 0;  ///< above 0; a density or an error is below 1, a PSNR at most 100 dB
};

/// "density=.10", "error=.05" or "psnr=35". Throws Error(kInvalidArgument).
[[nodiscard]] TuneTarget parse_target(const std::string& text);

/// density, error or psnr.
[[nodiscard]] std::string name_of(TuneTarget::Kind kind);

}  // namespace psa::cli
