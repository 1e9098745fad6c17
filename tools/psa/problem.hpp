// SPDX-License-Identifier: Apache-2.0
#pragma once

// One-line problems, the form in which a call is named in benchmarks and bug reports:
//   b1h28/4q32760k32760d128:bf16 grid=21x30x52 rule=quota,.10,.15,.15,.35 rest=mean order=gilbert
// First the sizes: batch, query heads[/KV heads], query and key length, head_dim, storage type
// (one for all, or q/kv/out). Then settings (settings.hpp) in any order, each at most once.

#include <string>
#include <string_view>
#include <vector>

#include "psa/config.hpp"
#include "psa/types.hpp"

namespace psa::cli {

/// Everything that decides what a call computes, but the data.
struct Problem {
  ProblemShape shape;
  TokenLayout layout;
  Config config;
};

/// Longest line that parse_problem reads, in bytes.
inline constexpr std::size_t kMaxProblemLength = 4096;

/// Throws Error(kInvalidArgument) that says which word is wrong, what was given and what is
/// allowed. Syntax and value ranges are checked here; what depends on several values (grid against
/// length, for example) when the plan is made.
/// Values that the line does not give are those of `base`.
[[nodiscard]] Problem parse_problem(std::string_view line, const Problem& base = {});

/// The canonical line: all sizes, then what differs from the defaults, in the order of settings().
/// parse_problem(format_problem(p)) equals p; budget entries that are not in use are not kept.
[[nodiscard]] std::string format_problem(const Problem& problem);

/// The first word alone: "b1h28/4q32760k32760d128:bf16".
[[nodiscard]] std::string format_shape(const ProblemShape& shape);

/// The settings alone, as in format_problem(); empty if all are the defaults.
[[nodiscard]] std::string format_settings(const Problem& problem);

/// Problems from the words of a command line, quoted or not: a word that begins like a shape begins
/// a problem, the others belong to the one before.
[[nodiscard]] std::vector<std::string> problem_lines(const std::vector<std::string>& words);

[[nodiscard]] std::string_view name_of(DType dtype);
/// "f32", "f16" or "bf16"; `name` is what the message calls the value.
[[nodiscard]] DType parse_dtype(const std::string& name, std::string_view text);

/// The problem of dense attention on the same tensors: every block at level 1, in the order of the
/// caller. Causal, scale and text stay.
[[nodiscard]] Problem dense_problem(const Problem& problem);

}  // namespace psa::cli
