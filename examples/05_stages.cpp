// SPDX-License-Identifier: Apache-2.0
// The pipeline stage by stage: pyramid, importance, levels, schedule, attention.
#include <cstdio>
#include <vector>

#include "sample.hpp"

int main() try {
  Sample sample;
  const psa::Plan plan = psa::Plan::create(sample.shape, sample.layout, psa::Config{});
  psa::Workspace workspace(plan.workspace_bytes());
  std::vector<float> out(sample.size());
  const psa::AttentionIo io = sample.io(out);

  // Level 3 of the pyramid: means of 4 tokens. run() makes its own; this one is to look at.
  std::vector<float> k_pooled(sample.size() / 4), v_pooled(sample.size() / 4);
  psa::stages::build_pyramid(plan, io, 3, k_pooled.data(), v_pooled.data(), workspace.bytes());
  const std::size_t row = 64;  // channels
  const float mean = (sample.k[0] + sample.k[row] + sample.k[2 * row] + sample.k[3 * row]) / 4;
  std::printf("pyramid: row 0 of level 3 starts with %.4f, the mean of 4 keys is %.4f\n",
              static_cast<double>(k_pooled[0]), static_cast<double>(mean));

  std::vector<float> importance(static_cast<std::size_t>(plan.level_map_size()));
  psa::stages::estimate_importance(plan, io, importance, workspace.bytes());

  std::vector<psa::LevelCode> codes(importance.size());
  const psa::LevelMapView levels = plan.level_map(codes);
  psa::stages::assign_levels(plan, io, importance, levels, workspace.bytes());
  std::printf("levels of head 0, one line for each query block (6 = block mean):\n");
  for (psa::index_t i = 0; i < levels.num_q_blocks; ++i) {
    for (psa::index_t j = 0; j < levels.num_kv_blocks; ++j)
      std::printf("%d", levels.row(0, 0, i)[j]);
    std::printf("\n");
  }

  const psa::stages::Schedule schedule = psa::stages::build_schedule(plan, levels);
  const psa::stages::LevelDensity cost = psa::stages::measure_levels(plan, levels);
  std::printf("schedule: %zu blocks to read; density %.3f, selection costs %.4f\n",
              schedule.entries.size(), cost.density, cost.selection_cost);

  psa::run_with_levels(plan, io, levels, workspace.bytes());
  std::vector<float> at_once(sample.size());
  psa::run(plan, sample.io(at_once), workspace.bytes());
  std::printf("stage by stage and run() give %s results\n", out == at_once ? "equal" : "different");
  return out == at_once ? 0 : 1;
} catch (const psa::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
