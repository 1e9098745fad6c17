// SPDX-License-Identifier: Apache-2.0

// Probe rows against all keys (probe_keys.cuh) with wgmma: a head's 64 probe rows are the rows of
// one product.

#include "cuda/device/barrier.cuh"
#include "cuda/device/wgmma.cuh"
#include "cuda/first_order/probe_keys.cuh"

namespace psa::cuda {
namespace {

/// The four warps of a CTA multiply together.
template <typename Element, typename Shape>
struct WarpgroupProducts {
  static constexpr bool kTogether = true;
  static constexpr std::uint32_t kAlignment = 1024;
  static constexpr std::size_t kSharedBytes = 113 * 1024;  // two CTAs on a multiprocessor
  static constexpr int kSteps = Shape::kKeys / 16;

  /// From 8 rows to the next.
  template <int kChannels>
  static constexpr std::uint32_t kGranuleBytes = kChannels / 64 * kHalfBytes;

  template <int kChannels>
  static __device__ std::uint32_t piece(const std::byte* tile, int row, int piece) {
    const std::uint32_t granule = static_cast<std::uint32_t>(row) / 8 * kGranuleBytes<kChannels>;
    return piece_address<kLineBytes>(tile + granule + piece / 8 * kHalfBytes, row % 8, piece % 8);
  }
  static __device__ void publish() { fence_async_proxy(); }

  static __device__ void multiply_keys(const std::byte* queries, const std::byte* keys,
                                       probes::Accumulators<Shape::kKeys>& s) {
    constexpr std::uint32_t kGranule = kGranuleBytes<Shape::kKeyChannels>;
    const Operand q = operand(shared_address(queries), 16, kGranule);
    const Operand k = operand(shared_address(keys), 16, kGranule);
    begin_products();
#pragma unroll
    for (int step = 0; step < Shape::kKeyChannels / 16; ++step) {
      const int at = step / 4 * static_cast<int>(kHalfBytes) + step % 4 * 32;
      Wgmma<Element, Shape::kKeys>::shared_times_shared(s, q.at(at), k.at(at), step > 0);
    }
    commit_products();
    wait_products<0>();
    pin(s);
  }

  template <typename Weights>
  static __device__ void multiply_values(const std::byte* values, bool /*reads*/,
                                         const Weights& weights_of,
                                         probes::Accumulators<Shape::kValueChannels>& all,
                                         probes::Accumulators<Shape::kValueChannels>& read) {
    constexpr std::uint32_t kGranule = kGranuleBytes<Shape::kValueChannels>;
    const Operand v = operand(shared_address(values), kHalfBytes, kGranule);
    std::uint32_t weights[kSteps][4];
    std::uint32_t of_read[kSteps][4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) weights_of(step, weights[step], of_read[step]);
    pin(all);
    pin(read);
    begin_products();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const Operand rows = v.at(step * 2 * static_cast<int>(kGranule));
      using Product = Wgmma<Element, Shape::kValueChannels>;
      Product::registers_times_shared(all, weights[step], rows);
      Product::registers_times_shared(read, of_read[step], rows);
    }
    commit_products();
    wait_products<0>();
    pin(all);
    pin(read);
  }
};

}  // namespace

void meet_probe_keys_sm90(const StageContext& context, const ProbeParams& p, unsigned int heads) {
  if (p.call.head_dim > 128) {
    meet_probe_keys(context, p, heads);
  } else {
    probes::launch_for<WarpgroupProducts, 128>(context, p, heads);
  }
}

}  // namespace psa::cuda
