// SPDX-License-Identifier: Apache-2.0
// psa: Pyramid Sparse Attention on the command line. Exit codes: 0 done; 2 the command line, a
// configuration or a tensor does not make sense; 1 everything else (files, memory, defects).

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "commands.hpp"
#include "output.hpp"
#include "psa/error.hpp"
#include "psa/version.hpp"
#include "values.hpp"

namespace {

constexpr int kFailure = 1;
constexpr int kUseError = 2;

int exit_code_of(psa::Status status) {
  const bool is_use_error =
      status == psa::Status::kInvalidArgument || status == psa::Status::kUnsupported;
  return is_use_error ? kUseError : kFailure;
}

int report(const std::string& message, int exit_code) {
  std::fprintf(stderr, "psa: error: %s\n", message.c_str());
  return exit_code;
}

void describe(CLI::App& app) {
  app.set_version_flag("--version", std::string("psa ") + psa::kVersion);
  app.require_subcommand(1);
  app.footer(
      "psa COMMAND --help describes a command, docs/cli.md all of them.\n"
      "Exit codes: 0 done, 2 wrong use, 1 everything else.");
  psa::cli::add_doctor_command(app);
  psa::cli::add_plan_command(app);
  psa::cli::add_run_command(app);
  psa::cli::add_compare_command(app);
  psa::cli::add_inspect_command(app);
  psa::cli::add_mask_command(app);
  psa::cli::add_bench_command(app);
  psa::cli::add_generate_command(app);
  psa::cli::add_tune_command(app);
}

// CLI11 would only say that a subcommand is required.
void check_command(const CLI::App& app, std::string_view given) {
  if (given.starts_with("-")) return;
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
  if (std::find(names.begin(), names.end(), given) != names.end()) return;
  const std::vector<std::string_view> views(names.begin(), names.end());
  psa::cli::reject({"command", given},
                   "allowed: " + psa::cli::join(names, ", ") + psa::cli::suggestion(given, views));
}

int run_command_line(int argc, char** argv) {
  CLI::App app("Pyramid Sparse Attention for video models", "psa");
  describe(app);
  if (argc > 1) check_command(app, argv[1]);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help and --version
    app.exit(request);
  } catch (const CLI::ParseError& error) {
    return report(std::string(error.what()) + " (see psa --help)", kUseError);
  }
  psa::cli::finish_output();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  // A reader that leaves early is no reason to die half way through a file: writes fail instead.
  std::signal(SIGPIPE, SIG_IGN);
  // The same for RLIMIT_FSIZE: the write fails with a message and the output's draft is removed.
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    return run_command_line(argc, argv);
  } catch (const psa::Error& error) {
    return report(error.what(), exit_code_of(error.status()));
  } catch (const std::bad_alloc&) {
    return report("out of memory", kFailure);
  } catch (const std::exception& error) {
    return report(error.what(), kFailure);
  }
}
