// SPDX-License-Identifier: Apache-2.0
#include "capi/status.hpp"

#include <array>
#include <cstring>
#include <exception>
#include <new>

namespace psa::capi {
namespace {

thread_local std::array<char, 2048> message{};

psa_status record(Status status, const char* text) noexcept {
  std::strncpy(message.data(), text, message.size() - 1);
  return static_cast<psa_status>(status);
}

}  // namespace

psa_status record_current_exception() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return record(error.status(), error.what());
  } catch (const std::bad_alloc&) {
    return record(Status::kOutOfMemory, "host memory is exhausted");
  } catch (const std::exception& error) {
    return record(Status::kInternal, error.what());
  } catch (...) {
    return record(Status::kInternal, "an exception of unknown type");
  }
}

const char* last_error() noexcept { return message.data(); }

}  // namespace psa::capi
