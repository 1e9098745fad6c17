// SPDX-License-Identifier: Apache-2.0
// Pyramid Sparse Attention from C++20: a preset on a small video, beside dense attention.
#include <cmath>
#include <cstdio>
#include <psa/psa.hpp>
#include <vector>

int main() try {
  // q, k and v [B,H,L,D] of a video latent of 8 x 16 x 16 tokens. Any strides with channel stride 1
  // will do: [B,L,H,D] memory is the view with .stride = {L*H*D, D, H*D, 1}.
  const psa::VideoGrid grid{.frames = 8, .height = 16, .width = 16};
  const psa::index_t heads = 2, tokens = grid.tokens(), dim = 64;
  const auto count = static_cast<std::size_t>(heads * tokens * dim);
  std::vector<float> q(count), k(count), v(count), dense(count), sparse(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto c = static_cast<double>(i % 64), t = static_cast<double>(i / 64 % 2048);
    const double x = std::fmod(t, 16), y = std::fmod(std::floor(t / 16), 16), f = t / 256;
    const double phase = 0.02 * (c + 1) * x + 0.3 * std::cos(c) * y + 0.2 * std::sin(c) * f;
    q[i] = static_cast<float>(1.5 * std::sin(phase + 0.1));
    k[i] = static_cast<float>(1.5 * std::sin(phase));
    v[i] = static_cast<float>(std::cos(phase + c));
  }
  const auto view = [&](std::vector<float>& tensor) {
    return psa::TensorView{.data = tensor.data(),
                           .shape = {1, heads, tokens, dim},
                           .stride = {heads * tokens * dim, tokens * dim, dim, 1}};
  };

  // Shapes, layout and configuration are checked once; a plan serves any number of calls.
  const psa::ProblemShape shape{
      .heads_q = heads, .heads_kv = heads, .len_q = tokens, .len_kv = tokens, .head_dim = dim};
  const psa::TokenLayout layout{.grid = grid};
  const psa::Plan plan = psa::Plan::create(shape, layout, psa::find_preset("quality").config);
  psa::Workspace workspace(plan.workspace_bytes());
  psa::RunStats stats;
  psa::run(plan, {.q = view(q), .k = view(k), .v = view(v), .out = view(sparse)}, workspace.bytes(),
           {}, &stats);

  const psa::Plan exact = psa::Plan::create(shape, layout, psa::find_preset("dense").config);
  psa::Workspace exact_workspace(exact.workspace_bytes());
  psa::run(exact, {.q = view(q), .k = view(k), .v = view(v), .out = view(dense)},
           exact_workspace.bytes());

  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < count; ++i) {
    difference += std::pow(sparse[i] - dense[i], 2.0);
    norm += std::pow(dense[i], 2.0);
  }
  const double error = std::sqrt(difference / norm);
  std::printf("density %.3f, relative error to dense %.4f\n%s", stats.density, error,
              plan.describe().c_str());
  return error < 0.1 ? 0 : 1;
} catch (const psa::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
