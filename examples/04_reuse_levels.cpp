// SPDX-License-Identifier: Apache-2.0
// Select once, run many steps: a level map outlives the step that it was made for.
#include <cstdio>
#include <vector>

#include "sample.hpp"

int main() try {
  Sample first(0.0);
  const psa::Config config = psa::find_preset("quality").config;
  const psa::Plan plan = psa::Plan::create(first.shape, first.layout, config);
  psa::Workspace workspace(plan.workspace_bytes());

  std::vector<psa::LevelCode> codes(static_cast<std::size_t>(plan.level_map_size()));
  const psa::LevelMapView levels = plan.level_map(codes);
  psa::stages::select_levels(
      plan, {.q = first.view(first.q), .k = first.view(first.k), .v = first.view(first.v)}, levels,
      workspace.bytes());

  double worst = 0;
  for (int step = 0; step < 4; ++step) {
    Sample sample(0.05 * step);  // q, k and v drift as they do between denoising steps
    std::vector<float> kept(sample.size()), fresh(sample.size());
    psa::run_with_levels(plan, sample.io(kept), levels, workspace.bytes());
    psa::run(plan, sample.io(fresh), workspace.bytes());
    const std::vector<float> dense = sample.dense();
    const double error = relative_error(kept, dense);
    std::printf("step %d: relative error %.4f with the kept map, %.4f with a fresh one\n", step,
                error, relative_error(fresh, dense));
    if (error > worst) worst = error;
  }
  return worst < 0.1 ? 0 : 1;
} catch (const psa::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
