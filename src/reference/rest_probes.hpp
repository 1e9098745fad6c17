// SPDX-License-Identifier: Apache-2.0
#pragma once

// What a probe row says of the rest of rest = linear (S-25), a part of the attention stage.

#include <vector>

#include "reference/rows.hpp"
#include "semantics/rest_probes.hpp"

namespace psa::reference {

/// A (pooled) row that a query row meets.
struct MetRow {
  const Row* key;
  const Row* value;
  double bias;
};

/// What a probe row meets.
struct ProbedRow {
  const Row& query;
  std::vector<MetRow> read;  // keys that it sees in blocks that are neither, at level 1
  std::vector<MetRow>
      unread;                 // keys that it sees in its rest set and in skipped blocks, at level 1
  std::vector<MetRow> means;  // block means of its rest set, with their biases
  const Row& term;            // query M
};

[[nodiscard]] semantics::ProbeSums<double> probe_sums(const ProbedRow& row, double scale);

}  // namespace psa::reference
