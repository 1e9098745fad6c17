// SPDX-License-Identifier: Apache-2.0
#include "comparison_output.hpp"

#include <nlohmann/json.hpp>
#include <vector>

#include "table.hpp"

namespace psa::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string methods_text(const Comparison& comparison) {
  using Align = Table::Align;
  Table table({{"method", Align::kLeft},
               {"density"},
               {"rel L2 error"},
               {"cosine"},
               {"max error"},
               {"ms"},
               {"speed-up"},
               {"selection"}});
  for (const MethodResult& result : comparison.methods) {
    const ErrorMetrics& errors = result.errors.all;
    table.add_row({std::string(name_of(result.method)), fixed(result.stats.density, 4),
                   fixed(errors.rel_l2, 4), fixed(errors.cosine, 5), significant(errors.max_abs, 3),
                   fixed(result.ms.median, 1),
                   fixed(comparison.dense_ms.median / result.ms.median, 2),
                   percent_text(result.selection_share())});
  }
  return table.text();
}

std::string heads_text(const Comparison& comparison) {
  using Align = Table::Align;
  Table table({{"head"},
               {"method", Align::kLeft},
               {"density"},
               {"rel L2 error"},
               {"cosine"},
               {"max error"}});
  const std::size_t heads = comparison.methods.front().errors.heads.size();
  for (std::size_t h = 0; h < heads; ++h) {
    for (const MethodResult& result : comparison.methods) {
      const ErrorMetrics& errors = result.errors.heads[h];
      table.add_row({std::to_string(h), std::string(name_of(result.method)),
                     fixed(result.head_density[h], 4), fixed(errors.rel_l2, 4),
                     fixed(errors.cosine, 5), significant(errors.max_abs, 3)});
    }
  }
  return table.text();
}

std::string curve_table(const Comparison& comparison) {
  using Align = Table::Align;
  Table table({{"method", Align::kLeft}, {"density"}, {"rel L2 error"}, {"cosine"}, {"ms"}});
  for (const CurvePoint& point : comparison.curve) {
    table.add_row({std::string(name_of(point.method)), fixed(point.density, 4),
                   fixed(point.errors.all.rel_l2, 4), fixed(point.errors.all.cosine, 5),
                   fixed(point.ms, 1)});
  }
  return table.text();
}

Json error_json(const ErrorMetrics& errors) {
  return {{"rel_l2", errors.rel_l2},
          {"cosine", errors.cosine},
          {"max_abs", errors.max_abs},
          {"rows", errors.rows},
          {"nonfinite_rows", errors.nonfinite_rows}};
}

// Times are those of the whole call, also in the rows of single heads.
Json method_json(const Comparison& comparison, const MethodResult& result) {
  const double dense_ms = comparison.dense_ms.median;
  return {{"ms", result.ms.median},
          {"ms_p10", result.ms.p10},
          {"ms_p90", result.ms.p90},
          {"dense_ms", dense_ms},
          {"speedup", dense_ms / result.ms.median},
          {"selection_ms", result.selection_ms()},
          {"selection_share", result.selection_share()},
          {"reorder_ms", result.stats.reorder_ms},
          {"pyramid_ms", result.stats.pyramid_ms},
          {"importance_ms", result.stats.importance_ms},
          {"levels_ms", result.stats.levels_ms},
          {"attention_ms", result.stats.attention_ms},
          {"reference", comparison.reference},
          {"nonfinite_q", comparison.nonfinite[0].values},
          {"nonfinite_k", comparison.nonfinite[1].values},
          {"nonfinite_v", comparison.nonfinite[2].values},
          {"config", format_problem(result.problem)}};
}

Json row_json(const char* part, Method method, const Json& head, double density) {
  return {{"part", part}, {"method", name_of(method)}, {"head", head}, {"density", density}};
}

}  // namespace

std::string percent_text(double share) { return fixed(share * 100, 1) + " %"; }

std::string ms_text(double ms) {
  const int digits = ms >= 100 ? 0 : ms >= 1 ? 1 : 2;
  return fixed(ms, digits) + " ms";
}

std::string comparison_text(const Comparison& comparison, bool is_per_head) {
  std::string text = methods_text(comparison);
  if (is_per_head) text += "\n" + heads_text(comparison);
  if (!comparison.curve.empty()) text += "\n" + curve_table(comparison);
  text += "\nerrors     against " + comparison.reference + "\n";
  const index_t left_out = comparison.methods.front().errors.all.nonfinite_rows;
  if (left_out > 0) {
    text += "           " + std::to_string(left_out) + " rows with NaN or Inf left out\n";
  }
  return text + "times      median of " + std::to_string(comparison.repeats) +
         " calls; speed-up over dense on this machine; selection = reorder, pyramid, importance "
         "and levels\n";
}

Json comparison_json(const Comparison& comparison, bool is_per_head) {
  Json rows = Json::array();
  for (const MethodResult& result : comparison.methods) {
    const Json shared = method_json(comparison, result);
    Json all = row_json("comparison", result.method, "all", result.stats.density);
    all.update(error_json(result.errors.all));
    all.update(shared);
    rows.push_back(all);
    if (!is_per_head) continue;
    for (std::size_t h = 0; h < result.errors.heads.size(); ++h) {
      Json head = row_json("comparison", result.method, h, result.head_density[h]);
      head.update(error_json(result.errors.heads[h]));
      head.update(shared);
      rows.push_back(head);
    }
  }
  for (const CurvePoint& point : comparison.curve) {
    const Json shared{{"ms", point.ms},
                      {"dense_ms", comparison.dense_ms.median},
                      {"speedup", comparison.dense_ms.median / point.ms},
                      {"selection_ms", point.selection_ms}};
    Json all = row_json("curve", point.method, "all", point.density);
    all.update(error_json(point.errors.all));
    all.update(shared);
    rows.push_back(all);
    if (!is_per_head) continue;
    for (std::size_t h = 0; h < point.errors.heads.size(); ++h) {
      Json head = row_json("curve", point.method, h, point.density);
      head.update(error_json(point.errors.heads[h]));
      head.update(shared);
      rows.push_back(head);
    }
  }
  return rows;
}

}  // namespace psa::cli
