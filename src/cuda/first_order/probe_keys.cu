// SPDX-License-Identifier: Apache-2.0

// Probe rows against all keys (probe_keys.cuh) with mma.sync.

#include "cuda/device/mma.cuh"
#include "cuda/first_order/probe_keys.cuh"

namespace psa::cuda {
namespace {

/// Each warp multiplies its 16 rows.
template <typename Element, typename Shape>
struct WarpProducts {
  static constexpr bool kTogether = false;
  static constexpr std::uint32_t kAlignment = 128;
  static constexpr std::size_t kSharedBytes = 99 * 1024;  // that devices with 100 KB per SM have
  static constexpr int kKeyBytes = Shape::kKeyChannels * 2;
  static constexpr int kValueBytes = Shape::kValueChannels * 2;

  static __device__ int warp() { return static_cast<int>(threadIdx.x) / 32; }
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % 32; }

  /// Address of 8 channels of a row of a tile.
  template <int kChannels>
  static __device__ std::uint32_t piece(const std::byte* tile, int row, int piece) {
    return piece_address<2 * kChannels>(tile, row, piece);
  }
  /// What this thread wrote becomes visible to the products.
  static __device__ void publish() {}

  static __device__ void multiply_keys(const std::byte* queries, const std::byte* keys,
                                       probes::Accumulators<Shape::kKeys>& s) {
    const std::uint32_t q =
        piece_address<kKeyBytes>(queries, 16 * warp() + lane() % 16, lane() / 16);
    const std::uint32_t k =
        piece_address<kKeyBytes>(keys, lane() / 16 * 8 + lane() % 8, lane() / 8 % 2);
#pragma unroll
    for (float& x : s) x = 0.0F;
#pragma unroll
    for (int step = 0; step < Shape::kKeyChannels / 16; ++step) {
      std::uint32_t a[4];
      load_matrices(a, advance<kKeyBytes>(q, 0, 2 * step));
#pragma unroll
      for (int pair = 0; pair < Shape::kKeys / 16; ++pair) {
        std::uint32_t b[4];
        load_matrices(b, advance<kKeyBytes>(k, 16 * pair, 2 * step));
        multiply(s, 2 * pair, a, b);
      }
    }
  }

  /// `weights_of` writes the weights of 16 keys: all, and those that are read, if there are any.
  template <typename Weights>
  static __device__ void multiply_values(const std::byte* values, bool reads,
                                         const Weights& weights_of,
                                         probes::Accumulators<Shape::kValueChannels>& all,
                                         probes::Accumulators<Shape::kValueChannels>& read) {
    const std::uint32_t v = piece_address<kValueBytes>(values, lane() % 16, lane() / 16);
#pragma unroll
    for (int step = 0; step < Shape::kKeys / 16; ++step) {
      std::uint32_t weights[4];
      std::uint32_t of_read[4];
      weights_of(step, weights, of_read);
#pragma unroll
      for (int pair = 0; pair < Shape::kValueChannels / 16; ++pair) {
        std::uint32_t b[4];
        load_matrices_transposed(b, advance<kValueBytes>(v, 16 * step, 2 * pair));
        multiply(all, 2 * pair, weights, b);
        if (reads) multiply(read, 2 * pair, of_read, b);
      }
    }
  }

 private:
  /// 16 columns from group `group` on.
  template <int kCount>
  static __device__ void multiply(float (&sums)[kCount], int group, const std::uint32_t (&a)[4],
                                  const std::uint32_t (&b)[4]) {
    auto* columns = reinterpret_cast<float(*)[4]>(sums);
    mma_16x8x16<Element>(columns[group], a, b[0], b[1]);
    mma_16x8x16<Element>(columns[group + 1], a, b[2], b[3]);
  }
};

}  // namespace

void meet_probe_keys(const StageContext& context, const ProbeParams& p, unsigned int heads) {
  probes::launch_for<WarpProducts, 256>(context, p, heads);
}

}  // namespace psa::cuda
