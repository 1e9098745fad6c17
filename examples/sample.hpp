// SPDX-License-Identifier: Apache-2.0
#pragma once

// What the examples 03 to 06 share: q, k and v of a small video, and how to compare two outputs.

#include <cmath>
#include <cstddef>
#include <psa/psa.hpp>
#include <vector>

struct Sample {
  psa::TokenLayout layout{.grid = {.frames = 8, .height = 16, .width = 16}};
  psa::ProblemShape shape{.heads_q = 2,
                          .heads_kv = 2,
                          .len_q = layout.grid.tokens(),
                          .len_kv = layout.grid.tokens(),
                          .head_dim = 64};
  std::vector<float> q, k, v;  // [B,H,L,D]

  /// Features that vary smoothly over the video; `time` moves them a little, as a denoising step
  /// does.
  explicit Sample(double time = 0) : q(size()), k(size()), v(size()) {
    for (std::size_t i = 0; i < size(); ++i) {
      const auto c = static_cast<double>(i % 64), t = static_cast<double>(i / 64 % 2048);
      const double x = std::fmod(t, 16), y = std::fmod(std::floor(t / 16), 16), f = t / 256;
      const double phase = 0.02 * (c + 1) * x + 0.3 * std::cos(c) * y + 0.2 * std::sin(c) * f;
      q[i] = static_cast<float>(1.5 * std::sin(phase + 0.1 + 0.3 * time * std::sin(2 * c)));
      k[i] = static_cast<float>(1.5 * std::sin(phase + time));
      v[i] = static_cast<float>(std::cos(phase + c + time));
    }
  }

  [[nodiscard]] std::size_t size() const {
    return static_cast<std::size_t>(shape.heads_q * shape.len_q * shape.head_dim);
  }
  [[nodiscard]] psa::TensorView view(std::vector<float>& tensor) const {
    const psa::index_t head = shape.len_q * shape.head_dim;
    return {.data = tensor.data(),
            .shape = {1, shape.heads_q, shape.len_q, shape.head_dim},
            .stride = {shape.heads_q * head, head, shape.head_dim, 1}};
  }
  [[nodiscard]] psa::AttentionIo io(std::vector<float>& out) {
    return {.q = view(q), .k = view(k), .v = view(v), .out = view(out)};
  }
  /// Attention that reads everything at the finest level.
  [[nodiscard]] std::vector<float> dense() {
    const psa::Plan plan = psa::Plan::create(shape, layout, psa::find_preset("dense").config);
    psa::Workspace workspace(plan.workspace_bytes());
    std::vector<float> out(size());
    psa::run(plan, io(out), workspace.bytes());
    return out;
  }
};

[[nodiscard]] inline double relative_error(const std::vector<float>& given,
                                           const std::vector<float>& expected) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < given.size(); ++i) {
    difference += std::pow(given[i] - expected[i], 2.0);
    norm += std::pow(expected[i], 2.0);
  }
  return std::sqrt(difference / norm);
}
