// SPDX-License-Identifier: Apache-2.0
#pragma once

// The stages of the reference backend, one file each. They are written to be read beside
// docs/semantics.md, clause by clause: plain loops, double precision, one thread, no workspace.
// They may allocate and may use O(L^2) memory; they must not be clever. What a clause decides is a
// call of a function of src/semantics.

#include "core/backend.hpp"
#include "reference/backend.hpp"

namespace psa::reference {

void cluster(const core::StageContext& context, const core::ClusterParams& params);
void pyramid(const core::StageContext& context, const core::PyramidParams& params);
void similarity(const core::StageContext& context, const core::SimilarityParams& params);
void value_weights(const core::StageContext& context, const core::ValueWeightsParams& params);
void importance(const core::StageContext& context, const core::ImportanceParams& params);
void levels(const core::StageContext& context, const core::LevelsParams& params);
void attention(const core::StageContext& context, const core::AttentionParams& params);

}  // namespace psa::reference
