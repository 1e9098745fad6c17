// SPDX-License-Identifier: Apache-2.0
#pragma once

// The subcommands. Each function adds one to the App; its callback does the work, writes results to
// stdout and progress to stderr, and throws Error on failure (main.cpp turns that into an exit
// code).

#include <CLI/CLI.hpp>

namespace psa::cli {

void add_doctor_command(CLI::App& app);
void add_plan_command(CLI::App& app);
void add_run_command(CLI::App& app);
void add_compare_command(CLI::App& app);
void add_inspect_command(CLI::App& app);
void add_mask_command(CLI::App& app);
void add_bench_command(CLI::App& app);
void add_generate_command(CLI::App& app);
void add_tune_command(CLI::App& app);

}  // namespace psa::cli
