// SPDX-License-Identifier: Apache-2.0
#pragma once

// Whole videos of a model that is tuned, beside those of dense attention: how many first steps are
// best run dense at a density, and which density a PSNR needs.

#include <optional>
#include <string>
#include <vector>

#include "engine/video/video.hpp"
#include "tuning_budgets.hpp"
#include "tuning_model.hpp"
#include "tuning_search.hpp"

namespace psa::cli {

/// One video, from the noise of the dense one.
struct VideoTrial {
  std::string prompt;
  bool is_held_out = false;
  int warmup_steps = 0;      ///< dense ones
  double density = 0;        ///< wanted, of the steps after the warm-up
  double total_density = 0;  ///< the mean of all steps that this makes
  double psnr_db = 0;        ///< against the dense video; infinite if they are equal
  double seconds = 0;        ///< of the model calls
  double dense_seconds = 0;
};

/// Both of one prompt.
struct VideoPair {
  std::string prompt;
  engine::Video tuned;
  engine::Video dense;
};

struct VideoSearch {
  std::vector<VideoTrial> trials;  ///< in the order in which they were made
  int steps = 0;                   ///< of each video
  int warmup_steps = 0;            ///< the choice
  double total_density = 0;        ///< of the choice
  double least_psnr_db = 0;        ///< of the choice, of the prompts that judge it
  std::vector<VideoPair> shown;    ///< of the choice, of held-out prompts
};

/// A choice of videos, and the budgets of its steps after the warm-up.
struct VideoChoice {
  VideoSearch videos;
  Budgets budgets;
};

/// What `warmup_steps` dense ones of `steps` leave to the others if the mean of all is `total`; not
/// above 0 if they read more.
[[nodiscard]] double density_after_warmup(double total, int warmup_steps, int steps);

/// The warm-up (the one that is fixed, or the best of 0, 1, 2 and 4 steps on a prompt that was
/// tuned on) at a mean density of all steps; then the held-out prompts. Throws
/// Error(kInvalidArgument) if no warm-up leaves a density that the budgets can have.
[[nodiscard]] VideoChoice videos_of_density(const TuningModel& model, const TuningSearch& search,
                                            double total_density);
/// The least of some mean densities of all steps at which every held-out prompt's video has this
/// PSNR, each with the warm-up that is best at it. Throws Error(kInvalidArgument) if none has.
[[nodiscard]] VideoChoice videos_of_psnr(const TuningModel& model, const TuningSearch& search,
                                         double psnr_db);
/// The held-out prompts with given budgets, and the fixed warm-up or none.
[[nodiscard]] VideoChoice videos_of_budgets(const TuningModel& model, const TuningSearch& search,
                                            const Budgets& budgets);

}  // namespace psa::cli
