// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "engine/blocks/wan_tensors.hpp"
#include "engine/gemm/linear.hpp"
#include "engine/gemm/worker_pool.hpp"

namespace psa::engine {

/// What the time embedding starts from: cosines, then sines of the timestep at channels / 2
/// frequencies that fall from 1 to 1/10000.
[[nodiscard]] std::vector<float> time_sinusoids(float timestep, index_t channels);

/// What steers all tokens alike: the time and text embeddings of a Wan model. All in float.
class WanConditions {
 public:
  WanConditions(const WanConfig& config, const WanOuterTensors& tensors);

  struct Time {
    std::vector<float> embedding;   ///< [dim]; the output layer's modulation follows from it
    std::vector<float> projection;  ///< [6, dim]; that of the blocks
  };
  [[nodiscard]] Time embed_time(float timestep) const;

  /// text [tokens, text_dim] -> [tokens, dim].
  [[nodiscard]] std::vector<float> embed_text(std::span<const float> text, WorkerPool& pool) const;

 private:
  index_t freq_dim_;
  Linear time_1_, time_2_, time_proj_;
  Linear text_1_, text_2_;
};

}  // namespace psa::engine
