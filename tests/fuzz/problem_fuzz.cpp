// SPDX-License-Identifier: Apache-2.0
// Any line is either refused with Error(kInvalidArgument) or is a problem whose canonical line
// reads back as the same problem.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "problem.hpp"
#include "psa/error.hpp"
#include "require.hpp"

namespace psa::cli {
namespace {

void check(std::string_view line) {
  Problem problem;
  try {
    problem = parse_problem(line);
  } catch (const Error& error) {
    require(error.status() == Status::kInvalidArgument, "a bad line is a use error");
    require(std::string_view(error.what()).find('\n') == std::string_view::npos,
            "a message is one line");
    return;
  }
  const std::string canonical = format_problem(problem);
  require(format_problem(parse_problem(canonical)) == canonical, "the canonical line reads back");
}

}  // namespace
}  // namespace psa::cli

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  psa::cli::check({reinterpret_cast<const char*>(data), size});
  return 0;
}
