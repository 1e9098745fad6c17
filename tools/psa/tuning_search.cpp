// SPDX-License-Identifier: Apache-2.0
#include "tuning_search.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <numeric>
#include <span>
#include <string>
#include <utility>

#include "capture_runner.hpp"
#include "engine/tensors/printable.hpp"
#include "placement.hpp"
#include "psa/error.hpp"
#include "psa/presets.hpp"
#include "settings.hpp"
#include "tuning_progress.hpp"

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

/// Where candidates are compared, unless that depends on the tensors.
double known_density(const TuneTarget& target) {
  constexpr double kMiddleOfVideos = 0.1;
  return target.kind == TuneTarget::Kind::kPsnr ? kMiddleOfVideos : target.value;
}

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
  double surcharge = 0;  ///< as in Ladder
  double density = 0;    ///< wanted
  Mean squared_error;    ///< of all heads of all captures
  Mean ms;
  int captures = 0;

  [[nodiscard]] CandidateResult result() const {
    return {candidate, density, std::sqrt(squared_error.value()), ms.value(), captures};
  }
};

/// All candidates at the price of `density` with the cheapest selection. Throws Error if none of
/// them, or the base configuration of `problem`, can have it.
std::vector<Contender> contenders_of(const CallOptions& options, const Problem& problem,
                                     double density) {
  const std::vector<Candidate> candidates =
      candidates_of(search_space(problem, options), problem, options.plan_options());
  std::vector<Contender> result;
  std::optional<Error> refusal;
  for (const Candidate& candidate : candidates) {
    Contender contender;
    contender.candidate = candidate;
    // A dearer selection has to be paid for, so that all cost the same.
    contender.surcharge = candidate.selection_cost - candidates.front().selection_cost;
    contender.density = density - contender.surcharge;
    try {
      set_density(contender.candidate.config, contender.density, "--target");
      result.push_back(contender);
    } catch (const Error& error) {
      refusal = error;
    }
  }
  if (result.empty()) throw Error(refusal->status(), refusal->what());
  // What the result is held against needs the density and a plan too, sooner or later.
  Problem base = problem;
  base.config.rule = LevelRule::kQuota;
  set_density(base.config, density, "--target");
  static_cast<void>(make_plan(base, options.plan_options()));
  return result;
}

class SearchRun {
 public:
  SearchRun(const CallOptions& options, const std::vector<Capture>& captures, bool is_quiet);
  TuningSearch finish(const TuneTarget& target);

 private:
  [[nodiscard]] double middle_density(const TuneTarget& target) const;
  void judge(std::span<const Capture> captures, std::vector<Contender>& contenders);
  std::vector<Contender> halve(std::vector<Contender> contenders);
  [[nodiscard]] std::optional<Contender> best_binary(double density);
  void climb(const std::vector<Ladder*>& ladders);
  CaptureResult run(CaptureRunner& runner, const Config& config);

  const CallOptions& options_;
  bool is_quiet_;
  TuningSearch result_;
  std::vector<Capture> spread_;  ///< those to tune on
  std::optional<TuneProgress> progress_;
};

void check_alike(const Problem& first, const Call& call, const Capture& capture) {
  Problem expected = first;
  expected.config = call.problem.config;
  if (format_problem(call.problem) == format_problem(expected)) return;
  throw Error(Status::kInvalidArgument,
              io::printable(capture.path.string()) + " is " + format_problem(call.problem) +
                  "; all captures must be like the first, " + format_problem(expected));
}

SearchRun::SearchRun(const CallOptions& options, const std::vector<Capture>& captures,
                     bool is_quiet)
    : options_(options), is_quiet_(is_quiet) {
  result_.split = split_captures(captures);
  spread_ = spread(result_.split.tuned);
  result_.problem = load_capture(options_, spread_.front()).problem;
  // One that does not fit the others ends this here, not in an hour.
  for (const Capture& capture : captures) {
    check_alike(result_.problem, load_capture(options_, capture), capture);
  }
}

CaptureResult SearchRun::run(CaptureRunner& runner, const Config& config) {
  CaptureResult result = runner.run(config);
  progress_->add(result.density);
  return result;
}

/// Where candidates are compared: for an error, about the density that the base configuration needs
/// for it.
double SearchRun::middle_density(const TuneTarget& target) const {
  if (target.kind != TuneTarget::Kind::kError) return known_density(target);
  constexpr std::array kDensities{0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.27, 0.4, 0.6};
  const Call call = load_capture(options_, spread_.front());
  CaptureRunner runner(call);
  for (const double density : kDensities) {
    if (density * result_.problem.config.block_kv <= 1) continue;
    Mean squared;
    for (const double error : runner.run(with_density(result_.problem.config, density)).errors) {
      squared.add(error * error);
    }
    if (squared.value() <= target.value * target.value) return density;
  }
  return kDensities.back();
}

void SearchRun::judge(std::span<const Capture> captures, std::vector<Contender>& contenders) {
  for (const Capture& capture : captures) {
    progress_->visit(std::to_string(contenders.size()) + " candidates, " + place_of(capture));
    const Call call = load_capture(options_, capture);
    CaptureRunner runner(call);
    progress_->add(1);
    for (Contender& contender : contenders) {
      const CaptureResult result = run(runner, contender.candidate.config);
      for (const double error : result.errors) contender.squared_error.add(error * error);
      contender.ms.add(result.ms);
      ++contender.captures;
    }
  }
}

/// Successive halving: each round runs those that are left on captures that are new to all.
std::vector<Contender> SearchRun::halve(std::vector<Contender> contenders) {
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
    result_.candidates.resize(std::max(result_.candidates.size(), contenders.size()));
    std::transform(contenders.begin(), contenders.end(), result_.candidates.begin(),
                   [](const Contender& c) { return c.result(); });
    contenders.resize(left);
  }
  return contenders;
}

Ladder make_ladder(const Contender& contender) {
  // Below, block means alone take the density; above, a curve adds nothing to its end, dense.
  constexpr double kLeast = 1.25;
  constexpr double kMost = 0.9;
  Ladder ladder;
  ladder.candidate = contender.candidate;
  ladder.surcharge = contender.surcharge;
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

/// The best blocks alone, as published: values are not weighed, and each query block has its own
/// budget. In the best of all orders.
std::optional<Contender> SearchRun::best_binary(double density) {
  const auto reader =
      std::find_if(result_.finalists.begin(), result_.finalists.end(),
                   [](const Ladder& ladder) { return reads_means(ladder.candidate.config.rest); });
  if (reader == result_.finalists.end()) return std::nullopt;
  const Config& config = reader->candidate.config;
  const SearchSpace space{all_orders(result_.problem),
                          {config.importance},
                          {{1, Rest::kSkip}},
                          {config.block_kv},
                          {},
                          {},
                          {}};
  std::vector<Contender> contenders;
  for (const Candidate& candidate :
       candidates_of(space, result_.problem, options_.plan_options())) {
    contenders.push_back({candidate, 0, density, {}, {}, 0});
    set_density(contenders.back().candidate.config, density, "--target");
  }
  if (contenders.size() > 1) {
    const std::size_t count = std::min(kRounds[0].captures, spread_.size());
    judge(std::span<const Capture>(spread_).first(count), contenders);
  }
  return *std::min_element(contenders.begin(), contenders.end(),
                           [](const Contender& a, const Contender& b) {
                             return a.squared_error.value() < b.squared_error.value();
                           });
}

void SearchRun::climb(const std::vector<Ladder*>& ladders) {
  for (const Capture& capture : result_.split.tuned) {
    progress_->visit("error against density, " + place_of(capture));
    const Call call = load_capture(options_, capture);
    CaptureRunner runner(call);
    progress_->add(1);
    for (Ladder* ladder : ladders) {
      LadderErrors& own = ladder->captures.emplace_back(LadderErrors{capture.layer, {}});
      for (std::size_t i = 0; i < ladder->wanted.size(); ++i) {
        CaptureResult result =
            run(runner, with_density(ladder->candidate.config, ladder->wanted[i]));
        ladder->measured[i].add(result.density);
        own.errors.push_back(std::move(result.errors));
      }
    }
  }
}

/// Calls of dense attention that the search costs, beside binary blocks in some orders.
double work_of(std::size_t tuned, std::size_t candidates, std::size_t orders, double density) {
  constexpr double kOverhead = TuneProgress::kOverhead;
  const double ladder = std::accumulate(kLadder.begin(), kLadder.end(), 0.0) * density +
                        static_cast<double>(kLadder.size()) * kOverhead;
  const double ladders = static_cast<double>(std::min(candidates, kFinalists) + 1);
  double work = static_cast<double>(kRounds[0].captures) *
                (1 + static_cast<double>(orders) * (density + kOverhead));
  auto left = static_cast<double>(candidates);
  for (const Round& round : kRounds) {
    work += static_cast<double>(round.captures) * (1 + left * (density + kOverhead));
    left *= round.kept;
  }
  return work + static_cast<double>(tuned) * (1 + ladders * ladder);
}

TuningSearch SearchRun::finish(const TuneTarget& target) {
  const double middle = middle_density(target);
  std::vector<Contender> all = contenders_of(options_, result_.problem, middle);
  const std::size_t searched = std::min(spread_.size(), kRounds[0].captures + kRounds[1].captures);
  const std::size_t orders = all_orders(result_.problem).size();
  const std::size_t ordered =  // captures on which the order of binary blocks is found
      orders > 1 ? std::min(spread_.size(), kRounds[0].captures) : 0;
  const std::size_t visits = searched + ordered + spread_.size();
  progress_.emplace(static_cast<int>(visits), work_of(spread_.size(), all.size(), orders, middle),
                    is_quiet_);
  for (const Contender& contender : halve(std::move(all))) {
    result_.finalists.push_back(make_ladder(contender));
  }
  std::vector<Ladder*> ladders;
  for (Ladder& finalist : result_.finalists) ladders.push_back(&finalist);
  if (const std::optional<Contender> binary = best_binary(middle)) {
    ladders.push_back(&result_.binary.emplace(make_ladder(*binary)));
  }
  climb(ladders);
  return std::move(result_);
}

}  // namespace

void apply_default_order(const CallOptions& options, Problem& problem) {
  const bool has_order = options.has_flag("order") || !options.base_name().empty();
  if (has_order || problem.layout.grid.tokens() == 0 || problem.config.causal) return;
  problem.config.reorder = Reorder::kGilbert;
}

Call load_capture(const CallOptions& options, const Capture& capture) {
  CallOptions own = options;
  own.set_files({capture.path.string()});
  Call call = load_call(own);
  apply_default_order(own, call.problem);
  return call;
}

void check_target(const CallOptions& options, const Problem& problem, const TuneTarget& target) {
  // An error can be met or not only by what the tensors are; the flags can be wrong before that.
  constexpr double kAnyDensity = 0.5;
  const bool is_error = target.kind == TuneTarget::Kind::kError;
  static_cast<void>(
      contenders_of(options, problem, is_error ? kAnyDensity : known_density(target)));
}

TuningSearch search_captures(const CallOptions& options, const std::vector<Capture>& captures,
                             const TuneTarget& target, bool is_quiet) {
  return SearchRun(options, captures, is_quiet).finish(target);
}

}  // namespace psa::cli
