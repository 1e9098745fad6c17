// SPDX-License-Identifier: Apache-2.0
// Any bytes are either refused with Error(kInvalidArgument) or give a configuration whose canonical
// settings read back.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "config_file.hpp"
#include "problem.hpp"
#include "psa/error.hpp"
#include "require.hpp"

namespace psa::cli {
namespace {

void check_reads_back(const Problem& problem) {
  const std::string settings = format_settings(problem);
  const Problem back = parse_problem("h1q16d16 " + settings);
  require(format_settings(back) == settings, "the canonical settings read back");
}

void check(std::string_view yaml, const ConfigSelection& selection) {
  FileConfig file;
  try {
    file = parse_config(yaml, "input", selection);
  } catch (const Error& error) {
    require(error.status() == Status::kInvalidArgument, "a bad file is a use error");
    require(std::string_view(error.what()).size() < 4096, "a message is short");
    return;
  }
  check_reads_back({{}, file.layout, file.config});
  for (const auto& [layer, config] : file.layers) {
    require(layer >= 0, "layers count from 0");
    check_reads_back({{}, file.layout, config});
  }
}

}  // namespace
}  // namespace psa::cli

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view yaml(reinterpret_cast<const char*>(data), size);
  psa::cli::check(yaml, {});
  psa::cli::check(yaml, {"M", "a"});
  return 0;
}
