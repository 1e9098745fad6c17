// SPDX-License-Identifier: Apache-2.0
#include "tensors_out.hpp"

#include <system_error>

#include "engine/tensors/atomic_file.hpp"
#include "engine/tensors/npy.hpp"
#include "engine/tensors/printable.hpp"
#include "engine/tensors/safetensors.hpp"
#include "psa/error.hpp"
#include "values.hpp"

namespace psa::cli {

void check_output_name(const std::filesystem::path& path, const std::string& label) {
  if (path.extension() == ".safetensors" || path.extension() == ".npy") return;
  reject({label, path.native()}, "allowed: names that end in .safetensors or .npy");
}

void check_output_writable(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  // Opening a FIFO would wait for its reader, and closing it would end what the reader sees.
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status) &&
      !std::filesystem::is_directory(status)) {
    return;
  }
  const io::AtomicFile probe(path);
}

void write_tensors(const std::filesystem::path& path, const std::vector<io::TensorInfo>& tensors,
                   const std::map<std::string, std::string>& metadata) {
  if (path.extension() == ".safetensors") {
    io::write_safetensors(path, tensors, metadata);
    return;
  }
  if (tensors.size() != 1) {
    throw Error(Status::kInvalidArgument, io::printable(path.string()) + " would hold " +
                                              std::to_string(tensors.size()) +
                                              " tensors; a .npy file holds one");
  }
  io::write_npy(path, tensors.front());
}

}  // namespace psa::cli
