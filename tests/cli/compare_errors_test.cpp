// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "output_errors.hpp"
#include "tensors_in.hpp"

namespace psa::cli {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

using Shape = std::array<index_t, 4>;

void put(const OwnedTensor& tensor, const RowPlace& row, std::vector<float> values) {
  const TensorView& view = tensor.view();
  for (std::size_t c = 0; c < values.size(); ++c) {
    const index_t element = row.batch * view.stride[0] + row.head * view.stride[1] +
                            row.token * view.stride[2] + static_cast<index_t>(c);
    store_element(view.data, view.dtype, element, values[c]);
  }
}

TEST(OutputErrors, RelativeErrorCosineAndLargestErrorOfKnownVectors) {
  const OwnedTensor reference(Shape{1, 1, 1, 2}, DType::kF32);
  const OwnedTensor candidate(Shape{1, 1, 1, 2}, DType::kF32);
  put(reference, {}, {3, 4});
  put(candidate, {}, {4, 3});
  const ErrorMetrics errors = compare_outputs(candidate.view(), reference.view()).all;
  EXPECT_DOUBLE_EQ(errors.rel_l2, std::sqrt(2.0) / 5);
  EXPECT_DOUBLE_EQ(errors.cosine, 24.0 / 25);
  EXPECT_DOUBLE_EQ(errors.max_abs, 1);
  EXPECT_EQ(errors.rows, 1);
}

TEST(OutputErrors, EqualOutputsHaveNoError) {
  const OwnedTensor reference(Shape{1, 2, 3, 4}, DType::kF32);
  put(reference, {0, 1, 2}, {1, -2, 3, 0.5F});
  const OutputErrors errors = compare_outputs(reference.view(), reference.view());
  EXPECT_EQ(errors.all.rel_l2, 0);
  EXPECT_DOUBLE_EQ(errors.all.cosine, 1);
  EXPECT_THAT(errors.rows, testing::Each(0.0F));
}

TEST(OutputErrors, ErrorAgainstZeroIsInfinite) {
  const OwnedTensor zero(Shape{1, 1, 1, 2}, DType::kF32);
  const OwnedTensor candidate(Shape{1, 1, 1, 2}, DType::kF32);
  EXPECT_EQ(compare_outputs(candidate.view(), zero.view()).all.rel_l2, 0);
  put(candidate, {}, {1, 0});
  EXPECT_EQ(compare_outputs(candidate.view(), zero.view()).all.rel_l2, kInf);
  EXPECT_EQ(compare_outputs(candidate.view(), zero.view()).all.cosine, 0);
}

TEST(OutputErrors, SquaresOfRowsAverageToTheSquareOfTheHead) {
  const OwnedTensor reference(Shape{1, 2, 3, 2}, DType::kF32);
  const OwnedTensor candidate(Shape{1, 2, 3, 2}, DType::kF32);
  for (index_t token = 0; token < 3; ++token) {
    const auto t = static_cast<float>(token);
    put(reference, {0, 1, token}, {1 + t, 2 - t});
    put(candidate, {0, 1, token}, {1 + 1.25F * t, 2});
  }
  const OutputErrors errors = compare_outputs(candidate.view(), reference.view());
  double mean_square = 0;
  for (std::size_t i = 3; i < 6; ++i) mean_square += std::pow(errors.rows[i], 2) / 3;
  EXPECT_NEAR(mean_square, std::pow(errors.heads[1].rel_l2, 2), 1e-6);
  EXPECT_EQ(errors.heads[0].rel_l2, 0);
  EXPECT_EQ(errors.rows[3], 0.0F);
  EXPECT_GT(errors.rows[5], errors.rows[4]);
}

TEST(OutputErrors, RowsWithNanOrInfAreCountedAndLeftOut) {
  const OwnedTensor reference(Shape{1, 1, 3, 2}, DType::kF32);
  const OwnedTensor candidate(Shape{1, 1, 3, 2}, DType::kF32);
  put(reference, {0, 0, 0}, {3, 4});
  put(candidate, {0, 0, 0}, {3, 9});
  put(reference, {0, 0, 1}, {1, kInf});
  put(candidate, {0, 0, 2}, {kNan, 7});
  const OutputErrors errors = compare_outputs(candidate.view(), reference.view());
  EXPECT_EQ(errors.all.rows, 1);
  EXPECT_EQ(errors.all.nonfinite_rows, 2);
  EXPECT_DOUBLE_EQ(errors.all.rel_l2, 1);
  EXPECT_DOUBLE_EQ(errors.all.max_abs, 5);
  EXPECT_FALSE(std::isnan(errors.rows[0]));
  EXPECT_TRUE(std::isnan(errors.rows[1]));
  EXPECT_TRUE(std::isnan(errors.rows[2]));
}

TEST(OutputErrors, WithoutAFiniteRowThereIsNoError) {
  const OwnedTensor reference(Shape{1, 2, 1, 1}, DType::kF32);
  put(reference, {0, 0, 0}, {kNan});
  put(reference, {0, 1, 0}, {1});
  const OutputErrors errors = compare_outputs(reference.view(), reference.view());
  EXPECT_TRUE(std::isnan(errors.heads[0].rel_l2));
  EXPECT_TRUE(std::isnan(errors.heads[0].cosine));
  EXPECT_EQ(errors.heads[1].rel_l2, 0);
  EXPECT_EQ(errors.all.rel_l2, 0);
}

TEST(OutputErrors, MemoryOrderAndStorageTypeDoNotMatter) {
  const OwnedTensor reference(Shape{2, 2, 2, 2}, DType::kBF16, AxisOrder::kBlhd);
  const OwnedTensor candidate(Shape{2, 2, 2, 2}, DType::kF32);
  put(reference, {1, 0, 1}, {2, 0});
  put(candidate, {1, 0, 1}, {2, 1});
  const OutputErrors errors = compare_outputs(candidate.view(), reference.view());
  EXPECT_DOUBLE_EQ(errors.heads[0].rel_l2, 0.5);
  EXPECT_DOUBLE_EQ(errors.heads[1].rel_l2, 0);
  EXPECT_GT(errors.rows[(1 * 2 + 0) * 2 + 1], 0.0F);
}

TEST(NonFinite, CountsValuesAndRowsAndNamesThem) {
  const OwnedTensor tensor(Shape{1, 2, 20, 2}, DType::kF32);
  put(tensor, {0, 0, 17}, {kNan, -kInf});
  put(tensor, {0, 1, 0}, {0, kInf});
  const NonFiniteCount count = count_nonfinite(tensor.view());
  EXPECT_EQ(count.values, 3);
  EXPECT_EQ(count.rows, 2);
  EXPECT_THAT(count.first_rows, testing::ElementsAre(RowPlace{0, 0, 17}, RowPlace{0, 1, 0}));
  EXPECT_EQ(nonfinite_text("k", count),
            "k has 3 values that are NaN or Inf, in 2 rows (batch, head, token): (0, 0, 17), "
            "(0, 1, 0)");
}

TEST(NonFinite, ListsOnlyTheFirstRows) {
  const OwnedTensor tensor(Shape{1, 1, 20, 1}, DType::kF32);
  for (index_t token = 0; token < 20; ++token) put(tensor, {0, 0, token}, {kNan});
  const NonFiniteCount count = count_nonfinite(tensor.view());
  EXPECT_EQ(count.rows, 20);
  EXPECT_EQ(count.first_rows.size(), kListedRows);
  EXPECT_THAT(nonfinite_text("q", count), testing::EndsWith("(0, 0, 7), ..."));
}

TEST(SampledTokens, AreViewsOfEveryNthToken) {
  const OwnedTensor tensor(Shape{1, 2, 10, 3}, DType::kF16, AxisOrder::kBlhd);
  put(tensor, {0, 1, 7}, {5, 6, 7});
  const TensorView sample = sampled_tokens(tensor.view(), 1, 3, 3);
  EXPECT_EQ(sample.shape[2], 3);
  EXPECT_EQ(element_at(sample, 0, 1, 2, 1), 6.0F);
  EXPECT_EQ(element_at(sample, 0, 0, 2, 1), 0.0F);
}

}  // namespace
}  // namespace psa::cli
