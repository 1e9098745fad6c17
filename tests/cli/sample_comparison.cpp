// SPDX-License-Identifier: Apache-2.0
#include "sample_comparison.hpp"

namespace psa::cli {
namespace {

constexpr index_t kTokens = 24;
constexpr index_t kHeads = 2;

ErrorMetrics metrics(double rel_l2) { return {rel_l2, 1 - rel_l2, 2 * rel_l2, kTokens, 0}; }

MethodResult sample_result(Method method, double rel_l2, LevelCode code, double ms) {
  MethodResult result;
  result.method = method;
  result.problem = sample_problem();
  result.num_q_blocks = 2;
  result.num_kv_blocks = 2;
  result.errors.all = metrics(rel_l2);
  for (index_t h = 0; h < kHeads; ++h) {
    result.errors.heads.push_back(metrics(rel_l2 * static_cast<double>(h + 1)));
    result.head_density.push_back(code == 1 ? 1.0 : 0.25);
    result.head_blocks.push_back({});
    result.head_blocks.back()[1] = 2;
    result.head_blocks.back()[code] += 2;
    for (index_t token = 0; token < kTokens; ++token) {
      result.errors.rows.push_back(static_cast<float>(rel_l2 * static_cast<double>(token)));
    }
    result.levels.insert(result.levels.end(), {1, code, code, 1});
  }
  result.stats.density = result.head_density.front();
  result.stats.importance_ms = method == Method::kDense ? 0 : 1;
  result.stats.levels_ms = method == Method::kDense ? 0 : 2;
  result.stats.attention_ms = ms - result.stats.importance_ms - result.stats.levels_ms;
  result.ms = {ms, 0.9 * ms, 1.1 * ms, 0.9 * ms};
  return result;
}

}  // namespace

Problem sample_problem() {
  Problem problem;
  problem.shape = {1, kHeads, kHeads, kTokens, kTokens, 8, DType::kF32, DType::kF32, DType::kF32};
  problem.layout.grid = {2, 3, 4};
  problem.config.block_q = problem.config.block_kv = 16;
  return problem;
}

Comparison sample_comparison() {
  Comparison comparison;
  comparison.methods = {sample_result(Method::kDense, 0, 1, 100),
                        sample_result(Method::kPsa, 0.1, kBlockMean, 20),
                        sample_result(Method::kBinary, 0.4, kSkip, 16)};
  for (const Method method : {Method::kPsa, Method::kBinary}) {
    for (const double density : {0.1, 0.2, 0.4}) {
      CurvePoint point;
      point.method = method;
      point.density = density;
      point.errors.all = metrics((method == Method::kPsa ? 0.02 : 0.1) / density);
      point.errors.heads = {point.errors.all, point.errors.all};
      point.ms = 100 * density;
      comparison.curve.push_back(point);
    }
  }
  comparison.dense_ms = comparison.methods.front().ms;
  comparison.repeats = 5;
  comparison.reference = "dense attention of the same backend, f32";
  comparison.plan_text = "cpu backend";
  return comparison;
}

}  // namespace psa::cli
