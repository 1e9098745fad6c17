// SPDX-License-Identifier: Apache-2.0
#include "output.hpp"

#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <system_error>

#include "psa/error.hpp"

namespace psa::cli {
namespace {

int first_error = 0;  // errno of the first failed write to stdout

void note_failure() {
  if (first_error == 0) first_error = errno;
}

}  // namespace

void print(std::string_view text) {
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) note_failure();
}

void print_json(const nlohmann::ordered_json& document) {
  print(document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

void finish_output() {
  errno = 0;
  if (std::fflush(stdout) != 0) note_failure();
  if (first_error == 0 || first_error == EPIPE) return;
  throw Error(Status::kIo,
              "cannot write to stdout: " + std::generic_category().message(first_error));
}

}  // namespace psa::cli
