// SPDX-License-Identifier: Apache-2.0
#pragma once

// Runs several ways of attention on one input and measures their errors, densities and times.

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "call_options.hpp"
#include "output_errors.hpp"
#include "timing.hpp"

namespace psa::cli {

enum class Method {
  kDense,            ///< every block at level 1
  kPsa,              ///< the call as configured
  kBinary,           ///< blocks at level 1 or skipped, of PSA's density
  kBinaryUnordered,  ///< as binary, with the tokens in their own order
  kBinaryMean,       ///< blocks at level 1 or read as their mean, of PSA's density
  kOfficialSplit,    ///< the published shares of levels 1, 2 and 8, rest skipped, of PSA's density
};
inline constexpr int kNumMethods = 6;
inline constexpr std::array<Method, kNumMethods> kAllMethods{
    Method::kDense,           Method::kPsa,        Method::kBinary,
    Method::kBinaryUnordered, Method::kBinaryMean, Method::kOfficialSplit};

/// As typed and as written in tables: "dense", "psa", "binary", "binary-unordered", "binary+mean",
/// "official-split".
[[nodiscard]] std::string_view name_of(Method method);
/// "dense,psa": at least one, each at most once. Throws Error(kInvalidArgument).
[[nodiscard]] std::vector<Method> parse_methods(std::string_view list);

/// Configuration of a method beside PSA's own `psa`: same estimator, blocks, order and forced
/// blocks; its budget still has to be scaled to a density. Throws Error(kInternal) for kDense,
/// which is dense_problem().
[[nodiscard]] Config method_config(Method method, const Config& psa);

/// Where a curve is traced unless others are asked for.
inline constexpr std::array<double, 7> kCurveDensities{.03, .05, .08, .12, .15, .20, .30};

struct ComparisonOptions {
  std::vector<Method> methods{Method::kDense, Method::kPsa, Method::kBinary};
  int repeats = 5;                      ///< timed runs of each method, after one untimed
  std::vector<double> curve;            ///< rising densities at which PSA and binary run once more
  std::optional<int> reference_tokens;  ///< compare with the double oracle on that many tokens
  bool keep_rows = false;               ///< keep what the pictures need
  bool quiet = false;                   ///< no progress
};

struct MethodResult {
  Method method{};
  Problem problem;
  OutputErrors errors;  ///< against Comparison::reference; `rows` always against dense, if kept
  RunStats stats;       ///< each stage: its median time
  Spread ms;            ///< of whole calls
  std::vector<double> head_density;                              ///< [Hq]
  std::vector<std::array<index_t, kNumLevelCodes>> head_blocks;  ///< [Hq], entries by code
  std::vector<LevelCode> levels;  ///< [B, Hq, num_q_blocks, num_kv_blocks], if kept
  index_t num_q_blocks = 0;
  index_t num_kv_blocks = 0;

  /// Reorder, pyramid, importance and levels: all that dense attention does not do.
  [[nodiscard]] double selection_ms() const {
    return stats.reorder_ms + stats.pyramid_ms + stats.importance_ms + stats.levels_ms;
  }
  /// Share of the call's time that selection takes.
  [[nodiscard]] double selection_share() const {
    return stats.total_ms() > 0 ? selection_ms() / stats.total_ms() : 0;
  }
};

/// A method at another density; errors are against dense, without rows.
struct CurvePoint {
  Method method{};
  double density = 0;
  OutputErrors errors;
  double ms = 0;            ///< of one run
  double selection_ms = 0;  ///< as in MethodResult
};

struct Comparison {
  std::vector<MethodResult> methods;  ///< in the order asked for
  std::vector<CurvePoint> curve;      ///< PSA by rising density, then binary
  Spread dense_ms;
  int repeats = 0;                          ///< timed runs of each method
  std::array<NonFiniteCount, 3> nonfinite;  ///< of q, k and v
  std::string reference;                    ///< what errors are against
  std::string plan_text;                    ///< what ran PSA and why
  bool against_dense = true;

  /// nullptr if the method did not run.
  [[nodiscard]] const MethodResult* find(Method method) const;
};

[[nodiscard]] Comparison compare_methods(const Call& call, const ComparisonOptions& options);

}  // namespace psa::cli
