// SPDX-License-Identifier: Apache-2.0
#pragma once

// Checks a problem and its configuration, once, and resolves what follows from them.

#include <cstdint>
#include <vector>

#include "core/backend.hpp"
#include "psa/config.hpp"
#include "psa/types.hpp"

namespace psa::core {

/// Throws Error(kInvalidArgument) that names the field, what was given and what is allowed.
[[nodiscard]] Geometry make_geometry(const ProblemShape& shape, const TokenLayout& layout,
                                     const Config& config);

/// S-24. Throws Error(kInvalidArgument) unless there are no densities per head or heads_q of them.
void check_head_density_count(std::int64_t count, index_t heads_q);

/// S-19. Working order that depends on the grid alone: order[w] = token at position w. Empty for
/// the identity and for content-based orders; for hybrid, the order of q.
[[nodiscard]] std::vector<std::int32_t> make_static_order(const Geometry& geometry);

/// Whether every visible block of every head is read at level 1 whatever its importance.
[[nodiscard]] bool is_dense(const Geometry& geometry);

/// Whether q (k and v) follow a content-based order.
[[nodiscard]] bool orders_queries_by_content(const Config& config);
[[nodiscard]] bool orders_keys_by_content(const Config& config);

/// Its word in configurations and messages.
[[nodiscard]] const char* rest_name(Rest rest);

}  // namespace psa::core
