// SPDX-License-Identifier: Apache-2.0
#include "synthetic.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

namespace psa::cli {
namespace {

std::size_t bytes_of(const TensorView& t) {
  return static_cast<std::size_t>(t.shape[0] * t.shape[1] * t.shape[2] * t.shape[3]) *
         size_of(t.dtype);
}

bool equal(const OwnedTensor& a, const OwnedTensor& b) {
  return std::memcmp(a.view().data, b.view().data, bytes_of(a.view())) == 0;
}

TEST(Synthetic, SameSeedGivesTheSameBitsOnAnyNumberOfThreads) {
  const Problem p = parse_problem("b2h4/2q70k90d16:bf16");
  for (const SyntheticData kind : {SyntheticData::kNormal, SyntheticData::kStructured}) {
    const SyntheticInputs a = make_synthetic(p, kind, 3, 1);
    const SyntheticInputs b = make_synthetic(p, kind, 3, 5);
    const SyntheticInputs c = make_synthetic(p, kind, 4, 1);
    EXPECT_TRUE(equal(a.q, b.q) && equal(a.k, b.k) && equal(a.v, b.v));
    EXPECT_FALSE(equal(a.q, c.q));
    EXPECT_FALSE(equal(a.k, c.k));
    EXPECT_FALSE(equal(a.v, c.v));
  }
}

TEST(Synthetic, NormalDataHaveMeanZeroAndVarianceOne) {
  const Problem p = parse_problem("h2q2048d64:f32");
  const SyntheticInputs inputs = make_synthetic(p, SyntheticData::kNormal, 1, 2);
  const auto* values = static_cast<const float*>(inputs.q.view().data);
  const std::size_t count = bytes_of(inputs.q.view()) / 4;
  double sum = 0;
  double squares = 0;
  double fourth = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto x = static_cast<double>(values[i]);
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
  }
  const auto n = static_cast<double>(count);  // 262144: standard errors .002, .003, .02
  EXPECT_NEAR(sum / n, 0, 0.01);
  EXPECT_NEAR(squares / n, 1, 0.015);
  EXPECT_NEAR(fourth / n, 3, 0.1);
}

double logit(const SyntheticInputs& inputs, index_t query, index_t key, index_t head_dim) {
  double sum = 0;
  for (index_t d = 0; d < head_dim; ++d) {
    sum += static_cast<double>(element_at(inputs.q.view(), 0, 0, query, d)) *
           static_cast<double>(element_at(inputs.k.view(), 0, 0, key, d));
  }
  return sum / std::sqrt(static_cast<double>(head_dim));
}

TEST(Synthetic, StructuredQueriesPreferTheirOwnPlace) {
  const Problem p = parse_problem("h1q512d64:f32 grid=4x8x16");
  const SyntheticInputs inputs = make_synthetic(p, SyntheticData::kStructured, 1, 2);
  double near = 0;
  double far = 0;
  for (index_t token = 0; token < 64; ++token) {
    near += logit(inputs, token, token, 64) / 64;
    far += logit(inputs, token, token + 384 + 8, 64) / 64;  // three frames and eight columns away
  }
  EXPECT_NEAR(near, 8, 1);
  EXPECT_LT(far, 3);
}

}  // namespace
}  // namespace psa::cli
