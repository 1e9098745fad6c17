// SPDX-License-Identifier: Apache-2.0
// Any bytes are either refused with Error(kIo) or are a file that can be read, written and read
// again with the same result.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "engine/tensors/safetensors.hpp"
#include "psa/error.hpp"
#include "require.hpp"

namespace psa::io {
namespace {

void check_tiling(const SafetensorsFile& file, std::span<const std::byte> bytes) {
  std::size_t tensor_bytes = 0;
  for (const TensorInfo& tensor : file.tensors()) {
    tensor_bytes += tensor.data.size();
    require(file.find(tensor.name) == &tensor, "a tensor is found by its name");
    // Reads every byte, so that a view outside the file is noticed by the sanitizer.
    require(std::ranges::equal(file.aligned_data(tensor), tensor.data),
            "aligned data equal the data");
  }
  require(tensor_bytes <= bytes.size(), "tensors do not overlap");
}

void check_round_trip(const SafetensorsFile& file) {
  std::string written;
  encode_safetensors(file.tensors(), file.metadata(), [&](std::span<const std::byte> piece) {
    written.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  });
  const SafetensorsFile again =
      SafetensorsFile::from_bytes(std::as_bytes(std::span(written)), "written");
  require(again.metadata() == file.metadata(), "metadata survive a round trip");
  require(again.tensors().size() == file.tensors().size(), "no tensor is lost");
  for (const TensorInfo& tensor : file.tensors()) {
    const TensorInfo* const other = again.find(tensor.name);
    require(other != nullptr, "names survive a round trip");
    require(other->dtype == tensor.dtype && other->shape == tensor.shape &&
                std::ranges::equal(other->data, tensor.data),
            "tensors survive a round trip");
  }
}

void check(std::span<const std::byte> bytes) {
  try {
    const SafetensorsFile file = SafetensorsFile::from_bytes(bytes, "input");
    check_tiling(file, bytes);
    check_round_trip(file);
  } catch (const Error& error) {
    require(error.status() == Status::kIo, "a bad file is an I/O error");
  }
}

}  // namespace
}  // namespace psa::io

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  psa::io::check(std::as_bytes(std::span(data, size)));
  return 0;
}
