// SPDX-License-Identifier: Apache-2.0
#include "settings.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <system_error>
#include <utility>
#include <vector>

#include "psa/error.hpp"
#include "psa/presets.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

constexpr Words<LevelRule, 2> kRules{
    {{"quota", LevelRule::kQuota}, {"threshold", LevelRule::kThreshold}}};
constexpr Words<BudgetScope, 2> kScopes{{{"row", BudgetScope::kRow}, {"head", BudgetScope::kHead}}};
constexpr Words<Rest, 3> kRests{
    {{"mean", Rest::kMean}, {"linear", Rest::kLinear}, {"skip", Rest::kSkip}}};
constexpr Words<Importance, 5> kImportances{{{"pooled_lse", Importance::kPooledLse},
                                             {"sampled_max", Importance::kSampledMax},
                                             {"sampled_mass", Importance::kSampledMass},
                                             {"antidiagonal", Importance::kAntidiagonal},
                                             {"user_scores", Importance::kUserScores}}};
constexpr Words<Reorder, 5> kOrders{{{"none", Reorder::kNone},
                                     {"gilbert", Reorder::kGilbert},
                                     {"tile3d", Reorder::kTile3d},
                                     {"kmeans", Reorder::kKMeans},
                                     {"hybrid", Reorder::kHybrid}}};
constexpr Words<Compat, 2> kCompats{{{"none", Compat::kNone}, {"official", Compat::kOfficial}}};
constexpr Words<TextSide, 2> kTextSides{{{"front", TextSide::kFront}, {"back", TextSide::kBack}}};
constexpr Words<bool, 2> kTextRules{{{"full", true}, {"sparse", false}}};

using Text = std::optional<std::string>;

std::int32_t parse_count(const Given& given, index_t low, index_t high) {
  return static_cast<std::int32_t>(parse_integer(given, low, high));
}

// Text of a value that is left out when it is the default.
template <typename Value, typename Writer>
Text unless_default(const Value& value, const Value& default_value, const Writer& write) {
  if (value == default_value) return std::nullopt;
  return std::string(write(value));
}

Text count_unless(std::int32_t value, std::int32_t default_value) {
  return unless_default(value, default_value, [](std::int32_t n) { return std::to_string(n); });
}

// ---- selection
// -----------------------------------------------------------------------------------

void apply_preset(Problem& p, const std::string& label, std::string_view text) {
  const std::vector<Preset> known = presets();
  for (const Preset& preset : known) {
    if (preset.name != text) continue;
    p.config = preset.config;
    p.layout.text_tokens = preset.text_tokens;
    return;
  }
  std::string allowed = "known presets: ";
  for (const Preset& preset : known) {
    if (&preset != &known.front()) allowed += ", ";
    allowed += preset.name;
  }
  reject({label, text}, allowed);
}

std::string switch_text(bool on) { return on ? "true" : "false"; }

void set_budget(Config& config, const Given& given, const std::vector<float>& shares) {
  if (!std::is_sorted(shares.begin(), shares.end())) {
    reject(given, "shares are cumulative, each must be at least the one before");
  }
  config.num_levels = static_cast<std::int32_t>(shares.size());
  config.budget.fill(shares.back());
  std::copy(shares.begin(), shares.end(), config.budget.begin());
  config.head_density.clear();
}

void apply_budget(Problem& p, const std::string& label, std::string_view text) {
  const Given given{label, text};
  set_budget(p.config, given, parse_numbers(given, kMaxLevels, 0, 1));
}

void apply_rule(Problem& p, const std::string& label, std::string_view text) {
  if (text == "dense") {
    p.config.rule = LevelRule::kQuota;
    set_budget(p.config, {label, text}, {1.0F});
    return;
  }
  const std::size_t comma = text.find(',');
  p.config.rule = parse_word({label, text.substr(0, comma)}, kRules);
  if (comma != std::string_view::npos) apply_budget(p, label, text.substr(comma + 1));
}

Text format_rule(const Problem& p, const Problem& defaults) {
  const Config& c = p.config;
  const auto used = static_cast<std::size_t>(c.num_levels);
  if (c.rule == defaults.config.rule && c.num_levels == defaults.config.num_levels &&
      std::equal(c.budget.begin(), c.budget.begin() + used, defaults.config.budget.begin())) {
    return std::nullopt;
  }
  const std::string text(word_of(c.rule, kRules));
  return text + "," + numbers_text(std::span(c.budget).first(used));
}

void apply_levels(Problem& p, const std::string& label, std::string_view text) {
  const std::int32_t levels = parse_count({label, text}, 1, kMaxLevels);
  const float last = p.config.budget[static_cast<std::size_t>(p.config.num_levels - 1)];
  for (std::int32_t l = p.config.num_levels; l < levels; ++l) {
    p.config.budget[static_cast<std::size_t>(l)] = last;
  }
  p.config.num_levels = levels;
}

void apply_density(Problem& p, const std::string& label, std::string_view text) {
  set_density(p.config, parse_number({label, text}, 0, 1), label);
}

void apply_head_density(Problem& p, const std::string& label, std::string_view text) {
  p.config.head_density.clear();
  if (text != "none") p.config.head_density = parse_numbers({label, text}, kMaxInt, 0, 1);
}

Text format_head_density(const Problem& p, const Problem& d) {
  return unless_default(p.config.head_density, d.config.head_density, numbers_text);
}

void apply_block(Problem& p, const std::string& label, std::string_view text) {
  const Given given{label, text};
  const std::vector<index_t> sizes = parse_sizes(given, 2, "QxKV", 1, kMaxInt);
  for (const index_t size : sizes) {
    if (size != 16 && size != 32 && size != 64 && size != 128) {
      reject(given, "allowed: QxKV, each 16, 32, 64 or 128");
    }
  }
  p.config.block_q = static_cast<std::int32_t>(sizes[0]);
  p.config.block_kv = static_cast<std::int32_t>(sizes[1]);
}

Text format_block(const Problem& p, const Problem& d) {
  if (p.config.block_q == d.config.block_q && p.config.block_kv == d.config.block_kv) {
    return std::nullopt;
  }
  return std::to_string(p.config.block_q) + "x" + std::to_string(p.config.block_kv);
}

void apply_similarity(Problem& p, const std::string& label, std::string_view text) {
  if (text == "none") {
    p.config.similarity_cap.reset();
    return;
  }
  const std::vector<float> given = parse_numbers({label, text}, kMaxLevels - 1, -1, 1);
  std::array<float, kMaxLevels - 1> thresholds{};
  thresholds.fill(given.back());
  std::copy(given.begin(), given.end(), thresholds.begin());
  p.config.similarity_cap = thresholds;
}

Text format_similarity(const Problem& p, const Problem& d) {
  const auto& cap = p.config.similarity_cap;
  if (cap == d.config.similarity_cap) return std::nullopt;
  if (!cap.has_value()) return "none";
  std::size_t used = cap->size();
  while (used > 1 && (*cap)[used - 1] == (*cap)[used - 2]) --used;
  return numbers_text(std::span(*cap).first(used));
}

constexpr std::array kSelection{
    Setting{"preset", "", "NAME", "start from a built-in preset (psa plan --presets)",
            SettingGroup::kSelection, apply_preset,
            [](const Problem&, const Problem&) { return Text(); }},
    Setting{"rule", "", "quota|threshold|dense[,S1,S2,...]",
            "how blocks get their level; shares as in --budget", SettingGroup::kSelection,
            apply_rule, format_rule},
    Setting{"budget", "", "S1,S2,...",
            "cumulative shares of levels 1, 2, ... of the blocks (quota) or importance (threshold)",
            SettingGroup::kSelection, apply_budget,
            [](const Problem&, const Problem&) { return Text(); }},
    Setting{"levels", "", "N", "use N levels (pool factors 1, 2, 4, 8, 16)",
            SettingGroup::kSelection, apply_levels,
            [](const Problem&, const Problem&) { return Text(); }},
    Setting{"budget_scope", "", "row|head",
            "each query block spends the budget (default), or all of a head together (quota)",
            SettingGroup::kSelection,
            [](Problem& p, const std::string& label, std::string_view text) {
              p.config.budget_scope = parse_word({label, text}, kScopes);
            },
            [](const Problem& p, const Problem& d) {
              return unless_default(p.config.budget_scope, d.config.budget_scope,
                                    [](BudgetScope s) { return word_of(s, kScopes); });
            }},
    Setting{"rest", "", "mean|linear|skip",
            "other blocks: mean (default), mean and first-order term, or nothing (the paper)",
            SettingGroup::kSelection,
            [](Problem& p, const std::string& label, std::string_view text) {
              p.config.rest = parse_word({label, text}, kRests);
            },
            [](const Problem& p, const Problem& d) {
              return unless_default(p.config.rest, d.config.rest,
                                    [](Rest r) { return word_of(r, kRests); });
            }},
    Setting{"rest_cutoff", "", "X",
            "skip means below X/block_kv of the least importance in full (default 0: none)",
            SettingGroup::kSelection,
            [](Problem& p, const std::string& label, std::string_view text) {
              constexpr double kMost = 128;  // of the largest block
              p.config.rest_cutoff = static_cast<float>(parse_number({label, text}, 0, kMost));
            },
            [](const Problem& p, const Problem& d) {
              return unless_default(p.config.rest_cutoff, d.config.rest_cutoff, float_text);
            }},
    Setting{"block", "", "QxKV", "block sizes, each 16, 32, 64 or 128 (default 128x128)",
            SettingGroup::kSelection, apply_block, format_block},
    Setting{"min_full", "", "N", "at least N blocks of a row at level 1 (default 1)",
            SettingGroup::kSelection,
            [](Problem& p, const std::string& label, std::string_view text) {
              p.config.min_full_blocks = parse_count({label, text}, 0, kMaxInt);
            },
            [](const Problem& p, const Problem& d) {
              return count_unless(p.config.min_full_blocks, d.config.min_full_blocks);
            }},
    Setting{"sink", "", "N", "the first N key blocks at level 1 (default 0)",
            SettingGroup::kSelection,
            [](Problem& p, const std::string& label, std::string_view text) {
              p.config.sink_blocks = parse_count({label, text}, 0, kMaxInt);
            },
            [](const Problem& p, const Problem& d) {
              return count_unless(p.config.sink_blocks, d.config.sink_blocks);
            }},
    Setting{"similarity", "sim", "C2,C3,...|none",
            "pool a block at level 2, 3, ... only if its keys are this similar, -1..1",
            SettingGroup::kSelection, apply_similarity, format_similarity},
    Setting{"share_group_map", "", "", "one level map for the query heads of a key head",
            SettingGroup::kSelection,
            [](Problem& p, const std::string& label, std::string_view text) {
              p.config.share_group_map = parse_switch({label, text});
            },
            [](const Problem& p, const Problem& d) {
              return unless_default(p.config.share_group_map, d.config.share_group_map,
                                    switch_text);
            }},
    Setting{"compat", "", "none|official", "results of the published code (block 128, rest skip)",
            SettingGroup::kSelection,
            [](Problem& p, const std::string& label, std::string_view text) {
              p.config.compat = parse_word({label, text}, kCompats);
            },
            [](const Problem& p, const Problem& d) {
              return unless_default(p.config.compat, d.config.compat,
                                    [](Compat c) { return word_of(c, kCompats); });
            }},
};

// ---- importance
// ----------------------------------------------------------------------------------

template <std::int32_t Config::*kField, index_t kLow, index_t kHigh>
void apply_field(Problem& p, const std::string& label, std::string_view text) {
  p.config.*kField = parse_count({label, text}, kLow, kHigh);
}

template <std::int32_t Config::*kField>
Text format_field(const Problem& p, const Problem& d) {
  return count_unless(p.config.*kField, d.config.*kField);
}

template <std::int32_t Config::*kField, std::int32_t... kAllowed>
void apply_choice(Problem& p, const std::string& label, std::string_view text) {
  const Given given{label, text};
  const std::int32_t value = parse_count(given, 0, kMaxInt);
  if (((value != kAllowed) && ...)) {
    std::string allowed = "allowed:";
    ((allowed += " " + std::to_string(kAllowed)), ...);
    reject(given, allowed);
  }
  p.config.*kField = value;
}

void apply_seed(Problem& p, const std::string& label, std::string_view text) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, p.config.seed);
  if (error != std::errc() || stop != end) {
    reject({label, text}, "allowed: whole numbers 0..18446744073709551615");
  }
}

constexpr std::array kImportance{
    Setting{"importance", "", "pooled_lse|sampled_max|sampled_mass|antidiagonal",
            "estimator of block importance (default pooled_lse)", SettingGroup::kImportance,
            [](Problem& p, const std::string& label, std::string_view text) {
              p.config.importance = parse_word({label, text}, kImportances);
            },
            [](const Problem& p, const Problem& d) {
              return unless_default(p.config.importance, d.config.importance,
                                    [](Importance i) { return word_of(i, kImportances); });
            }},
    Setting{"samples_q", "", "N", "sampled estimators: queries per block (0: a quarter)",
            SettingGroup::kImportance, apply_field<&Config::samples_q, 0, 128>,
            format_field<&Config::samples_q>},
    Setting{"samples_kv", "", "N", "sampled estimators: keys per block (0: a quarter)",
            SettingGroup::kImportance, apply_field<&Config::samples_kv, 0, 128>,
            format_field<&Config::samples_kv>},
    Setting{"stride", "", "4|8|16", "antidiagonal: tokens per group (default 8)",
            SettingGroup::kImportance, apply_choice<&Config::antidiagonal_stride, 4, 8, 16>,
            format_field<&Config::antidiagonal_stride>},
    Setting{"pooled", "", "8|16", "pooled_lse: tokens per sub-block (default 16)",
            SettingGroup::kImportance, apply_choice<&Config::pooled_tokens, 8, 16>,
            format_field<&Config::pooled_tokens>},
    Setting{"weigh_values", "", "",
            "importance counts times how far a block's values lie from average",
            SettingGroup::kImportance,
            [](Problem& p, const std::string& label, std::string_view text) {
              p.config.weigh_values = parse_switch({label, text});
            },
            [](const Problem& p, const Problem& d) {
              return unless_default(p.config.weigh_values, d.config.weigh_values, switch_text);
            }},
    Setting{"seed", "", "N", "of samples and clusters; equal seeds give equal maps (default 0)",
            SettingGroup::kImportance, apply_seed,
            [](const Problem& p, const Problem& d) {
              return unless_default(p.config.seed, d.config.seed,
                                    [](std::uint64_t n) { return std::to_string(n); });
            }},
};

// ---- tokens
// --------------------------------------------------------------------------------------

void apply_grid(Problem& p, const std::string& label, std::string_view text) {
  const std::vector<index_t> sizes = parse_sizes({label, text}, 3, "F,H,W", 1, kMaxInt);
  p.layout.grid = {sizes[0], sizes[1], sizes[2]};
}

Text format_grid(const Problem& p, const Problem&) {
  const VideoGrid& g = p.layout.grid;
  if (g.frames == 0 && g.height == 0 && g.width == 0) return std::nullopt;
  return std::to_string(g.frames) + "x" + std::to_string(g.height) + "x" + std::to_string(g.width);
}

void apply_tile(Problem& p, const std::string& label, std::string_view text) {
  const std::vector<index_t> sizes = parse_sizes({label, text}, 3, "F,H,W", 1, 1 << 16);
  for (std::size_t axis = 0; axis < 3; ++axis) {
    p.config.tile[axis] = static_cast<std::int32_t>(sizes[axis]);
  }
}

Text format_tile(const Problem& p, const Problem& d) {
  if (p.config.tile == d.config.tile) return std::nullopt;
  const auto& t = p.config.tile;
  return std::to_string(t[0]) + "x" + std::to_string(t[1]) + "x" + std::to_string(t[2]);
}

void apply_clusters(Problem& p, const std::string& label, std::string_view text) {
  const std::vector<index_t> sizes = parse_sizes({label, text}, 2, "QxKV", 1, 4096);
  p.config.clusters_q = static_cast<std::int32_t>(sizes[0]);
  p.config.clusters_kv = static_cast<std::int32_t>(sizes[1]);
}

Text format_clusters(const Problem& p, const Problem& d) {
  if (p.config.clusters_q == d.config.clusters_q && p.config.clusters_kv == d.config.clusters_kv) {
    return std::nullopt;
  }
  return std::to_string(p.config.clusters_q) + "x" + std::to_string(p.config.clusters_kv);
}

void apply_scale(Problem& p, const std::string& label, std::string_view text) {
  constexpr auto kMaxScale = static_cast<double>(std::numeric_limits<float>::max());
  p.config.softmax_scale = static_cast<float>(parse_number({label, text}, 0, kMaxScale));
}

template <bool Config::*kField>
void apply_text_rule(Problem& p, const std::string& label, std::string_view text) {
  p.config.*kField = parse_word({label, text}, kTextRules);
}

template <bool Config::*kField>
Text format_text_rule(const Problem& p, const Problem& d) {
  return unless_default(p.config.*kField, d.config.*kField,
                        [](bool full) { return word_of(full, kTextRules); });
}

constexpr std::array kLayout{
    Setting{"grid", "", "F,H,W", "frames, height and width of the video in tokens",
            SettingGroup::kLayout, apply_grid, format_grid},
    Setting{"text", "", "N", "text tokens in the sequence (default 0)", SettingGroup::kLayout,
            [](Problem& p, const std::string& label, std::string_view text) {
              p.layout.text_tokens = parse_integer({label, text}, 0, kMaxInt);
            },
            [](const Problem& p, const Problem& d) {
              return unless_default(p.layout.text_tokens, d.layout.text_tokens,
                                    [](index_t n) { return std::to_string(n); });
            }},
    Setting{"text_side", "", "front|back", "where the text stands (default front)",
            SettingGroup::kLayout,
            [](Problem& p, const std::string& label, std::string_view text) {
              p.layout.text_side = parse_word({label, text}, kTextSides);
            },
            [](const Problem& p, const Problem& d) {
              return unless_default(p.layout.text_side, d.layout.text_side,
                                    [](TextSide s) { return word_of(s, kTextSides); });
            }},
    Setting{"text_keys", "", "full|sparse", "key blocks with text always at level 1 (default full)",
            SettingGroup::kLayout, apply_text_rule<&Config::text_keys_full>,
            format_text_rule<&Config::text_keys_full>},
    Setting{"text_queries", "", "full|sparse",
            "query blocks with text read everything at level 1 (default full)",
            SettingGroup::kLayout, apply_text_rule<&Config::text_queries_full>,
            format_text_rule<&Config::text_queries_full>},
    Setting{"order", "", "none|gilbert|tile3d|kmeans|hybrid",
            "order of the tokens before they are cut into blocks (default none)",
            SettingGroup::kLayout,
            [](Problem& p, const std::string& label, std::string_view text) {
              p.config.reorder = parse_word({label, text}, kOrders);
            },
            [](const Problem& p, const Problem& d) {
              return unless_default(p.config.reorder, d.config.reorder,
                                    [](Reorder r) { return word_of(r, kOrders); });
            }},
    Setting{"tile", "", "F,H,W", "tile3d: tokens of a tile (default 2,8,8)", SettingGroup::kLayout,
            apply_tile, format_tile},
    Setting{"clusters", "", "QxKV", "kmeans: clusters of queries and keys (default 128x256)",
            SettingGroup::kLayout, apply_clusters, format_clusters},
    Setting{"iterations", "", "N", "kmeans: rounds, 1..100 (default 4)", SettingGroup::kLayout,
            apply_field<&Config::kmeans_iterations, 1, 100>,
            format_field<&Config::kmeans_iterations>},
    Setting{"causal", "", "", "a query sees no later key", SettingGroup::kLayout,
            [](Problem& p, const std::string& label, std::string_view text) {
              p.config.causal = parse_switch({label, text});
            },
            [](const Problem& p, const Problem& d) {
              return unless_default(p.config.causal, d.config.causal, switch_text);
            }},
    Setting{"scale", "", "X", "soft-max scale (0: 1/sqrt(head_dim))", SettingGroup::kLayout,
            apply_scale,
            [](const Problem& p, const Problem& d) {
              return unless_default(p.config.softmax_scale, d.config.softmax_scale, float_text);
            }},
};

constexpr std::array kDensity{
    Setting{"density", "", "RHO",
            "set the budget for a density of RHO in the default split (quota)",
            SettingGroup::kSelection, apply_density,
            [](const Problem&, const Problem&) { return Text(); }},
    Setting{"head_density", "", "RHO1,RHO2,...|none",
            "a density for each query head, in place of the budget (quota)",
            SettingGroup::kSelection, apply_head_density, format_head_density},
};

template <std::size_t... kSizes>
auto concatenate(const std::array<Setting, kSizes>&... parts) {
  std::vector<Setting> all;
  (all.insert(all.end(), parts.begin(), parts.end()), ...);
  return all;
}

}  // namespace

std::span<const Setting> settings() {
  static const std::vector<Setting> all = concatenate(kSelection, kImportance, kLayout, kDensity);
  return all;
}

const Setting* find_setting(std::string_view name_or_alias) {
  for (const Setting& setting : settings()) {
    if (setting.name == name_or_alias) return &setting;
    if (!setting.alias.empty() && setting.alias == name_or_alias) return &setting;
  }
  return nullptr;
}

void set_density(Config& config, double density, const std::string& label) {
  if (config.rule != LevelRule::kQuota) {
    throw Error(Status::kInvalidArgument,
                label + " needs rule = quota; the threshold rule spends shares of importance");
  }
  try {
    config = with_density(config, density);
  } catch (const Error& error) {
    throw Error(error.status(), label + ": " + error.what());
  }
}

}  // namespace psa::cli
