// SPDX-License-Identifier: Apache-2.0
#pragma once

// A small problem for the tests of the installed C++ layer, and how they look at errors. Uses only
// what a user could.

#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <psa/psa.hpp>
#include <string>
#include <vector>

namespace psa::testing {

struct Request {
  ProblemShape shape{
      .batch = 2, .heads_q = 4, .heads_kv = 2, .len_q = 60, .len_kv = 100, .head_dim = 16};
  TokenLayout layout;
  Config config = blocks_of_16();
  Device device;
  PlanOptions options;

  [[nodiscard]] Plan plan() const { return Plan::create(shape, layout, config, device, options); }

  [[nodiscard]] static Config blocks_of_16() {
    Config config;
    config.block_q = 16;
    config.block_kv = 16;
    return config;
  }
};

/// Contiguous [B,H,L,D] f32 view of `data`.
[[nodiscard]] inline TensorView view(std::vector<float>& data, index_t batch, index_t heads,
                                     index_t len, index_t dim) {
  return {.data = data.data(),
          .shape = {batch, heads, len, dim},
          .stride = {heads * len * dim, len * dim, dim, 1}};
}

/// Random tensors, output and workspace for one plan of `request`.
struct Call {
  explicit Call(const Request& request = {})
      : shape(request.shape),
        plan(request.plan()),
        workspace(plan.workspace_bytes()),
        q(random(shape.heads_q * shape.len_q, 1)),
        k(random(shape.heads_kv * shape.len_kv, 2)),
        v(random(shape.heads_kv * shape.len_kv, 3)),
        out(q.size(), 7.0F),
        codes(static_cast<std::size_t>(plan.level_map_size()), kSkip) {
    io.q = view(q, shape.batch, shape.heads_q, shape.len_q, shape.head_dim);
    io.k = view(k, shape.batch, shape.heads_kv, shape.len_kv, shape.head_dim);
    io.v = view(v, shape.batch, shape.heads_kv, shape.len_kv, shape.head_dim);
    io.out = view(out, shape.batch, shape.heads_q, shape.len_q, shape.head_dim);
  }

  void run() { psa::run(plan, io, workspace.bytes()); }
  [[nodiscard]] LevelMapView levels() { return plan.level_map(codes); }

  ProblemShape shape;
  Plan plan;
  Workspace workspace;
  std::vector<float> q, k, v, out;
  std::vector<LevelCode> codes;
  AttentionIo io;

 private:
  [[nodiscard]] std::vector<float> random(index_t rows, std::uint32_t state) const {
    std::vector<float> values(static_cast<std::size_t>(shape.batch * rows * shape.head_dim));
    for (float& value : values) {
      state = state * 1664525U + 1013904223U;
      value = static_cast<float>(state >> 8) / 8388608.0F - 1.0F;
    }
    return values;
  }
};

inline void expect_error(Status status, const std::string& text,
                         const std::function<void()>& action) {
  try {
    action();
    ADD_FAILURE() << "no error; expected: " << text;
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), status) << error.what();
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos)
        << error.what() << "\nexpected: " << text;
  }
}

}  // namespace psa::testing
