// SPDX-License-Identifier: Apache-2.0
#pragma once

// How far one attention output is from another, and where NaN or Inf are.

#include <string>
#include <vector>

#include "psa/types.hpp"

namespace psa::cli {

/// Errors over all elements of some rows (a row: one token of one head of one batch element). Rows
/// with NaN or Inf on either side are counted and left out; where no row is left, errors are NaN.
struct ErrorMetrics {
  double rel_l2 = 0;   ///< |candidate - reference| / |reference|; 0 if both are 0, else +Inf
  double cosine = 1;   ///< of both as one long vector; 1 if both are 0
  double max_abs = 0;  ///< largest |candidate - reference| of an element
  index_t rows = 0;    ///< compared
  index_t nonfinite_rows = 0;  ///< left out
};

struct OutputErrors {
  ErrorMetrics all;
  std::vector<ErrorMetrics> heads;  ///< [H], over the whole batch
  /// [B, H, L]: |candidate - reference| of each row in units of the root mean square of |reference|
  /// over the rows of its head and batch element, so that the squares of a head average to
  /// rel_l2^2. NaN for rows that were left out.
  std::vector<float> rows;
};

/// Views of equal shape, of any storage types. Sums are taken in double.
[[nodiscard]] OutputErrors compare_outputs(const TensorView& candidate,
                                           const TensorView& reference);

/// A row, named by its place in the tensor.
struct RowPlace {
  index_t batch = 0;
  index_t head = 0;
  index_t token = 0;
  friend bool operator==(const RowPlace&, const RowPlace&) = default;
};

struct NonFiniteCount {
  index_t values = 0;
  index_t rows = 0;
  std::vector<RowPlace> first_rows;  ///< in the order of the tensor, at most kListedRows
};
inline constexpr std::size_t kListedRows = 8;

[[nodiscard]] NonFiniteCount count_nonfinite(const TensorView& tensor);
/// "k has 3 values that are NaN or Inf, in 2 rows (batch, head, token): (0, 1, 17), (0, 1, 18)".
[[nodiscard]] std::string nonfinite_text(const std::string& name, const NonFiniteCount& count);

/// Token `first`, `first + step`, ... of a tensor: `count` rows of each head, without a copy.
/// first + (count - 1) * step must be a token of the tensor.
[[nodiscard]] TensorView sampled_tokens(const TensorView& tensor, index_t first, index_t step,
                                        index_t count);

}  // namespace psa::cli
