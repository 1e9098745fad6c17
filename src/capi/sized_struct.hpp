// SPDX-License-Identifier: Apache-2.0
#pragma once

// Structs that may grow. `struct_size` is sizeof in the psa.h that the caller was compiled with:
//  - equal to ours: nothing to do;
//  - smaller (an older caller): the fields that it does not know are read as 0 and not written;
//  - larger (a newer caller): the fields that we do not know must be 0 where they are read, which
//    by convention asks for the behaviour before they existed, and become 0 where they are written.
// New fields are appended after the last field, never into padding, and mean the old behaviour at
// 0. The init function of a struct that has grown gets a new symbol, to which psa.h maps its name:
// the old symbol goes on writing the old size, because that is all the room an older caller has.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "psa/error.hpp"
#include "psa/psa.h"

namespace psa::capi {

/// sizeof when the struct was first released.
template <typename Struct>
inline constexpr std::uint32_t kFirstSize = 0;
template <>
inline constexpr std::uint32_t kFirstSize<psa_problem> = 112;
template <>
inline constexpr std::uint32_t kFirstSize<psa_config> = 176;
template <>
inline constexpr std::uint32_t kFirstSize<psa_preset> = 216;
template <>
inline constexpr std::uint32_t kFirstSize<psa_plan_options> = 40;
template <>
inline constexpr std::uint32_t kFirstSize<psa_io> = 400;
template <>
inline constexpr std::uint32_t kFirstSize<psa_stats> = 120;
template <>
inline constexpr std::uint32_t kFirstSize<psa_backend_info> = 32;

/// Larger values are taken for memory that was never initialised.
inline constexpr std::uint32_t kLargestStructSize = 4096;

/// Throws Error(kInvalidArgument) if `given` is null or its size is no size of this struct.
template <typename Struct>
void check_sized(const Struct* given, const std::string& name) {
  static_assert(kFirstSize<Struct> > 0 && kFirstSize<Struct> <= sizeof(Struct));
  if (given == nullptr) throw Error(Status::kInvalidArgument, name + " is null");
  const std::uint32_t size = given->struct_size;
  if (size >= kFirstSize<Struct> && size <= kLargestStructSize) return;
  throw Error(Status::kInvalidArgument,
              name + ".struct_size is " + std::to_string(size) + "; sizeof(psa_" + name +
                  ") of this library is " + std::to_string(sizeof(Struct)) +
                  ", of its first version " + std::to_string(kFirstSize<Struct>));
}

/// The caller's struct in the form that this library knows.
template <typename Struct>
[[nodiscard]] Struct read_sized(const Struct* given, const std::string& name) {
  check_sized(given, name);
  const std::size_t size = given->struct_size;
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  const auto is_set = [](unsigned char byte) { return byte != 0; };
  if (size > sizeof(Struct) && std::any_of(bytes + sizeof(Struct), bytes + size, is_set)) {
    throw Error(Status::kUnsupported, name + " uses a field that this version of psa (" +
                                          psa_version() + ") does not know; struct_size is " +
                                          std::to_string(size) + ", known are " +
                                          std::to_string(sizeof(Struct)) + " bytes");
  }
  Struct known{};
  std::memcpy(&known, given, std::min(size, sizeof(Struct)));
  return known;
}

/// Copies `value` to a struct of the caller that check_sized() has accepted.
template <typename Struct>
void write_sized(const Struct& value, Struct* to) {
  const std::uint32_t size = to->struct_size;
  std::memset(static_cast<void*>(to), 0, size);
  std::memcpy(static_cast<void*>(to), &value, std::min<std::size_t>(size, sizeof(Struct)));
  to->struct_size = size;
}

}  // namespace psa::capi
