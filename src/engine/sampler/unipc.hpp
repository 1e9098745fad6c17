// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace psa::engine {

/// UniPC (Zhao et al., 2023, arXiv:2302.04867) in its B2(h) form on the predicted video, with the
/// conventions of diffusers' UniPCMultistepScheduler for flow matching.
///
/// With alpha = 1 - sigma, lambda = log(alpha / sigma), h = lambda_t - lambda_s, B = exp(-h) - 1
/// and m_i = x_i - sigma_i * velocity_i, the video predicted at step i, one step goes from s to t
/// by
///
///   predictor  x_t = sigma_t/sigma_s x_s - alpha_t B (m_s + 1/2 D1)             D1 = (m_r - m_s)/r
///   corrector  x_t = sigma_t/sigma_s x_s - alpha_t B (m_s + c1 D1 + c2 (m_t - m_s))
///
/// where r = (lambda_r - lambda_s)/h belongs to the step before s, and c1, c2 solve the two order
/// conditions. The corrector costs no model call: it repeats the last predictor once the model has
/// been evaluated at its result (m_t is taken at the uncorrected x_t). The first and the last step
/// have order 1 (no D1), where c2 = 1/2.
class UniPc {
 public:
  /// sigmas [steps + 1]: falling, below 1, the last one 0. order: 1 or 2. The results of the steps
  /// in `disable_corrector` are not corrected.
  UniPc(std::vector<float> sigmas, int order, std::vector<int> disable_corrector);

  /// As Sampler::step, which checks the arguments.
  void step(int index, std::span<const float> velocity, std::span<float> sample);

 private:
  struct Interval;
  [[nodiscard]] double lambda(int index) const;
  [[nodiscard]] Interval interval_from(int index) const;
  [[nodiscard]] bool is_corrected(int index) const;
  void correct(int index, std::span<const float> video, std::span<float> sample) const;
  void predict(int index, std::span<float> sample) const;

  std::vector<float> sigmas_;
  int max_order_;
  std::vector<int> disable_corrector_;
  int order_ = 0;                   ///< of the last predictor
  std::vector<float> start_;        ///< x_s of the last predictor
  std::vector<float> video_;        ///< m_s
  std::vector<float> older_video_;  ///< m_r
};

}  // namespace psa::engine
