// SPDX-License-Identifier: Apache-2.0
#include "engine/sampler/unipc.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace psa::engine {

/// Coefficients of the step from s = sigmas[i] to t = sigmas[i + 1], in double: lambda is near
/// minus 14 at the first sigma, and its differences are divided by each other.
struct UniPc::Interval {
  double keep;   ///< of x_s: sigma_t / sigma_s
  double gain;   ///< of the videos: -alpha_t B
  double h;      ///< infinite for the step to sigma 0
  double ratio;  ///< r; 0 if there is no step before s
};

UniPc::UniPc(std::vector<float> sigmas, int order, std::vector<int> disable_corrector)
    : sigmas_(std::move(sigmas)),
      max_order_(order),
      disable_corrector_(std::move(disable_corrector)) {}

double UniPc::lambda(int index) const {
  const auto sigma = static_cast<double>(sigmas_[static_cast<std::size_t>(index)]);
  return std::log(1 - sigma) - std::log(sigma);
}

UniPc::Interval UniPc::interval_from(int index) const {
  const auto from = static_cast<double>(sigmas_[static_cast<std::size_t>(index)]);
  const auto to = static_cast<double>(sigmas_[static_cast<std::size_t>(index) + 1]);
  const double h = lambda(index + 1) - lambda(index);
  return {.keep = to / from,
          .gain = -(1 - to) * std::expm1(-h),
          .h = h,
          .ratio = index == 0 ? 0 : (lambda(index - 1) - lambda(index)) / h};
}

bool UniPc::is_corrected(int index) const {
  return std::find(disable_corrector_.begin(), disable_corrector_.end(), index) ==
         disable_corrector_.end();
}

void UniPc::step(int index, std::span<const float> velocity, std::span<float> sample) {
  const float sigma = sigmas_[static_cast<std::size_t>(index)];
  std::vector<float> video(sample.size());
  for (std::size_t i = 0; i < sample.size(); ++i) video[i] = sample[i] - sigma * velocity[i];
  if (index > 0 && is_corrected(index - 1)) correct(index - 1, video, sample);
  older_video_ = std::exchange(video_, std::move(video));
  start_.assign(sample.begin(), sample.end());
  const int steps_left = static_cast<int>(sigmas_.size()) - 1 - index;
  order_ = std::min({max_order_, steps_left, index + 1});
  predict(index, sample);
}

void UniPc::predict(int index, std::span<float> sample) const {
  const Interval step = interval_from(index);
  const double d1 = order_ == 2 ? step.gain / 2 / step.ratio : 0;
  for (std::size_t i = 0; i < sample.size(); ++i) {
    const auto m_s = static_cast<double>(video_[i]);
    double x = step.keep * static_cast<double>(start_[i]) + step.gain * m_s;
    if (order_ == 2) x += d1 * (static_cast<double>(older_video_[i]) - m_s);
    sample[i] = static_cast<float>(x);
  }
}

void UniPc::correct(int index, std::span<const float> video, std::span<float> sample) const {
  const Interval step = interval_from(index);
  double c1 = 0;
  double c2 = 0.5;
  if (order_ == 2) {
    // c1 + c2 = b1 and r c1 + c2 = b2, the conditions of orders 1 and 2.
    const double b = std::expm1(-step.h);
    const double phi_2 = -b / step.h - 1;
    const double b1 = phi_2 / b;
    const double b2 = 2 * (-phi_2 / step.h - 0.5) / b;
    c1 = (b1 - b2) / (1 - step.ratio);
    c2 = b1 - c1;
  }
  const double d1 = order_ == 2 ? step.gain * c1 / step.ratio : 0;
  const double d2 = step.gain * c2;
  for (std::size_t i = 0; i < sample.size(); ++i) {
    const auto m_s = static_cast<double>(video_[i]);
    double x = step.keep * static_cast<double>(start_[i]) + step.gain * m_s +
               d2 * (static_cast<double>(video[i]) - m_s);
    if (order_ == 2) x += d1 * (static_cast<double>(older_video_[i]) - m_s);
    sample[i] = static_cast<float>(x);
  }
}

}  // namespace psa::engine
