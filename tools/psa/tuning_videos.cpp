// SPDX-License-Identifier: Apache-2.0
#include "tuning_videos.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <set>
#include <utility>

#include "psa/error.hpp"
#include "table.hpp"

namespace psa::cli {
namespace {

constexpr std::array kWarmups{0, 1, 2, 4};
/// Of all steps, for a PSNR.
constexpr std::array kDensities{0.03, 0.045, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.55};

class VideoRuns {
 public:
  VideoRuns(const TuningModel& model, const TuningSearch& search)
      : model_(model), search_(search), judged_(prompts_of(search.split.held_out)) {
    const std::vector<std::string> tuned = prompts_of(search.split.tuned);
    tuned_ = tuned.front();
    // Of one prompt steps were held out.
    if (judged_.empty() || judged_ == tuned) judged_ = tuned;
    are_held_out_ = judged_ != tuned;
  }

  /// The budgets and the warm-up at a mean density of all steps; nothing if there are none.
  [[nodiscard]] std::optional<VideoChoice> best_at(double total);
  /// A choice of given budgets.
  [[nodiscard]] VideoChoice choice_of(Budgets budgets, int warmup_steps) const;
  /// Makes the videos of the prompts that were not tuned on, and returns their least PSNR.
  double judge(VideoChoice& choice);
  /// The choice with all that was made.
  [[nodiscard]] VideoChoice finish(VideoChoice choice) {
    choice.videos.trials = std::move(trials_);
    return choice;
  }

 private:
  static std::vector<std::string> prompts_of(const std::vector<Capture>& captures) {
    std::set<std::string> prompts;
    for (const Capture& capture : captures) prompts.insert(capture.prompt);
    return {prompts.begin(), prompts.end()};
  }
  double run(const std::string& prompt, bool is_held_out, VideoChoice& choice);

  const TuningModel& model_;
  const TuningSearch& search_;
  std::string tuned_;                ///< prompt
  std::vector<std::string> judged_;  ///< prompts
  bool are_held_out_ = false;
  std::vector<VideoTrial> trials_;
};

VideoChoice VideoRuns::choice_of(Budgets budgets, int warmup_steps) const {
  VideoSearch videos;
  videos.steps = model_.steps();
  videos.warmup_steps = warmup_steps;
  videos.total_density =
      (warmup_steps + (videos.steps - warmup_steps) * budgets.predicted_density) / videos.steps;
  return {std::move(videos), std::move(budgets)};
}

double VideoRuns::run(const std::string& prompt, bool is_held_out, VideoChoice& choice) {
  const double density = choice.budgets.predicted_density;
  const int warmup = choice.videos.warmup_steps;
  // Where one prompt is all there is, it is tuned on and judged.
  const auto known = std::find_if(trials_.begin(), trials_.end(), [&](const VideoTrial& trial) {
    return trial.prompt == prompt && trial.warmup_steps == warmup && trial.density == density;
  });
  if (known != trials_.end()) return known->psnr_db;
  TunedVideo video = model_.make_video(prompt, choice.budgets, warmup,
                                       std::string(is_held_out ? "held-out" : "tuned") +
                                           " prompt, density " + fixed(density, 3) + " after " +
                                           std::to_string(warmup) + " dense steps");
  trials_.push_back({prompt, is_held_out, warmup, density, choice.videos.total_density,
                     video.psnr_db, video.seconds, video.dense_seconds});
  if (is_held_out) {
    choice.videos.shown.push_back({prompt, std::move(video.pixels), model_.dense_video(prompt)});
  }
  return video.psnr_db;
}

std::optional<VideoChoice> VideoRuns::best_at(double total) {
  std::vector<VideoChoice> possible;
  const std::optional<int> fixed_warmup = model_.fixed_warmup();
  for (const int warmup :
       fixed_warmup ? std::vector{*fixed_warmup} : std::vector(kWarmups.begin(), kWarmups.end())) {
    const double density = density_after_warmup(total, warmup, model_.steps());
    if (density <= 0) continue;
    try {
      possible.push_back(choice_of(budgets_of_density(search_, density), warmup));
    } catch (const Error& error) {
      // Less than the block means take.
      if (error.status() != Status::kInvalidArgument) throw;
    }
  }
  if (possible.empty()) return std::nullopt;
  if (possible.size() == 1) return std::move(possible.front());
  std::vector<double> psnr;
  psnr.reserve(possible.size());
  for (VideoChoice& choice : possible) psnr.push_back(run(tuned_, false, choice));
  const auto best = std::max_element(psnr.begin(), psnr.end()) - psnr.begin();
  return std::move(possible[static_cast<std::size_t>(best)]);
}

double VideoRuns::judge(VideoChoice& choice) {
  double least = std::numeric_limits<double>::infinity();
  for (const std::string& prompt : judged_) {
    least = std::min(least, run(prompt, are_held_out_, choice));
  }
  choice.videos.least_psnr_db = least;
  return least;
}

}  // namespace

double density_after_warmup(double total, int warmup_steps, int steps) {
  return warmup_steps >= steps ? 0 : (total * steps - warmup_steps) / (steps - warmup_steps);
}

VideoChoice videos_of_density(const TuningModel& model, const TuningSearch& search,
                              double total_density) {
  VideoRuns runs(model, search);
  std::optional<VideoChoice> best = runs.best_at(total_density);
  if (!best) {
    throw Error(Status::kInvalidArgument, "--target: density " + fixed(total_density, 4) +
                                              " is less than the block means or the warm-up take");
  }
  runs.judge(*best);
  return runs.finish(std::move(*best));
}

VideoChoice videos_of_psnr(const TuningModel& model, const TuningSearch& search, double psnr_db) {
  VideoRuns runs(model, search);
  std::optional<VideoChoice> reached;
  double highest = 0;
  const auto reaches = [&](double total) {
    std::optional<VideoChoice> best = runs.best_at(total);
    if (!best) return false;
    const double psnr = runs.judge(*best);
    highest = std::max(highest, psnr);
    if (psnr < psnr_db) return false;
    reached = std::move(best);  // the last that reaches it is the least, since the search goes down
    return true;
  };
  // More density, more PSNR: a bisection.
  static_cast<void>(std::partition_point(kDensities.begin(), kDensities.end(),
                                         [&](double total) { return !reaches(total); }));
  if (!reached) {
    throw Error(Status::kInvalidArgument,
                "--target is 'psnr=" + fixed(psnr_db, 1) + "'; the videos have at most " +
                    fixed(highest, 1) + " dB at densities up to " + fixed(kDensities.back(), 2));
  }
  return runs.finish(std::move(*reached));
}

VideoChoice videos_of_budgets(const TuningModel& model, const TuningSearch& search,
                              const Budgets& budgets) {
  VideoRuns runs(model, search);
  VideoChoice choice = runs.choice_of(budgets, model.fixed_warmup().value_or(0));
  runs.judge(choice);
  return runs.finish(std::move(choice));
}

}  // namespace psa::cli
