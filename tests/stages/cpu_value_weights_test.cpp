// SPDX-License-Identifier: Apache-2.0

// Value weights of the CPU backend on every instruction set of this machine: those of the reference
// but for rounding in float.

#include <gtest/gtest.h>

#include "cpu/backend.hpp"
#include "support/problem_cases.hpp"
#include "support/value_cases.hpp"

namespace psa::testing {
namespace {

void expect_weights_on_every_isa(const Problem& problem, const core::Inputs& inputs) {
  for (const core::Backend& backend : cpu::all_backends()) {
    expect_weights_of_reference(backend, problem, inputs, {.threads = 2});
  }
}

class CpuValueWeights : public ::testing::TestWithParam<ProblemCase> {};

TEST_P(CpuValueWeights, AreThoseOfTheReference) {
  QkvTensors tensors = GetParam().make_inputs(63);
  expect_weights_on_every_isa(GetParam().problem, tensors.inputs());
}

TEST_P(CpuValueWeights, AreThoseOfTheReferenceFarFromZero) {
  QkvTensors tensors = GetParam().make_inputs(64);
  move_values(tensors.v, 40.0F);
  expect_weights_on_every_isa(GetParam().problem, tensors.inputs());
}

TEST_P(CpuValueWeights, AreThoseOfTheReferenceWithValuesThatAreNotFinite) {
  QkvTensors tensors = GetParam().make_inputs(65);
  spoil_values(tensors.v);
  expect_weights_on_every_isa(GetParam().problem, tensors.inputs());
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuValueWeights, ::testing::ValuesIn(problem_cases()),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace psa::testing
