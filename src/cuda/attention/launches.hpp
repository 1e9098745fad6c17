// SPDX-License-Identifier: Apache-2.0
#pragma once

// A call's attention is one launch, or one for each of several ranges of KV heads where what it
// reads beside q, k and v is large: maps of rest = linear, and K and V in working order. Then those
// of a range are made in the memory of the range before.

#include <cstddef>

#include "cuda/attention/ordered_kv.hpp"
#include "cuda/attention/params.hpp"
#include "cuda/first_order/first_order.hpp"

namespace psa::cuda {

/// KV heads at a time.
struct HeadCounts {
  int mapped;    ///< whose maps there are; all of a call without maps
  int launched;  ///< of these, by one launch
  bool copies;   ///< whether their K and V are copied in working order first
};

[[nodiscard]] HeadCounts heads_at_a_time(const core::Geometry& geometry);

/// core::Backend::attention_bytes.
[[nodiscard]] std::size_t attention_bytes(const core::Geometry& geometry);

/// Calls visit(part) for the parts of a range, `most` heads each but for the last.
template <typename Visit>
void for_each_part(HeadRange heads, int most, const Visit& visit) {
  for (int done = 0; done < heads.count; done += most) {
    visit(HeadRange{heads.first + done, heads.count - done < most ? heads.count - done : most});
  }
}

/// Calls `attend` with the parameters of each launch of a call, behind what it reads.
template <typename Attend>
void for_each_launch(const StageContext& context, const core::AttentionParams& call,
                     const FirstOrderProducts& products, const Attend& attend) {
  const core::Geometry& g = context.geometry;
  const HeadRange all{0, static_cast<int>(g.shape.batch * g.shape.heads_kv)};
  const HeadCounts counts = heads_at_a_time(g);
  for_each_part(all, counts.mapped, [&](HeadRange mapped) {
    std::byte* ordered = call.work;
    if (g.config.rest == Rest::kLinear) {
      make_first_order_maps(context, call, mapped, products);
      ordered = carve_first_order(g, mapped, call.work).covariance;  // it is in the maps now
    }
    for_each_part(mapped, counts.launched, [&](HeadRange launched) {
      const core::AttentionParams part =
          counts.copies ? with_ordered_kv(context, call, launched, ordered) : call;
      attend(make_attention_params(context, part, launched, mapped));
    });
  });
}

}  // namespace psa::cuda
