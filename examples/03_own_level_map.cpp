// SPDX-License-Identifier: Apache-2.0
// Bring your own level map: a fixed pyramid over the distance of the blocks, no selection at all.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "sample.hpp"

int main() try {
  Sample sample;
  psa::Config config;  // the codes that a map may hold: 0, 1..num_levels, kBlockMean
  config.num_levels = 4;
  config.rest = psa::Rest::kMean;
  config.reorder = psa::Reorder::kGilbert;  // distance in the map is distance in the video
  const psa::Plan plan = psa::Plan::create(sample.shape, sample.layout, config);

  std::vector<psa::LevelCode> codes(static_cast<std::size_t>(plan.level_map_size()));
  const psa::LevelMapView levels = plan.level_map(codes);
  for (psa::index_t h = 0; h < levels.heads; ++h) {
    for (psa::index_t i = 0; i < levels.num_q_blocks; ++i) {
      for (psa::index_t j = 0; j < levels.num_kv_blocks; ++j) {
        const auto distance = static_cast<int>(std::abs(i - j));
        const int level = distance <= 1 ? 1 : distance;  // 1, 1, 2, 3, 4, then the mean
        levels.row(0, h, i)[j] = level <= 4 ? static_cast<psa::LevelCode>(level) : psa::kBlockMean;
      }
    }
  }

  psa::Workspace workspace(plan.workspace_bytes());
  std::vector<float> out(sample.size());
  psa::RunStats stats;
  psa::run_with_levels(plan, sample.io(out), levels, workspace.bytes(), {}, &stats);

  const double error = relative_error(out, sample.dense());
  std::printf("density %.3f, relative error to dense %.4f\n", stats.density, error);
  return error < 0.1 ? 0 : 1;
} catch (const psa::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
