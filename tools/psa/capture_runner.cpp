// SPDX-License-Identifier: Apache-2.0
#include "capture_runner.hpp"

#include <array>
#include <cmath>
#include <cstddef>
#include <string>

#include "engine/tensors/printable.hpp"
#include "output_errors.hpp"
#include "psa/error.hpp"

namespace psa::cli {
namespace {

OwnedTensor output_of(const ProblemShape& shape) {
  return OwnedTensor(
      std::array<index_t, 4>{shape.batch, shape.heads_q, shape.len_q, shape.head_dim},
      shape.dtype_out);
}

}  // namespace

CaptureRunner::CaptureRunner(const Call& call)
    : call_(call),
      inputs_(call.io(), device_of(call.plan_options)),
      workspace_(device_of(call.plan_options)),
      timer_(device_of(call.plan_options)),
      dense_out_(output_of(call.problem.shape)),
      out_(output_of(call.problem.shape)) {
  dense_ms_ = run_into(dense_out_, dense_problem(call.problem), nullptr);
}

double CaptureRunner::run_into(const OwnedTensor& out, const Problem& problem, RunStats* stats) {
  const Plan plan = make_plan(problem, call_.plan_options);
  const Placed placed(inputs_.device(), out.view());
  AttentionIo io = inputs_.io();
  io.out = placed.view();
  const double ms = timer_.run(plan, io, workspace_.of(plan), stats);
  placed.copy_to_host();
  return ms;
}

CaptureResult CaptureRunner::run(const Config& config) {
  Problem problem = call_.problem;
  problem.config = config;
  RunStats stats;
  CaptureResult result;
  result.ms = run_into(out_, problem, &stats);
  result.density = stats.density;
  result.selection_cost = stats.selection_cost;
  for (const ErrorMetrics& head : compare_outputs(out_.view(), dense_out_.view()).heads) {
    if (!std::isfinite(head.rel_l2)) {
      throw Error(Status::kInvalidArgument,
                  "head " + std::to_string(result.errors.size()) + " of " +
                      io::printable(call_.inputs.origin) +
                      " has no finite error: its dense output is 0, or NaN or Inf in every row");
    }
    result.errors.push_back(head.rel_l2);
  }
  return result;
}

}  // namespace psa::cli
