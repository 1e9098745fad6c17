// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <vector>

#include "call_options.hpp"
#include "placement.hpp"

namespace psa::cli {

/// What a configuration does to one capture.
struct CaptureResult {
  std::vector<double> errors;  ///< [Hq]: relative L2 of each head's output against dense
  double density = 0;
  double selection_cost = 0;
  double ms = 0;  ///< of the call
};

/// Runs configurations on one capture. Holds its outputs: two tensors of the size of q.
class CaptureRunner {
 public:
  /// Runs dense attention. `call` must outlive this object.
  explicit CaptureRunner(const Call& call);

  /// Throws Error(kInvalidArgument) if the error of a head is not a finite number, beside what
  /// Plan::create throws.
  [[nodiscard]] CaptureResult run(const Config& config);
  [[nodiscard]] double dense_ms() const { return dense_ms_; }

 private:
  double run_into(const OwnedTensor& out, const Problem& problem, RunStats* stats);

  const Call& call_;
  PlacedInputs inputs_;
  PlacedWorkspace workspace_;
  CallTimer timer_;
  OwnedTensor dense_out_, out_;  ///< [B, Hq, Lq, D]
  double dense_ms_ = 0;
};

}  // namespace psa::cli
