// SPDX-License-Identifier: Apache-2.0
#include "support/plan_call.hpp"

#include <cmath>
#include <iterator>

#include "core/registry.hpp"
#include "support/compare.hpp"
#include "support/device_copies.hpp"

namespace psa::testing {

std::vector<core::PlanOptions> every_backend() {
  std::vector<core::PlanOptions> all;
  for (const core::BackendEntry& entry : core::backend_entries(DeviceType::kCpu)) {
    if (entry.backend == nullptr) continue;
    core::PlanOptions options;
    options.backend = entry.name;
    options.isa = entry.isa;
    options.num_threads = 2;
    all.push_back(options);
  }
  return all;
}

std::string describe(const core::PlanOptions& options) {
  return options.backend + " " + options.isa;
}

core::Plan make_plan(const Problem& problem, const core::PlanOptions& options, Device device) {
  return {problem.shape, problem.layout, problem.config, device, options};
}

CallResult call_plan(const core::Plan& plan, QkvTensors& qkv, const CallExtras& extras) {
  const core::Geometry& g = plan.geometry();
  const auto rows = static_cast<std::size_t>(g.shape.batch * g.shape.heads_q);
  const auto map_size = rows * static_cast<std::size_t>(g.num_q_blocks * g.num_kv_blocks);
  CallResult result{Tensor({g.shape.batch, g.shape.heads_q, g.shape.len_q, g.shape.head_dim},
                           g.shape.dtype_out, extras.out_layout),
                    std::vector<float>(rows * static_cast<std::size_t>(g.shape.len_q)),
                    std::vector<LevelCode>(map_size),
                    {}};
  const QkvTensors before = qkv;
  GuardedBuffer workspace(plan.workspace_bytes());
  const core::CurrentDevice current(plan.memory(), plan.device().index);
  DeviceCopies copies(plan.memory(), plan.device().index);
  const auto list = [&](const auto& values) {
    return copies.in(values.empty() ? nullptr : values.data(), std::ssize(values));
  };
  core::CallIo io;
  io.q = copies.in(qkv.q.view());
  io.k = copies.in(qkv.k.view());
  io.v = copies.in(qkv.v.view());
  io.out = copies.out(result.out.view());
  io.lse = copies.out(result.lse.data(), std::ssize(result.lse));
  io.kv_lengths = list(qkv.kv_lengths);
  io.scores = list(extras.scores);
  io.levels = list(extras.levels);
  io.levels_out = copies.out(result.levels.data(), std::ssize(result.levels));
  std::byte* work = copies.out(workspace.data(), static_cast<index_t>(workspace.size()));
  plan.forward(io, {work, workspace.size()}, extras.wants_stats ? &result.stats : nullptr);
  copies.finish();
  EXPECT_TRUE(workspace.is_intact()) << "written around the workspace";
  EXPECT_TRUE(result.out.buffer().is_intact()) << "written around out";
  EXPECT_TRUE(result.out.has_untouched_gaps()) << "written between the rows of out";
  EXPECT_TRUE(qkv.q.buffer().has_same_bytes(before.q.buffer())) << "q was changed";
  EXPECT_TRUE(qkv.k.buffer().has_same_bytes(before.k.buffer())) << "k was changed";
  EXPECT_TRUE(qkv.v.buffer().has_same_bytes(before.v.buffer())) << "v was changed";
  return result;
}

double relative_l2(const Tensor& a, const Tensor& b) {
  const Values x = values_of(a);
  const Values y = values_of(b);
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < x.data.size(); ++i) {
    difference += (x.data[i] - y.data[i]) * (x.data[i] - y.data[i]);
    norm += y.data[i] * y.data[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace psa::testing
