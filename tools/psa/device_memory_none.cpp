// SPDX-License-Identifier: Apache-2.0

// A build without CUDA. No plan for a device can be made there, so that nothing below is reached
// but the report.

#include "device_memory.hpp"
#include "psa/error.hpp"

namespace psa::cli {
namespace {

[[noreturn]] void refuse() {
  throw Error(Status::kUnsupported, "psa was built without CUDA (PSA_CUDA)");
}

}  // namespace

void ReleaseDeviceMemory::operator()(std::byte* /*memory*/) const noexcept {}

DeviceMemory allocate_on_device(std::size_t /*bytes*/) { refuse(); }

void copy_to_device(std::byte* /*to*/, const void* /*from*/, std::size_t /*bytes*/) { refuse(); }

void copy_from_device(void* /*to*/, const std::byte* /*from*/, std::size_t /*bytes*/) { refuse(); }

struct DeviceClock::Events {};
DeviceClock::DeviceClock() { refuse(); }
DeviceClock::~DeviceClock() = default;
void DeviceClock::start() { refuse(); }
double DeviceClock::stop() { refuse(); }

CudaReport cuda_report() { return {}; }

}  // namespace psa::cli
