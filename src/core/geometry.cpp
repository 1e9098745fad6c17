// SPDX-License-Identifier: Apache-2.0
#include "core/geometry.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <sstream>
#include <string>

#include "core/presets.hpp"
#include "psa/error.hpp"
#include "semantics/official.hpp"
#include "semantics/reorder.hpp"

namespace psa::core {
namespace {

constexpr index_t kMaxHeadDim = 256;
constexpr index_t kMaxLength = std::numeric_limits<std::int32_t>::max() - 256;
constexpr index_t kMaxCount = std::numeric_limits<std::int32_t>::max();

template <typename Given>
[[noreturn]] void reject(const std::string& field, const Given& given, const std::string& allowed) {
  std::ostringstream text;
  text << field << " is " << given << "; " << allowed;
  throw Error(Status::kInvalidArgument, text.str());
}

void require_range(const std::string& field, index_t given, index_t low, index_t high) {
  if (given < low || given > high) {
    reject(field, given, "allowed: " + std::to_string(low) + ".." + std::to_string(high));
  }
}

template <typename Enum>
void require_enum(const std::string& field, Enum given, Enum last) {
  require_range(field, static_cast<index_t>(given), 0, static_cast<index_t>(last));
}

void check_shape(const ProblemShape& shape) {
  require_enum("dtype_q", shape.dtype_q, DType::kBF16);
  require_enum("dtype_kv", shape.dtype_kv, DType::kBF16);
  require_enum("dtype_out", shape.dtype_out, DType::kBF16);
  require_range("batch", shape.batch, 1, kMaxCount);
  require_range("heads_q", shape.heads_q, 1, kMaxCount);
  require_range("heads_kv", shape.heads_kv, 1, kMaxCount);
  require_range("len_q", shape.len_q, 1, kMaxLength);
  require_range("len_kv", shape.len_kv, 1, kMaxLength);
  require_range("head_dim", shape.head_dim, 1, kMaxHeadDim);
  if (shape.heads_q % shape.heads_kv != 0) {
    reject("heads_q", shape.heads_q,
           "it must be a multiple of heads_kv, which is " + std::to_string(shape.heads_kv));
  }
}

/// Offsets, byte counts and the level map are products of these; 2^48 leaves room for each factor
/// that follows.
void check_volume(const Geometry& g) {
  const auto batch = static_cast<double>(g.shape.batch);
  const auto heads = static_cast<double>(g.shape.heads_q);  // >= heads_kv
  const auto len = static_cast<double>(std::max(g.shape.len_q, g.shape.len_kv));
  const auto pairs = static_cast<double>(g.num_q_blocks) * static_cast<double>(g.num_kv_blocks);
  const double entries =
      batch * heads * std::max(len * static_cast<double>(g.shape.head_dim), pairs);
  if (entries <= 0x1p48) return;
  throw Error(Status::kInvalidArgument,
              "batch, heads_q and the lengths are " + std::to_string(g.shape.batch) + ", " +
                  std::to_string(g.shape.heads_q) + ", " + std::to_string(g.shape.len_q) + " and " +
                  std::to_string(g.shape.len_kv) +
                  "; tensors and level maps have at most 2^48 entries");
}

/// Pairs of a head are counted in 32 bits (S-28).
void check_pairs(const Geometry& g) {
  if (!shares_budget(g.config)) return;
  const auto pairs = static_cast<double>(g.num_q_blocks) * static_cast<double>(g.num_kv_blocks);
  if (pairs < 0x1p32) return;
  reject("budget_scope", "head",
         "must be row with " + std::to_string(g.num_q_blocks) + " x " +
             std::to_string(g.num_kv_blocks) + " blocks; allowed: less than 2^32 pairs of blocks");
}

void check_block_size(const std::string& field, std::int32_t given) {
  if (!semantics::is_block_size(given)) reject(field, given, "allowed: 16, 32, 64, 128");
}

void check_budget(const Config& config) {
  require_range("num_levels", config.num_levels, 1, kMaxLevels);
  if (!semantics::is_level_code(config.num_levels, config.block_kv)) {
    reject("num_levels", config.num_levels,
           "the coarsest level would pool more than block_kv = " + std::to_string(config.block_kv) +
               " tokens");
  }
  float previous = 0.0F;
  for (int l = 0; l < config.num_levels; ++l) {
    const float share = config.budget[static_cast<std::size_t>(l)];
    const std::string field = "budget[" + std::to_string(l) + "]";
    if (!(share >= 0.0F && share <= 1.0F)) reject(field, share, "allowed: 0..1");
    if (share < previous) {
      reject(field, share,
             "budgets are cumulative, it must be at least the one before, " +
                 std::to_string(previous));
    }
    previous = share;
  }
}

void check_estimator(const Config& config) {
  require_enum("importance", config.importance, Importance::kUserScores);
  require_range("samples_q", config.samples_q, 0, config.block_q);
  require_range("samples_kv", config.samples_kv, 0, config.block_kv);
  const std::int32_t stride = config.antidiagonal_stride;
  if (stride != 4 && stride != 8 && stride != 16) {
    reject("antidiagonal_stride", stride, "allowed: 4, 8, 16");
  }
  if (config.pooled_tokens != 8 && config.pooled_tokens != 16) {
    reject("pooled_tokens", config.pooled_tokens, "allowed: 8, 16");
  }
}

void check_reorder(const Config& config) {
  require_enum("reorder", config.reorder, Reorder::kHybrid);
  for (std::size_t axis = 0; axis < 3; ++axis) {
    require_range("tile[" + std::to_string(axis) + "]", config.tile[axis], 1, 1 << 16);
  }
  require_range("clusters_q", config.clusters_q, 1, 4096);
  require_range("clusters_kv", config.clusters_kv, 1, 4096);
  require_range("kmeans_iterations", config.kmeans_iterations, 1, 100);
  if (config.causal && config.reorder != Reorder::kNone) {
    reject("reorder", static_cast<int>(config.reorder),
           "causal attention needs the tokens in their own order (0, none)");
  }
}

void check_official(const Config& config) {
  require_enum("compat", config.compat, Compat::kOfficial);
  if (config.compat == Compat::kNone) return;
  const std::string reason =
      " with compat = official (the published results are well defined there)";
  if (config.block_q != 128) reject("block_q", config.block_q, "must be 128" + reason);
  if (config.block_kv != 128) reject("block_kv", config.block_kv, "must be 128" + reason);
  if (config.num_levels > 4) reject("num_levels", config.num_levels, "must be 1..4" + reason);
  if (config.rest != Rest::kSkip) reject("rest", rest_name(config.rest), "must be skip" + reason);
  if (config.weigh_values) reject("weigh_values", "true", "must be false" + reason);
}

void check_budget_scope(const Config& config) {
  require_enum("budget_scope", config.budget_scope, BudgetScope::kHead);
  if (!shares_budget(config)) return;
  const auto refuse = [](const std::string& reason) {
    reject("budget_scope", "head", "must be row " + reason);
  };
  if (config.rule != LevelRule::kQuota) refuse("unless rule = quota");
  if (config.causal) refuse("in causal calls, where early rows would depend on later tokens");
  if (config.compat != Compat::kNone) refuse("with compat = official");
  if (config.min_full_blocks > 1) {
    refuse("with min_full_blocks = " + std::to_string(config.min_full_blocks) + ", above 1");
  }
}

void check_config(const Config& config) {
  check_block_size("block_q", config.block_q);
  check_block_size("block_kv", config.block_kv);
  require_enum("rule", config.rule, LevelRule::kThreshold);
  require_enum("rest", config.rest, Rest::kLinear);
  check_budget(config);
  if (!(config.rest_cutoff >= 0.0F && config.rest_cutoff <= static_cast<float>(config.block_kv))) {
    reject("rest_cutoff", config.rest_cutoff,
           "allowed: 0..block_kv = " + std::to_string(config.block_kv));
  }
  require_range("min_full_blocks", config.min_full_blocks, 0, kMaxCount);
  require_range("sink_blocks", config.sink_blocks, 0, kMaxCount);
  check_estimator(config);
  if (config.similarity_cap.has_value()) {
    for (std::size_t l = 0; l < config.similarity_cap->size(); ++l) {
      const float t = (*config.similarity_cap)[l];
      if (!(t >= -1.0F && t <= 1.0F)) {
        reject("similarity_cap[" + std::to_string(l) + "]", t, "allowed: -1..1");
      }
    }
  }
  check_reorder(config);
  if (!(config.softmax_scale >= 0.0F) || !std::isfinite(config.softmax_scale)) {
    reject("softmax_scale", config.softmax_scale,
           "allowed: finite and >= 0; 0 is 1/sqrt(head_dim)");
  }
  check_official(config);
  check_budget_scope(config);
}

void check_layout(const ProblemShape& shape, const TokenLayout& layout, const Config& config) {
  require_enum("text_side", layout.text_side, TextSide::kBack);
  require_range("text_tokens", layout.text_tokens, 0, shape.len_kv);
  const VideoGrid& grid = layout.grid;
  require_range("grid.frames", grid.frames, 0, kMaxLength);
  require_range("grid.height", grid.height, 0, kMaxLength);
  require_range("grid.width", grid.width, 0, kMaxLength);
  const bool has_grid = grid.frames > 0 || grid.height > 0 || grid.width > 0;
  const bool follows_grid = config.reorder == Reorder::kGilbert ||
                            config.reorder == Reorder::kTile3d ||
                            config.reorder == Reorder::kHybrid;
  const std::string given = std::to_string(grid.frames) + "x" + std::to_string(grid.height) + "x" +
                            std::to_string(grid.width);
  if (!has_grid && follows_grid) {
    reject("grid", given, "this reorder needs frames, height and width of the video latent");
  }
  if (!has_grid) return;
  // Compared by division, so that no product overflows.
  const index_t video = shape.len_kv - layout.text_tokens;
  const bool fits = grid.frames > 0 && grid.height > 0 && grid.width > 0 &&
                    video % grid.frames == 0 && video / grid.frames % grid.height == 0 &&
                    video / grid.frames / grid.height == grid.width;
  if (!fits) {
    reject("grid", given,
           "frames * height * width + text_tokens (" + std::to_string(layout.text_tokens) +
               ") must equal len_kv = " + std::to_string(shape.len_kv));
  }
  if (follows_grid && shape.len_q != shape.len_kv) {
    reject("len_q", shape.len_q,
           "a reorder along the grid needs len_q = len_kv = " + std::to_string(shape.len_kv));
  }
}

semantics::ForcedRule make_forced_rule(const ProblemShape& shape, const TokenLayout& layout,
                                       const Config& config) {
  semantics::ForcedRule rule{{0, 0}, {0, 0}, config.sink_blocks};
  const bool official = config.compat == Compat::kOfficial;
  if (official && config.causal) {  // S-22(d)
    rule.sink_blocks = std::max(config.sink_blocks, 1);
    rule.own_blocks = shape.len_q == shape.len_kv;
  }
  if (layout.text_tokens == 0) return rule;
  if (official) {
    const auto text_blocks = [&](index_t block_size, index_t len) {
      return semantics::official_text_positions(layout.text_tokens, block_size, len);
    };
    if (config.text_keys_full) rule.text_kv = text_blocks(config.block_kv, shape.len_kv);
    if (config.text_queries_full && config.causal) {
      rule.text_q = text_blocks(config.block_q, shape.len_q);
    }
    return rule;
  }
  const bool at_front = config.reorder == Reorder::kNone && layout.text_side == TextSide::kFront;
  const auto text = semantics::text_positions(layout.text_tokens, at_front, shape.len_kv);
  if (config.text_keys_full) rule.text_kv = text;
  if (config.text_queries_full && shape.len_q == shape.len_kv) rule.text_q = text;
  return rule;
}

/// S-24.
void check_head_density(const ProblemShape& shape, const Config& config) {
  const std::vector<float>& density = config.head_density;
  const auto refuse = [&](const std::string& reason) {
    throw Error(Status::kInvalidArgument,
                "head_density has " + std::to_string(density.size()) + " entries; " + reason);
  };
  check_head_density_count(std::ssize(density), shape.heads_q);
  if (config.rule != LevelRule::kQuota) refuse("with rule = threshold it must be empty");
  if (config.compat != Compat::kNone) refuse("with compat = official it must be empty");
  if (config.budget[0] >= 1.0F) {
    refuse("with budget[0] = 1 (dense attention) it must be empty");
  }
  if (!config.share_group_map) return;
  const auto group = static_cast<std::size_t>(shape.heads_q / shape.heads_kv);
  for (std::size_t h = 0; h < density.size(); ++h) {
    const std::size_t first = h / group * group;
    if (density[h] == density[first]) continue;
    std::ostringstream rule;
    rule << "with share_group_map it must equal head_density[" << first
         << "] of the same KV head, which is " << density[first];
    reject("head_density[" + std::to_string(h) + "]", density[h], rule.str());
  }
}

std::vector<float> make_head_budgets(const ProblemShape& shape, const Config& config) {
  std::vector<float> budgets;
  if (config.head_density.empty()) return budgets;
  check_head_density(shape, config);
  for (std::size_t h = 0; h < config.head_density.size(); ++h) {
    const semantics::Budget budget =
        budget_for_density(config, static_cast<double>(config.head_density[h]),
                           "head_density[" + std::to_string(h) + "]");
    budgets.insert(budgets.end(), budget.begin(), budget.end());
  }
  return budgets;
}

}  // namespace

void check_head_density_count(std::int64_t count, index_t heads_q) {
  if (count == 0 || (count == heads_q && count > 0 && count <= kMaxCount)) return;
  throw Error(Status::kInvalidArgument,
              "head_density has " + std::to_string(count) +
                  " entries; it must have one for each query head, heads_q is " +
                  std::to_string(heads_q));
}

bool is_dense(const Geometry& geometry) {
  if (geometry.config.compat != Compat::kNone) return false;
  if (geometry.head_budgets.empty()) return geometry.config.budget[0] >= 1.0F;
  for (std::size_t first = 0; first < geometry.head_budgets.size(); first += kMaxLevels) {
    if (geometry.head_budgets[first] < 1.0F) return false;
  }
  return true;
}

bool orders_queries_by_content(const Config& config) { return config.reorder == Reorder::kKMeans; }

bool orders_keys_by_content(const Config& config) {
  return config.reorder == Reorder::kKMeans || config.reorder == Reorder::kHybrid;
}

Geometry make_geometry(const ProblemShape& shape, const TokenLayout& layout, const Config& config) {
  check_shape(shape);
  check_config(config);
  check_layout(shape, layout, config);
  Geometry g;
  g.shape = shape;
  g.layout = layout;
  g.config = config;
  if (g.config.samples_q == 0) g.config.samples_q = config.block_q / 4;
  if (g.config.samples_kv == 0) g.config.samples_kv = config.block_kv / 4;
  g.num_q_blocks = semantics::ceil_div(shape.len_q, config.block_q);
  g.num_kv_blocks = semantics::ceil_div(shape.len_kv, config.block_kv);
  check_volume(g);
  check_pairs(g);
  g.scale = config.softmax_scale > 0.0F
                ? config.softmax_scale
                : static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
  g.forced = make_forced_rule(shape, layout, config);
  g.head_budgets = make_head_budgets(shape, config);
  return g;
}

std::vector<std::int32_t> make_static_order(const Geometry& geometry) {
  const Config& config = geometry.config;
  if (config.reorder == Reorder::kNone || config.reorder == Reorder::kKMeans) return {};
  const TokenLayout& layout = geometry.layout;
  const semantics::Grid grid{layout.grid.frames, layout.grid.height, layout.grid.width};
  const index_t first_video = layout.text_side == TextSide::kFront ? layout.text_tokens : 0;
  std::vector<std::int32_t> order;
  order.reserve(static_cast<std::size_t>(geometry.shape.len_q));
  const auto append = [&](index_t video_token) {
    order.push_back(static_cast<std::int32_t>(first_video + video_token));
  };
  if (config.reorder == Reorder::kTile3d) {
    semantics::walk_tiles(grid, config.tile, append);
  } else {
    semantics::walk_gilbert(grid, append);
  }
  const index_t first_text = layout.text_side == TextSide::kFront ? 0 : layout.grid.tokens();
  for (index_t t = 0; t < layout.text_tokens; ++t) {
    order.push_back(static_cast<std::int32_t>(first_text + t));
  }
  return order;
}

const char* rest_name(Rest rest) {
  switch (rest) {
    case Rest::kSkip:
      return "skip";
    case Rest::kMean:
      return "mean";
    case Rest::kLinear:
      return "linear";
  }
  return "";
}

}  // namespace psa::core
