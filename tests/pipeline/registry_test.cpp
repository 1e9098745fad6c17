// SPDX-License-Identifier: Apache-2.0

// Which backend serves which device. What these tests ask for by name is refused on every machine.

#include "core/registry.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cpu/processor.hpp"
#include "psa/error.hpp"
#include "support/tensors.hpp"

namespace psa::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Refusal {
  Status status = Status::kOk;
  std::string message;
};

Refusal refusal_of(const std::string& backend, Device device, DType dtype = DType::kBF16) {
  Problem problem;
  problem.shape.dtype_q = problem.shape.dtype_kv = problem.shape.dtype_out = dtype;
  try {
    static_cast<void>(core::choose_backend(backend, "", problem.geometry(), device));
  } catch (const Error& error) {
    return {error.status(), error.what()};
  }
  return {};
}

constexpr Device kCuda{DeviceType::kCuda, 0};

TEST(Registry, BackendsOfTheHostDoNotServeDevices) {
  for (const char* name : {"cpu", "reference"}) {
    const Refusal refusal = refusal_of(name, kCuda);
    EXPECT_EQ(refusal.status, Status::kInvalidArgument);
    EXPECT_THAT(refusal.message, AllOf(HasSubstr("device is CUDA 0"), HasSubstr(name),
                                       HasSubstr("allowed: auto, cuda")));
  }
}

TEST(Registry, BackendsOfDevicesDoNotServeTheHost) {
  const Refusal refusal = refusal_of("cuda", Device{});
  EXPECT_EQ(refusal.status, Status::kInvalidArgument);
  EXPECT_THAT(refusal.message, HasSubstr("the problem's device is the CPU"));
}

TEST(Registry, ADeviceThatIsNotThereIsRefusedWithEveryReason) {
  const Refusal refusal = refusal_of("auto", {DeviceType::kCuda, 4711});
  EXPECT_EQ(refusal.status, Status::kUnsupported);
  EXPECT_THAT(refusal.message, AllOf(HasSubstr("device is CUDA 4711"), HasSubstr("cuda sm_90a: "),
                                     HasSubstr("cuda sm_80: ")));
}

TEST(Registry, UnknownNamesListWhatTheDeviceHas) {
  const Refusal host = refusal_of("tpu", Device{});
  EXPECT_EQ(host.status, Status::kInvalidArgument);
  EXPECT_THAT(host.message, HasSubstr("cpu scalar, reference"));
  EXPECT_THAT(host.message, ::testing::Not(HasSubstr("sm_80")));
  EXPECT_THAT(refusal_of("tpu", kCuda).message, HasSubstr("cuda sm_90a, cuda sm_80"));
}

TEST(Registry, DevicesComeFirstAndTheReferenceLast) {
  const std::vector<core::BackendEntry>& all = core::backend_entries();
  ASSERT_EQ(all.size(), 7U);
  EXPECT_STREQ(all[0].isa, "sm_90a");
  EXPECT_STREQ(all[1].isa, "sm_80");
  EXPECT_STREQ(all.back().name, "reference");
  for (const core::BackendEntry& entry : all) EXPECT_STRNE(entry.reason, "");
}

TEST(Registry, Bf16DotProductsComeBehindF32WhereTheyAreSlower) {
  std::vector<std::string> isas;
  const core::BackendEntry* bf16 = nullptr;
  for (const core::BackendEntry& entry : core::backend_entries(DeviceType::kCpu)) {
    if (entry.backend == nullptr) continue;
    isas.emplace_back(entry.isa);
    if (isas.back() == "avx512_bf16") bf16 = &entry;
  }
  if (bf16 == nullptr) GTEST_SKIP() << "this processor has no AVX512_BF16 instructions";
  const bool is_slow = cpu::processor_is_slow_at_bf16();
  EXPECT_EQ(isas[0], is_slow ? "avx512" : "avx512_bf16");
  EXPECT_EQ(isas[1], is_slow ? "avx512_bf16" : "avx512");
  EXPECT_EQ(std::string(bf16->reason).find("slower") != std::string::npos, is_slow);
  EXPECT_EQ(core::choose_backend("auto", "", Problem().geometry(), Device{}).isa, isas[0]);
}

}  // namespace
}  // namespace psa::testing
