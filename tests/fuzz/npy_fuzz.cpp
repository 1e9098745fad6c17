// SPDX-License-Identifier: Apache-2.0
// Any bytes are either refused with Error(kIo) or are an array whose data lie inside them.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/tensors/npy.hpp"
#include "psa/error.hpp"
#include "require.hpp"

namespace psa::io {
namespace {

void check(std::span<const std::byte> bytes, NpyWords words) {
  try {
    const NpyFile file = NpyFile::from_bytes(bytes, "input", words);
    const TensorInfo& tensor = file.tensor();
    require(words == NpyWords::kBf16 || tensor.dtype != FileDType::kBF16,
            "words are bf16 only on request");
    require(storage_bytes(tensor.dtype, tensor.shape) == static_cast<index_t>(tensor.data.size()),
            "the data have the size of the shape");
    require(tensor.data.data() + tensor.data.size() == bytes.data() + bytes.size(),
            "the data end with the file");
    // Reads every byte, so that a view outside the file is noticed by the sanitizer.
    require(std::ranges::equal(file.aligned_data(), tensor.data), "aligned data equal the data");
  } catch (const Error& error) {
    require(error.status() == Status::kIo, "a bad file is an I/O error");
  }
}

}  // namespace
}  // namespace psa::io

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  psa::io::check(std::as_bytes(std::span(data, size)), psa::io::NpyWords::kRefuse);
  psa::io::check(std::as_bytes(std::span(data, size)), psa::io::NpyWords::kBf16);
  return 0;
}
