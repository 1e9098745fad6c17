// SPDX-License-Identifier: Apache-2.0
#include "comparison.hpp"

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

#include "density_match.hpp"
#include "oracle.hpp"
#include "placement.hpp"
#include "progress.hpp"
#include "psa/plan.hpp"
#include "psa/stages.hpp"
#include "table.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

constexpr Words<Method, kNumMethods> kMethodWords{{{"dense", Method::kDense},
                                                   {"psa", Method::kPsa},
                                                   {"binary", Method::kBinary},
                                                   {"binary-unordered", Method::kBinaryUnordered},
                                                   {"binary+mean", Method::kBinaryMean},
                                                   {"official-split", Method::kOfficialSplit}}};

/// One method with its plan and what its runs have shown so far.
struct Contender {
  MethodResult result;
  Plan plan;
  std::vector<double> ms;
  std::vector<RunStats> stats;
};

/// Where the methods are computed.
struct Site {
  PlacedInputs inputs;
  PlacedWorkspace workspace;
  CallTimer timer;
  Placed out;

  Site(const AttentionIo& io, const TensorView& host_out, Device device)
      : inputs(io, device), workspace(device), timer(device), out(device, host_out) {}
};

class ComparisonRun {
 public:
  ComparisonRun(const Call& call, const ComparisonOptions& options);
  Comparison finish();

 private:
  [[nodiscard]] const ProblemShape& shape() const { return call_.problem.shape; }
  void compute_reference(const Contender& dense);
  Contender prepare(Method method, const Problem& problem);
  void add(Method method, const Problem& problem);
  void run_first(const Plan& plan, const TensorView& out, std::span<LevelCode> levels,
                 RunStats* stats);
  double time_once(const Plan& plan, RunStats* stats);
  void measure_heads(MethodResult& result, std::vector<LevelCode>& levels);
  OutputErrors errors_of(const TensorView& out);
  void time_all();
  void trace_curve(Method method, const Config& base);
  void add_curve_point(Method method, const Config& config);
  [[nodiscard]] Problem with_config(const Config& config) const;

  const Call& call_;
  const ComparisonOptions& options_;
  Progress progress_;
  AttentionIo io_;         ///< on the host
  OwnedTensor dense_out_;  ///< [B, Hq, Lq, D]
  OwnedTensor out_;        ///< the same, of the method at hand
  OwnedTensor exact_out_;  ///< [B, Hq, sample, D]
  TokenSample sample_;
  std::optional<Site> site_;
  std::vector<Contender> contenders_;  ///< dense first, then psa if needed
  Comparison comparison_;
};

bool runs_anyway(Method method) { return method == Method::kDense || method == Method::kPsa; }

int count_steps(const ComparisonOptions& options) {
  const auto others =
      options.methods.size() - static_cast<std::size_t>(std::count_if(
                                   options.methods.begin(), options.methods.end(), runs_anyway));
  return 2 + static_cast<int>(others + 2 * options.curve.size()) + options.repeats +
         (options.reference_tokens ? 1 : 0);
}

ComparisonRun::ComparisonRun(const Call& call, const ComparisonOptions& options)
    : call_(call),
      options_(options),
      progress_("compare", count_steps(options), options.quiet),
      io_(call.io()) {
  const std::array<index_t, 4> out_shape{shape().batch, shape().heads_q, shape().len_q,
                                         shape().head_dim};
  dense_out_ = OwnedTensor(out_shape, shape().dtype_out);
  out_ = OwnedTensor(out_shape, shape().dtype_out);
  // A call that its backend refuses ends here, before anything is copied.
  static_cast<void>(make_plan(call.problem, call.plan_options));
  site_.emplace(io_, out_.view(), device_of(call.plan_options));
}

void ComparisonRun::run_first(const Plan& plan, const TensorView& out, std::span<LevelCode> levels,
                              RunStats* stats) {
  const Placed placed_out(site_->inputs.device(), out);
  const Placed placed_levels(site_->inputs.device(), levels);
  AttentionIo io = site_->inputs.io();
  io.out = placed_out.view();
  io.levels_out = placed_levels.data<LevelCode>();
  psa::run(plan, io, site_->workspace.of(plan), {}, stats);
  placed_out.copy_to_host();
  placed_levels.copy_to_host();
}

double ComparisonRun::time_once(const Plan& plan, RunStats* stats) {
  AttentionIo io = site_->inputs.io();
  io.out = site_->out.view();
  return site_->timer.run(plan, io, site_->workspace.of(plan), stats);
}

Problem ComparisonRun::with_config(const Config& config) const {
  Problem problem = call_.problem;
  problem.config = config;
  return problem;
}

void ComparisonRun::compute_reference(const Contender& dense) {
  comparison_.reference =
      "dense attention of the same backend, " + std::string(name_of(shape().dtype_out));
  if (!options_.reference_tokens) return;
  progress_.step("exact reference in double");
  sample_ = spread_tokens(shape().len_q, *options_.reference_tokens);
  exact_out_ = exact_attention(call_, sample_);
  comparison_.against_dense = false;
  comparison_.reference = "dense attention in double on " + std::to_string(sample_.count) + " of " +
                          std::to_string(dense.plan.shape().len_q) + " query tokens";
}

OutputErrors ComparisonRun::errors_of(const TensorView& out) {
  OutputErrors errors;
  if (comparison_.against_dense || options_.keep_rows) {
    errors = compare_outputs(out, dense_out_.view());
  }
  if (!comparison_.against_dense) {
    const TensorView sampled = sampled_tokens(out, sample_.first, sample_.step, sample_.count);
    OutputErrors exact = compare_outputs(sampled, exact_out_.view());
    exact.rows = std::move(errors.rows);
    errors = std::move(exact);
  }
  if (!options_.keep_rows) errors.rows.clear();
  return errors;
}

// S-21 for each head: a plan of one head measures its part of the map.
void ComparisonRun::measure_heads(MethodResult& result, std::vector<LevelCode>& levels) {
  Problem head_problem = result.problem;
  head_problem.shape.heads_q = head_problem.shape.heads_kv = 1;
  head_problem.config.head_density.clear();  // the map is given
  const Plan plan = make_plan(head_problem, call_.plan_options);
  const auto map_size = static_cast<std::ptrdiff_t>(result.num_q_blocks * result.num_kv_blocks);
  const auto heads = static_cast<std::ptrdiff_t>(shape().heads_q);
  for (std::ptrdiff_t h = 0; h < heads; ++h) {
    std::vector<LevelCode> head_levels;
    for (std::ptrdiff_t b = 0; b < static_cast<std::ptrdiff_t>(shape().batch); ++b) {
      const auto begin = levels.begin() + (b * heads + h) * map_size;
      head_levels.insert(head_levels.end(), begin, begin + map_size);
    }
    const stages::LevelDensity density =
        stages::measure_levels(plan, plan.level_map(head_levels), io_.kv_lengths);
    result.head_density.push_back(density.density);
    result.head_blocks.push_back(density.blocks);
  }
}

Contender ComparisonRun::prepare(Method method, const Problem& problem) {
  progress_.step("first run of " + std::string(name_of(method)));
  Contender contender{{}, make_plan(problem, call_.plan_options), {}, {}};
  MethodResult& result = contender.result;
  result.method = method;
  result.problem = problem;
  result.num_q_blocks = contender.plan.num_q_blocks();
  result.num_kv_blocks = contender.plan.num_kv_blocks();
  return contender;
}

void ComparisonRun::add(Method method, const Problem& problem) {
  Contender contender = prepare(method, problem);
  MethodResult& result = contender.result;
  const TensorView& out = method == Method::kDense ? dense_out_.view() : out_.view();
  std::vector<LevelCode> levels(static_cast<std::size_t>(contender.plan.level_map_size()));
  run_first(contender.plan, out, levels, &result.stats);
  if (method == Method::kDense) compute_reference(contender);
  if (method == Method::kPsa) comparison_.plan_text = contender.plan.describe();
  result.errors = errors_of(out);
  measure_heads(result, levels);
  if (options_.keep_rows) result.levels = std::move(levels);
  contenders_.push_back(std::move(contender));
}

// Round by round, so that a change of the machine's speed meets all methods alike.
void ComparisonRun::time_all() {
  for (int i = 0; i < options_.repeats; ++i) {
    progress_.step("timing, round " + std::to_string(i + 1));
    for (Contender& contender : contenders_) {
      RunStats stats;
      contender.ms.push_back(time_once(contender.plan, &stats));
      contender.stats.push_back(stats);
    }
  }
  for (Contender& contender : contenders_) {
    for (double RunStats::*stage :
         {&RunStats::reorder_ms, &RunStats::pyramid_ms, &RunStats::importance_ms,
          &RunStats::levels_ms, &RunStats::attention_ms}) {
      std::vector<double> times;
      for (const RunStats& stats : contender.stats) times.push_back(stats.*stage);
      contender.result.stats.*stage = spread_of(std::move(times)).median;
    }
    contender.result.ms = spread_of(contender.ms);
  }
}

void ComparisonRun::add_curve_point(Method method, const Config& config) {
  const Plan plan = make_plan(with_config(config), call_.plan_options);
  RunStats stats;
  CurvePoint point;
  point.method = method;
  point.ms = time_once(plan, &stats);
  site_->out.copy_to_host();
  point.selection_ms = stats.total_ms() - stats.attention_ms;
  point.density = stats.density;
  point.errors = compare_outputs(out_.view(), dense_out_.view());
  point.errors.rows.clear();
  comparison_.curve.push_back(std::move(point));
}

void ComparisonRun::trace_curve(Method method, const Config& base) {
  const DensityMatcher matcher(call_.problem, site_->inputs, io_.kv_lengths, call_.plan_options);
  std::optional<Config> last;
  for (const double density : options_.curve) {
    progress_.step(std::string(name_of(method)) + " at density " + significant(density, 3));
    const Config config = matcher.match(base, density);
    // Forced blocks set a least density: several wanted ones may lead to it.
    if (last == config) continue;
    add_curve_point(method, config);
    last = config;
  }
}

Comparison ComparisonRun::finish() {
  comparison_.nonfinite = {count_nonfinite(call_.inputs.q), count_nonfinite(call_.inputs.k),
                           count_nonfinite(call_.inputs.v)};
  const Config& psa = call_.problem.config;
  contenders_.reserve(kNumMethods);  // Contender holds a plan: move it once
  add(Method::kDense, dense_problem(call_.problem));
  add(Method::kPsa, call_.problem);
  const double density = contenders_.back().result.stats.density;
  for (const Method method : options_.methods) {
    if (runs_anyway(method)) continue;
    const Problem problem = with_config(method_config(method, psa));
    const DensityMatcher matcher(problem, site_->inputs, io_.kv_lengths, call_.plan_options);
    add(method, with_config(matcher.match(problem.config, density)));
  }
  time_all();
  if (!options_.curve.empty()) {
    trace_curve(Method::kPsa, psa);
    trace_curve(Method::kBinary, method_config(Method::kBinary, psa));
  }
  comparison_.dense_ms = contenders_.front().result.ms;
  comparison_.repeats = options_.repeats;
  for (const Method method : options_.methods) {
    for (Contender& contender : contenders_) {
      if (contender.result.method == method) {
        comparison_.methods.push_back(std::move(contender.result));
      }
    }
  }
  return std::move(comparison_);
}

}  // namespace

std::string_view name_of(Method method) { return word_of(method, kMethodWords); }

std::vector<Method> parse_methods(std::string_view list) {
  std::vector<Method> methods;
  for (const std::string_view word : split(list, ',')) {
    const Method method = parse_word({"a name of --methods", word}, kMethodWords);
    if (std::find(methods.begin(), methods.end(), method) != methods.end()) {
      reject({"--methods", list}, "expected each name at most once");
    }
    methods.push_back(method);
  }
  return methods;
}

Config method_config(Method method, const Config& psa) {
  Config config = psa;
  switch (method) {
    case Method::kPsa:
      return config;
    case Method::kBinary:
    case Method::kBinaryUnordered:
    case Method::kBinaryMean:
      config.num_levels = 1;
      config.budget = {1, 1, 1, 1, 1};
      config.head_density.clear();
      config.similarity_cap.reset();
      config.weigh_values = false;  // as published, and so is the scope
      config.budget_scope = BudgetScope::kRow;
      config.rest = method == Method::kBinaryMean ? Rest::kMean : Rest::kSkip;
      if (method == Method::kBinaryUnordered) config.reorder = Reorder::kNone;
      // The published code has no block means.
      if (method == Method::kBinaryMean) config.compat = Compat::kNone;
      return config;
    case Method::kOfficialSplit:
      config.rule = LevelRule::kQuota;
      config.num_levels = 4;
      config.budget = {0.10F, 0.15F, 0.15F, 0.35F, 0.35F};
      config.head_density.clear();
      config.weigh_values = false;
      config.budget_scope = BudgetScope::kRow;
      config.rest = Rest::kSkip;
      return config;
    case Method::kDense:
      break;
  }
  throw Error(Status::kInternal, "dense attention has no budget");
}

const MethodResult* Comparison::find(Method method) const {
  const auto found =
      std::find_if(methods.begin(), methods.end(),
                   [method](const MethodResult& result) { return result.method == method; });
  return found == methods.end() ? nullptr : &*found;
}

Comparison compare_methods(const Call& call, const ComparisonOptions& options) {
  return ComparisonRun(call, options).finish();
}

}  // namespace psa::cli
