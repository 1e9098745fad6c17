// SPDX-License-Identifier: Apache-2.0

// Host side of the sm_90a attention kernel: which variant runs, and its launch.

#include <algorithm>

#include "cuda/attention/kernel_sm90.cuh"
#include "cuda/attention/launches.hpp"
#include "cuda/grid.hpp"
#include "cuda/launch.cuh"
#include "cuda/stages.hpp"

namespace psa::cuda {
namespace {

/// A traits type, because nvcc 13.0 refuses values of class type as arguments of kernel templates.
/// Slots fill the 227 KB of a CTA. A value slot is needed again sooner after it becomes empty than
/// a key slot, so the odd one is for values.
template <DType kDType, int kHeadDimension, bool kFirstOrder>
struct Traits {
  using Element = typename ElementOf<kDType>::Type;
  static constexpr int kHeadDim = kHeadDimension;
  static constexpr int kTileKv = 128;
  static constexpr bool kHasFirstOrder = kFirstOrder;  // rest = linear
  static constexpr int kKeyStages = kHeadDim == 128 ? 2 : 4;
  static constexpr int kValueStages = kHeadDim == 128 ? 3 : 4;
};

template <DType kDType, int kHeadDim, bool kFirstOrder>
void launch(const StageContext& context, const AttentionParams& p) {
  using Variant = Traits<kDType, kHeadDim, kFirstOrder>;
  constexpr std::size_t kSharedBytes = sm90::shared_bytes<Variant>();
  static_assert(kSharedBytes <= 227 * 1024);
  const int group = p.heads_q / p.heads_kv;
  const auto items = static_cast<int>(grid_of(index_t{p.heads.count} * group * p.num_q_blocks));
  const KvMaps maps = make_kv_maps(p, kDType);
  const cudaStream_t stream = stream_of(context.stream);
  allow_shared_memory(&sm90::attention_kernel<Variant>, kSharedBytes);
  check_cuda(cudaMemsetAsync(p.next_item, 0, sizeof(*p.next_item), stream), "cudaMemsetAsync");
  const int ctas = std::min(items, multiprocessors());
  sm90::attention_kernel<Variant><<<ctas, sm90::kThreads, kSharedBytes, stream>>>(p, maps, items);
  check_launch("attention_sm90");
}

template <DType kDType, bool kFirstOrder>
void launch(const StageContext& context, const AttentionParams& p) {
  if (p.head_dim <= 64) {
    launch<kDType, 64, kFirstOrder>(context, p);
  } else {
    launch<kDType, 128, kFirstOrder>(context, p);
  }
}

template <DType kDType>
void launch(const StageContext& context, const AttentionParams& p) {
  if (p.map != nullptr) {
    launch<kDType, true>(context, p);
  } else {
    launch<kDType, false>(context, p);
  }
}

/// Rows can be copied 16 bytes at a time.
bool is_aligned(const TensorView& t) {
  constexpr index_t kElements = 8;
  return reinterpret_cast<std::uintptr_t>(t.data) % 16 == 0 && t.shape[3] % kElements == 0 &&
         std::all_of(t.stride.begin(), t.stride.begin() + 3,
                     [](index_t stride) { return stride % kElements == 0; });
}

}  // namespace

void attention_sm90(const StageContext& context, const core::AttentionParams& call) {
  if (!is_aligned(call.inputs.q) || !is_aligned(call.inputs.k) || !is_aligned(call.inputs.v) ||
      !is_aligned(call.out)) {
    attention_sm80(context, call);
    return;
  }
  for_each_launch(context, call, {sum_covariances_sm90, meet_probe_keys_sm90},
                  [&](const AttentionParams& params) {
                    if (context.geometry.shape.dtype_kv == DType::kF16) {
                      launch<DType::kF16>(context, params);
                    } else {
                      launch<DType::kBF16>(context, params);
                    }
                  });
}

}  // namespace psa::cuda
