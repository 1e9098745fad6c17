// SPDX-License-Identifier: Apache-2.0
#pragma once

// Values of tests on their way to and from a CUDA device.

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "engine/cuda/device.hpp"
#include "psa/half.hpp"

namespace psa::engine {

/// bf16 numbers, so that every type of operand holds them exactly.
inline std::vector<float> random_bf16(index_t count, unsigned seed, float mean = 0) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(mean);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = float_from_bf16(bf16_from_float(normal(generator)));
  return values;
}

inline DeviceBuffer floats_on(const DeviceStream& stream, const std::vector<float>& values) {
  return stream.upload(std::span(values));
}

inline DeviceBuffer bf16_on(const DeviceStream& stream, const std::vector<float>& values) {
  std::vector<std::uint16_t> bits;
  for (const float value : values) bits.push_back(bf16_from_float(value));
  return stream.upload(std::span<const std::uint16_t>(bits));
}

inline std::vector<float> floats_from(const DeviceStream& stream, const DeviceBuffer& buffer) {
  std::vector<float> values(buffer.bytes().size() / sizeof(float));
  stream.copy_to_host(values.data(), buffer.as<void>(), buffer.bytes().size());
  stream.synchronize();
  return values;
}

inline std::vector<float> bf16_from(const DeviceStream& stream, const DeviceBuffer& buffer) {
  std::vector<std::uint16_t> bits(buffer.bytes().size() / sizeof(std::uint16_t));
  stream.copy_to_host(bits.data(), buffer.as<void>(), buffer.bytes().size());
  stream.synchronize();
  std::vector<float> values;
  for (const std::uint16_t value : bits) values.push_back(float_from_bf16(value));
  return values;
}

}  // namespace psa::engine
