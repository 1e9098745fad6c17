// SPDX-License-Identifier: Apache-2.0
#include "cuda/cuda_test.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <string_view>
#include <utility>

#include "core/registry.hpp"

namespace psa::testing {
namespace {

bool is_required = false;  // --require-cuda

constexpr Device kDevice{DeviceType::kCuda, 0};

/// Any geometry that every table serves.
core::Geometry plain_geometry() {
  Problem problem;
  problem.shape.dtype_q = problem.shape.dtype_kv = problem.shape.dtype_out = DType::kBF16;
  return problem.geometry();
}

}  // namespace

std::string why_no_cuda() {
  std::string reasons;
  for (const core::BackendEntry& entry : core::backend_entries(DeviceType::kCuda)) {
    if (entry.backend != nullptr) return "";
    reasons += (reasons.empty() ? "" : "; ") + std::string(entry.isa) + ": " + entry.reason;
  }
  return reasons;
}

std::vector<const core::Backend*> cuda_backends(const core::Geometry& geometry) {
  std::vector<const core::Backend*> usable;
  for (const core::BackendEntry& entry : core::backend_entries(DeviceType::kCuda)) {
    if (entry.backend != nullptr && entry.backend->why_not(geometry, kDevice) == nullptr) {
      usable.push_back(entry.backend);
    }
  }
  return usable;
}

std::vector<const core::Backend*> cuda_backends() { return cuda_backends(plain_geometry()); }

const core::Backend& cuda_backend(const core::Geometry& geometry) {
  return core::choose_backend("auto", "", geometry, kDevice);
}

std::vector<ProblemCase> half_cases() {
  constexpr std::array<std::pair<const char*, DType>, 2> kTypes{
      {{"F16", DType::kF16}, {"Bf16", DType::kBF16}}};
  std::vector<ProblemCase> cases;
  for (const ProblemCase& original : problem_cases()) {
    for (const auto& [name, dtype] : kTypes) {
      ProblemCase& added = cases.emplace_back(original);
      added.name += name;
      ProblemShape& shape = added.problem.shape;
      shape.dtype_q = shape.dtype_kv = shape.dtype_out = dtype;
    }
  }
  return cases;
}

void cuda_device_or_skip() {
  const std::string reason = why_no_cuda();
  if (reason.empty()) return;
  if (is_required) FAIL() << "--require-cuda, but there is no device: " << reason;
  GTEST_SKIP() << "no CUDA device: " << reason;
}

}  // namespace psa::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--require-cuda") {
      psa::testing::is_required = true;
    } else {
      std::fprintf(stderr, "unknown option %s; allowed: --require-cuda and those of GoogleTest\n",
                   argv[i]);
      return 2;
    }
  }
  return RUN_ALL_TESTS();
}
