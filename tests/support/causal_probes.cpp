// SPDX-License-Identifier: Apache-2.0
#include "support/causal_probes.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "reference/backend.hpp"
#include "semantics/rest_probes.hpp"
#include "support/problem_cases.hpp"

namespace psa::testing {
namespace {

constexpr index_t kHeadDim = 16;
constexpr index_t kEarlierKeys = 400;

Problem make_problem(DType dtype) {
  Problem p;
  p.shape = {.batch = 1,
             .heads_q = 2,
             .heads_kv = 1,
             .len_q = CausalProbes::kLenQ,
             .len_kv = CausalProbes::kLenQ + kEarlierKeys,
             .head_dim = kHeadDim,
             .dtype_q = dtype,
             .dtype_kv = dtype,
             .dtype_out = dtype};
  p.config.block_q = CausalProbes::kBlockQ;
  p.config.block_kv = 32;
  p.config.causal = true;
  p.config.rest = Rest::kLinear;
  return p;
}

void change(Tensor& tensor, const Tensor& from, index_t first) {
  for (index_t h = 0; h < tensor.shape()[1]; ++h) {
    for (index_t l = first; l < tensor.shape()[2]; ++l) {
      for (index_t c = 0; c < kHeadDim; ++c) tensor.set(0, h, l, c, from.get(0, h, l, c));
    }
  }
}

/// Whether rows [begin, end) of all heads have the same bits.
bool has_same_rows(const AttentionResult& a, const AttentionResult& b, index_t begin, index_t end) {
  const auto& shape = a.out.shape();
  for (index_t h = 0; h < shape[1]; ++h) {
    for (index_t r = begin; r < end; ++r) {
      const auto row = static_cast<std::size_t>(h * shape[2] + r);
      if (a.lse[row] != b.lse[row]) return false;
      for (index_t c = 0; c < shape[3]; ++c) {
        if (a.out.get(0, h, r, c) != b.out.get(0, h, r, c)) return false;
      }
    }
  }
  return true;
}

}  // namespace

CausalProbes::CausalProbes(DType dtype)
    : problem(make_problem(dtype)), in(random_qkv(problem, 88)) {}

void CausalProbes::change_from(index_t begin) {
  const QkvTensors other = random_qkv(problem, 89);
  change(in.q, other.q, begin);
  change(in.k, other.k, begin + kEarlierKeys);
  change(in.v, other.v, begin + kEarlierKeys);
}

void CausalProbes::change_query(index_t row) {
  for (index_t c = 0; c < kHeadDim; ++c) in.q.set(0, 0, row, c, 2);
}

void CausalProbes::spoil_key(index_t row, float bad) {
  in.k.set(0, 0, row + kEarlierKeys, 3, bad);
  in.v.set(0, 0, row + kEarlierKeys, 5, bad);
}

AttentionResult CausalProbes::attend(const core::Backend& backend) {
  const core::Geometry g = problem.geometry();
  std::vector<LevelCode> levels = uniform_levels(g, kBlockMean);
  for (std::size_t j = 0; j < levels.size(); j += 3) levels[j] = 1;
  Pyramid pyramid = StageRunner(reference::backend(), g).pyramid(in.inputs());
  return StageRunner(backend, g).attention(in.inputs(), pyramid, levels);
}

void expect_rows_to_follow_earlier_probes(const core::Backend& backend, DType dtype) {
  constexpr index_t kLen = CausalProbes::kLenQ;
  const AttentionResult all = CausalProbes(dtype).attend(backend);
  for (const index_t end : {1024, 1536, 2048}) {
    CausalProbes changed(dtype);
    changed.change_from(end);
    const AttentionResult got = changed.attend(backend);
    EXPECT_TRUE(has_same_rows(all, got, 0, end)) << backend.isa << " " << end;
    EXPECT_FALSE(has_same_rows(all, got, end, kLen)) << backend.isa << " " << end;
  }
  const index_t probe = semantics::probe_row(8, kLen);  // the ninth, which completes a second fit
  CausalProbes changed(dtype);
  changed.change_query(probe);
  const AttentionResult got = changed.attend(backend);
  const index_t begin = probe / CausalProbes::kBlockQ * CausalProbes::kBlockQ;
  EXPECT_TRUE(has_same_rows(all, got, 0, begin)) << backend.isa;
  EXPECT_FALSE(has_same_rows(all, got, begin + CausalProbes::kBlockQ, kLen)) << backend.isa;
}

void expect_bad_keys_to_leave_earlier_rows_alone(const core::Backend& backend, DType dtype) {
  const AttentionResult all = CausalProbes(dtype).attend(backend);
  for (const index_t row : {1216, 1543, 2099}) {
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      CausalProbes changed(dtype);
      changed.spoil_key(row, bad);
      // The query block before that of the row may meet the key's KV block: repaired rows have
      // other last bits.
      const index_t end = (row / CausalProbes::kBlockQ - 1) * CausalProbes::kBlockQ;
      EXPECT_TRUE(has_same_rows(all, changed.attend(backend), 0, end))
          << backend.isa << " " << row << " " << bad;
    }
  }
}

}  // namespace psa::testing
