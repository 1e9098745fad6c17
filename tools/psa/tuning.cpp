// SPDX-License-Identifier: Apache-2.0
#include "tuning.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <numeric>
#include <span>
#include <utility>

#include "capture_runner.hpp"
#include "engine/tensors/printable.hpp"
#include "progress.hpp"
#include "psa/error.hpp"
#include "psa/presets.hpp"
#include "settings.hpp"
#include "table.hpp"
#include "timing.hpp"
#include "values.hpp"

namespace psa::cli {
namespace {

/// Captures that a round of the search adds, and the share of the candidates that it keeps, at
/// least the finalists.
struct Round {
  std::size_t captures;
  double kept;
};
constexpr std::array<Round, 2> kRounds{{{2, 0.2}, {4, 0.0}}};
constexpr std::size_t kFinalists = 2;
/// Densities of a curve, in units of the density in the middle.
constexpr std::array kLadder{0.1, 0.2, 0.35, 0.55, 0.8, 1.1, 1.6, 2.4, 3.6};

double square(double x) { return x * x; }

/// "layer 3, step 14"
std::string name_of(const Capture& capture) {
  const std::string step = "step " + std::to_string(capture.step);
  return capture.layer ? "layer " + std::to_string(*capture.layer) + ", " + step : step;
}

/// With the digits that the configuration file gives it.
double readable(double density) {
  constexpr double kDigits = 1e4;
  return std::round(density * kDigits) / kDigits;
}

/// A mean that grows.
struct Mean {
  double sum = 0;
  double count = 0;
  void add(double value) {
    sum += value;
    ++count;
  }
  [[nodiscard]] double value() const { return count > 0 ? sum / count : 0; }
};

/// Says what happens and when it will be over. Work is counted in calls of dense attention.
class TuneProgress {
 public:
  TuneProgress(int visits, double work, bool is_quiet)
      : progress_("tune", visits, is_quiet), work_(work) {}

  void visit(const std::string& what) {
    std::string label = what;
    if (done_ > 0) {
      const double seconds = watch_.ms() / 1000 * std::max(0.0, work_ - done_) / done_;
      label += ", about " + fixed(seconds, 0) + " s left";
    }
    progress_.step(label);
  }
  void add(double density) { done_ += density + kOverhead; }

  /// What a call costs however little it reads, in dense calls.
  static constexpr double kOverhead = 0.08;

 private:
  Progress progress_;
  Stopwatch watch_;
  double work_;
  double done_ = 0;
};

/// All captures in an order whose beginnings are spread over it: by the fractions of multiples of
/// the golden ratio.
std::vector<Capture> spread(const std::vector<Capture>& captures) {
  constexpr double kGolden = 0.6180339887498949;
  std::vector<std::size_t> places(captures.size());
  std::iota(places.begin(), places.end(), std::size_t{0});
  const auto key = [](std::size_t i) {
    const double multiple = kGolden * static_cast<double>(i);
    return multiple - std::floor(multiple);
  };
  std::sort(places.begin(), places.end(),
            [&key](std::size_t a, std::size_t b) { return key(a) < key(b); });
  std::vector<Capture> result;
  std::transform(places.begin(), places.end(), std::back_inserter(result),
                 [&captures](std::size_t place) { return captures[place]; });
  return result;
}

/// A candidate while it is judged.
struct Contender {
  Candidate candidate;
  double density = 0;  ///< wanted
  Mean squared_error;  ///< of all heads of all captures
  Mean ms;
  int captures = 0;

  [[nodiscard]] CandidateResult result() const {
    return {candidate, density, std::sqrt(squared_error.value()), ms.value(), captures};
  }
};

/// A finalist's errors over a ladder of densities.
struct Ladder {
  Contender contender;
  std::vector<double> wanted;  ///< rising
  std::vector<Mean> measured;  ///< the densities that they turned out to be
  std::map<std::optional<index_t>, std::vector<std::vector<Mean>>> squared;  ///< [wanted][head]

  /// The curve of each head, layer by layer; dense attention, without an error, is its end.
  [[nodiscard]] std::vector<LayerCurves> curves() const;
  /// The density to ask for in order to get `density`.
  [[nodiscard]] double wanted_for(double density) const;
};

std::vector<LayerCurves> Ladder::curves() const {
  std::vector<LayerCurves> all;
  for (const auto& [layer, rungs] : squared) {
    LayerCurves curves{layer, std::vector<engine::ErrorCurve>(rungs.front().size())};
    for (std::size_t h = 0; h < curves.heads.size(); ++h) {
      for (std::size_t i = 0; i < rungs.size(); ++i) {
        curves.heads[h].push_back({measured[i].value(), rungs[i][h].value()});
      }
      curves.heads[h].push_back({1, 0});
    }
    all.push_back(std::move(curves));
  }
  return all;
}

double Ladder::wanted_for(double density) const {
  double from = measured.front().value();
  double wanted_from = wanted.front();
  for (std::size_t i = 1; i <= measured.size(); ++i) {
    const double to = i < measured.size() ? measured[i].value() : 1;
    const double wanted_to = i < wanted.size() ? wanted[i] : 1;
    if (density <= to && to > from) {
      const double part = std::max(0.0, (density - from) / (to - from));
      return wanted_from + part * (wanted_to - wanted_from);
    }
    from = to;
    wanted_from = wanted_to;
  }
  return 1;
}

/// What a finalist comes to.
struct Solution {
  Ladder ladder;
  std::vector<LayerCurves> curves;
  engine::Allocation allocation;  ///< of each level map of each layer
};

class TuningRun {
 public:
  TuningRun(const CallOptions& options, const std::vector<Capture>& captures,
            const TuneTarget& target, bool is_quiet);
  Tuning finish();

 private:
  [[nodiscard]] Call load(const Capture& capture) const;
  [[nodiscard]] double middle_density();
  [[nodiscard]] std::vector<Contender> contenders(double density) const;
  void judge(std::span<const Capture> captures, std::vector<Contender>& contenders);
  std::vector<Contender> search(std::vector<Contender> contenders);
  [[nodiscard]] Ladder make_ladder(const Contender& contender) const;
  void climb(std::vector<Ladder>& ladders);
  [[nodiscard]] Solution solve(Ladder ladder) const;
  [[nodiscard]] std::vector<Solution> solve_all(std::vector<Ladder> ladders) const;
  [[nodiscard]] double cost_of(const Solution& solution) const;
  void choose(const Solution& solution);
  void try_out();
  CaptureResult run(CaptureRunner& runner, const Config& config);

  const CallOptions& options_;
  bool is_quiet_;
  Tuning tuning_;
  std::vector<Capture> spread_;  ///< those to tune on
  std::optional<TuneProgress> progress_;
};

TuningRun::TuningRun(const CallOptions& options, const std::vector<Capture>& captures,
                     const TuneTarget& target, bool is_quiet)
    : options_(options), is_quiet_(is_quiet) {
  tuning_.target = target;
  tuning_.split = split_captures(captures);
  spread_ = spread(tuning_.split.tuned);
  tuning_.problem = load(spread_.front()).problem;
  // One that does not fit the others ends this here, not in an hour.
  for (const Capture& capture : captures) static_cast<void>(load(capture));
}

Call TuningRun::load(const Capture& capture) const {
  CallOptions options = options_;
  options.set_files({capture.path.string()});
  Call call = load_call(options);
  Problem& problem = call.problem;
  // As psa generate does: a video always allows the Gilbert order.
  const bool has_order = options.has_flag("order") || !options.base_name().empty();
  if (!has_order && problem.layout.grid.tokens() > 0 && !problem.config.causal) {
    problem.config.reorder = Reorder::kGilbert;
  }
  const Problem& first = tuning_.problem;
  if (first.shape.len_q == 0) return call;  // this is the first
  Problem expected = first;
  expected.config = problem.config;
  if (format_problem(problem) == format_problem(expected)) return call;
  throw Error(Status::kInvalidArgument,
              io::printable(capture.path.string()) + " is " + format_problem(problem) +
                  "; all captures must be like the first, " + format_problem(expected));
}

CaptureResult TuningRun::run(CaptureRunner& runner, const Config& config) {
  CaptureResult result = runner.run(config);
  progress_->add(result.density);
  return result;
}

/// Where candidates are compared: the wanted density, or about that which the base configuration
/// needs for the wanted error.
double TuningRun::middle_density() {
  if (tuning_.target.kind == TuneTarget::Kind::kDensity) return tuning_.target.value;
  constexpr std::array kDensities{0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.27, 0.4, 0.6};
  const Call call = load(spread_.front());
  CaptureRunner runner(call);
  for (const double density : kDensities) {
    if (density * tuning_.problem.config.block_kv <= 1) continue;
    Mean squared;
    for (const double error : runner.run(with_density(tuning_.problem.config, density)).errors) {
      squared.add(square(error));
    }
    if (squared.value() <= square(tuning_.target.value)) return density;
  }
  return kDensities.back();
}

std::vector<Contender> TuningRun::contenders(double density) const {
  const std::vector<Candidate> candidates = candidates_of(search_space(tuning_.problem, options_),
                                                          tuning_.problem, options_.plan_options());
  std::vector<Contender> result;
  std::optional<Error> refusal;
  for (const Candidate& candidate : candidates) {
    Contender contender{candidate, 0, {}, {}, 0};
    // A dearer selection has to be paid for, so that all cost the same.
    contender.density = density - (candidate.selection_cost - candidates.front().selection_cost);
    try {
      set_density(contender.candidate.config, contender.density, "--target");
      result.push_back(contender);
    } catch (const Error& error) {
      refusal = error;
    }
  }
  if (result.empty()) throw Error(refusal->status(), refusal->what());
  // What the result is held against needs the density too, sooner or later.
  Config base = tuning_.problem.config;
  base.rule = LevelRule::kQuota;
  set_density(base, density, "--target");
  return result;
}

void TuningRun::judge(std::span<const Capture> captures, std::vector<Contender>& contenders) {
  for (const Capture& capture : captures) {
    progress_->visit(std::to_string(contenders.size()) + " candidates, " + name_of(capture));
    const Call call = load(capture);
    CaptureRunner runner(call);
    progress_->add(1);
    for (Contender& contender : contenders) {
      const CaptureResult result = run(runner, contender.candidate.config);
      for (const double error : result.errors) contender.squared_error.add(square(error));
      contender.ms.add(result.ms);
      ++contender.captures;
    }
  }
}

/// Successive halving: each round runs those that are left on captures that are new to all.
std::vector<Contender> TuningRun::search(std::vector<Contender> contenders) {
  const std::span<const Capture> captures(spread_);
  std::size_t begin = 0;
  for (const Round& round : kRounds) {
    const std::size_t count = std::min(round.captures, captures.size() - begin);
    judge(captures.subspan(begin, count), contenders);
    begin += count;
    std::stable_sort(contenders.begin(), contenders.end(),
                     [](const Contender& a, const Contender& b) {
                       return a.squared_error.value() < b.squared_error.value();
                     });
    const auto kept = static_cast<std::size_t>(round.kept * static_cast<double>(contenders.size()));
    const std::size_t left = std::min(contenders.size(), std::max(kept, kFinalists));
    // Those of a later round stand before those that an earlier one left behind.
    tuning_.candidates.resize(std::max(tuning_.candidates.size(), contenders.size()));
    std::transform(contenders.begin(), contenders.end(), tuning_.candidates.begin(),
                   [](const Contender& c) { return c.result(); });
    contenders.resize(left);
  }
  return contenders;
}

Ladder TuningRun::make_ladder(const Contender& contender) const {
  // Below, block means alone take the density; above, a curve adds nothing to its end, dense.
  constexpr double kLeast = 1.25;
  constexpr double kMost = 0.9;
  Ladder ladder;
  ladder.contender = contender;
  const double least = kLeast / contender.candidate.config.block_kv;
  for (const double rung : kLadder) {
    const double density = std::max(least, rung * contender.density);
    const bool is_higher = ladder.wanted.empty() || density > ladder.wanted.back();
    if (is_higher && density <= kMost) ladder.wanted.push_back(density);
  }
  if (ladder.wanted.empty()) ladder.wanted.push_back(contender.density);
  ladder.measured.resize(ladder.wanted.size());
  return ladder;
}

void TuningRun::climb(std::vector<Ladder>& ladders) {
  for (const Capture& capture : tuning_.split.tuned) {
    progress_->visit("error against density, " + name_of(capture));
    const Call call = load(capture);
    CaptureRunner runner(call);
    progress_->add(1);
    for (Ladder& ladder : ladders) {
      auto& squared = ladder.squared[capture.layer];
      squared.resize(ladder.wanted.size());
      for (std::size_t i = 0; i < ladder.wanted.size(); ++i) {
        const CaptureResult result =
            run(runner, with_density(ladder.contender.candidate.config, ladder.wanted[i]));
        ladder.measured[i].add(result.density);
        squared[i].resize(result.errors.size());
        for (std::size_t h = 0; h < result.errors.size(); ++h) {
          squared[i][h].add(square(result.errors[h]));
        }
      }
    }
  }
}

/// The mean of curves over the same densities.
engine::ErrorCurve mean_curve(std::span<const engine::ErrorCurve> curves) {
  engine::ErrorCurve mean = curves.front();
  for (std::size_t i = 0; i < mean.size(); ++i) {
    Mean squared;
    for (const engine::ErrorCurve& curve : curves) squared.add(curve[i].squared_error);
    mean[i].squared_error = squared.value();
  }
  return mean;
}

/// Query heads that must have one density: those of a level map.
std::size_t heads_of_map(const Problem& problem) {
  const ProblemShape& shape = problem.shape;
  return problem.config.share_group_map ? static_cast<std::size_t>(shape.heads_q / shape.heads_kv)
                                        : 1;
}

Solution TuningRun::solve(Ladder ladder) const {
  Solution solution{std::move(ladder), {}, {}};
  solution.curves = solution.ladder.curves();
  const std::size_t together = heads_of_map(tuning_.problem);
  std::vector<engine::ErrorCurve> units;
  for (const LayerCurves& layer : solution.curves) {
    const std::span<const engine::ErrorCurve> heads(layer.heads);
    for (std::size_t h = 0; h < heads.size(); h += together) {
      units.push_back(mean_curve(heads.subspan(h, together)));
    }
  }
  solution.allocation = tuning_.target.kind == TuneTarget::Kind::kDensity
                            ? engine::allocate_density(units, solution.ladder.contender.density)
                            : engine::allocate_error(units, square(tuning_.target.value));
  return solution;
}

/// Of the finalists that can meet the target: a few blocks are read whatever the budget is.
std::vector<Solution> TuningRun::solve_all(std::vector<Ladder> ladders) const {
  std::vector<Solution> solutions;
  std::optional<Error> refusal;
  for (Ladder& ladder : ladders) {
    try {
      solutions.push_back(solve(std::move(ladder)));
    } catch (const Error& error) {
      refusal = error;
    }
  }
  if (solutions.empty())
    throw Error(refusal->status(), std::string("--target: ") + refusal->what());
  return solutions;
}

/// What is to be least: the error at a given cost, or the cost of a given error.
double TuningRun::cost_of(const Solution& solution) const {
  return tuning_.target.kind == TuneTarget::Kind::kDensity
             ? solution.allocation.mean_squared_error
             : solution.allocation.mean_density +
                   solution.ladder.contender.candidate.selection_cost;
}

void TuningRun::choose(const Solution& solution) {
  const Config& config = solution.ladder.contender.candidate.config;
  const engine::Allocation& allocation = solution.allocation;
  tuning_.curves = solution.curves;
  tuning_.predicted_density = allocation.mean_density;
  tuning_.predicted_error = std::sqrt(allocation.mean_squared_error);
  tuning_.uniform_density = readable(solution.ladder.wanted_for(allocation.mean_density));
  tuning_.config = with_density(config, tuning_.uniform_density);
  const std::size_t together = heads_of_map(tuning_.problem);
  std::size_t unit = 0;
  for (const LayerCurves& layer : solution.curves) {
    Config& own = tuning_.layers[layer.layer] = tuning_.config;
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      const double expected = allocation.density[unit + h / together];
      const double density = readable(solution.ladder.wanted_for(expected));
      own.head_density.push_back(static_cast<float>(density));
      tuning_.heads.push_back(
          {layer.layer, static_cast<index_t>(h), density, expected, std::nullopt});
    }
    unit += layer.heads.size() / together;
  }
}

/// One way of reading while it runs on all captures.
struct Trial {
  Mean density, selection_cost, squared;
  double ms = 0;

  void add(const CaptureResult& result) {
    density.add(result.density);
    selection_cost.add(result.selection_cost);
    for (const double error : result.errors) squared.add(square(error));
    ms += result.ms;
  }
  [[nodiscard]] MethodTotal total() const {
    return {density.value(), selection_cost.value(), std::sqrt(squared.value()), ms};
  }
};

/// The choice beside the base configuration, on captures that it was not made with.
void TuningRun::try_out() {
  struct Pair {
    Mean before, after;
  };
  const Config base = with_density(tuning_.problem.config, tuning_.uniform_density);
  Trial before, uniform, after;
  std::map<std::pair<std::optional<index_t>, index_t>, Pair> heads;
  std::map<index_t, Pair> steps;
  for (const Capture& capture : tuning_.judged()) {
    progress_->visit("before and after, " + name_of(capture));
    const Call call = load(capture);
    CaptureRunner runner(call);
    progress_->add(1);
    tuning_.dense_ms += runner.dense_ms();
    const CaptureResult old_result = run(runner, base);
    const CaptureResult new_result = run(runner, tuning_.layers.at(capture.layer));
    before.add(old_result);
    after.add(new_result);
    uniform.add(run(runner, tuning_.config));
    ++tuning_.steps[capture.step].captures;
    for (std::size_t h = 0; h < new_result.errors.size(); ++h) {
      for (Pair* pair : {&heads[{capture.layer, static_cast<index_t>(h)}], &steps[capture.step]}) {
        pair->before.add(square(old_result.errors[h]));
        pair->after.add(square(new_result.errors[h]));
      }
    }
  }
  for (HeadResult& head : tuning_.heads) {
    const Pair& pair = heads[{head.layer, head.head}];
    if (pair.after.count == 0) continue;  // nothing of the layer was held out
    head.errors = {std::sqrt(pair.before.value()), std::sqrt(pair.after.value())};
  }
  for (const auto& [step, pair] : steps) {
    tuning_.steps[step].errors = {std::sqrt(pair.before.value()), std::sqrt(pair.after.value())};
  }
  tuning_.before = before.total();
  tuning_.uniform = uniform.total();
  tuning_.after = after.total();
}

/// Calls of dense attention that the whole search costs.
double work_of(const Tuning& tuning, std::size_t candidates, double density) {
  constexpr double kOverhead = TuneProgress::kOverhead;
  const double ladder = std::accumulate(kLadder.begin(), kLadder.end(), 0.0) * density +
                        static_cast<double>(kLadder.size()) * kOverhead;
  const double finalists = static_cast<double>(std::min(candidates, kFinalists));
  double work = 0;
  auto left = static_cast<double>(candidates);
  for (const Round& round : kRounds) {
    work += static_cast<double>(round.captures) * (1 + left * (density + kOverhead));
    left *= round.kept;
  }
  work += static_cast<double>(tuning.split.tuned.size()) * (1 + finalists * ladder);
  constexpr double kWays = 3;  // before, uniform, after
  return work + static_cast<double>(tuning.judged().size()) * (1 + kWays * (density + kOverhead));
}

Tuning TuningRun::finish() {
  const double middle = middle_density();
  std::vector<Contender> all = contenders(middle);
  const std::size_t searched = std::min(spread_.size(), kRounds[0].captures + kRounds[1].captures);
  const std::size_t visits = searched + tuning_.split.tuned.size() + tuning_.judged().size();
  progress_.emplace(static_cast<int>(visits), work_of(tuning_, all.size(), middle), is_quiet_);
  std::vector<Ladder> ladders;
  for (const Contender& contender : search(std::move(all))) {
    ladders.push_back(make_ladder(contender));
  }
  climb(ladders);
  const std::vector<Solution> solutions = solve_all(std::move(ladders));
  choose(*std::min_element(
      solutions.begin(), solutions.end(),
      [this](const Solution& a, const Solution& b) { return cost_of(a) < cost_of(b); }));
  try_out();
  return std::move(tuning_);
}

}  // namespace

TuneTarget parse_target(const std::string& text) {
  const Given given{"--target", text};
  const std::size_t equals = text.find('=');
  const std::string name = text.substr(0, equals);
  if (equals == std::string::npos || (name != "density" && name != "error")) {
    reject(given, "expected density=R or error=E");
  }
  const double value =
      parse_number({"--target " + name, std::string_view(text).substr(equals + 1)}, 0, 1);
  if (value <= 0 || value >= 1) reject(given, "allowed: more than 0 and less than 1");
  return {name == "density" ? TuneTarget::Kind::kDensity : TuneTarget::Kind::kError, value};
}

Tuning tune(const CallOptions& options, const std::vector<Capture>& captures,
            const TuneTarget& target, bool is_quiet) {
  return TuningRun(options, captures, target, is_quiet).finish();
}

}  // namespace psa::cli
