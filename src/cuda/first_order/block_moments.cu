// SPDX-License-Identifier: Apache-2.0

// Moments of KV blocks (S-23): means and variances of keys, covariances of keys with values.
//
// One CTA per KV block and slab of kColumns x kColumns channels (one slab if head_dim <= kColumns).
// Its threads copy K and V of the slab to shared memory, 16 tokens x 8 channels each, sum them and
// the squares of their distances from the means, and tensor cores take
//
//   sum over tokens of v·kᵀ,  of which n · mean(v) · mean(k)ᵀ is taken off in float.
//
// Products of 16-bit numbers are exact in float, so nothing is lost by not centring them first that
// their own rounding did not lose.
//
// Cost: one read of K and V and D² elements written per block, as many bytes as K if blocks have D
// keys; D multiply-adds per element read. Bound by memory.

#include <cmath>

#include "cuda/device/copy.cuh"
#include "cuda/device/kv_rows.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/device/shared_rows.cuh"
#include "cuda/first_order/first_order.hpp"
#include "cuda/grid.hpp"
#include "cuda/launch.cuh"

namespace psa::cuda {
namespace {

constexpr int kMaxBlock = 128;
constexpr int kStretches = kMaxBlock / kStretchTokens;

/// Largest element of a stored covariance: 2^6, in the middle of the range of f16.
constexpr int kLargestLog2 = 6;
/// Units are not smaller, so that their inverses are finite.
constexpr int kLeastExponent = -120;

enum Side : int { kKeys, kValues };

template <typename Element>
struct MomentParams {
  KvRows<Element> rows[2];  // by Side
  FirstOrder work;
  const std::int32_t* kv_lengths;  // [B] or null
  int heads_kv, len_kv, head_dim, block_kv, num_kv_blocks;
  int slabs;  // of channels
};

/// What a CTA works on.
struct Block {
  int batch, head_kv, index;
  int row;      // of the work memory
  int slab[2];  // by Side
  int begin, tokens;

  [[nodiscard]] __device__ bool is_first_slab() const { return slab[kKeys] + slab[kValues] == 0; }
};

template <typename Element>
__device__ Block block_of(const MomentParams<Element>& p, int cta) {
  Block block{};
  block.slab[kKeys] = cta % p.slabs;
  cta /= p.slabs;
  block.slab[kValues] = cta % p.slabs;
  cta /= p.slabs;
  block.row = cta;
  block.index = cta % p.num_kv_blocks;
  const int head = p.work.heads.first + cta / p.num_kv_blocks;
  block.head_kv = head % p.heads_kv;
  block.batch = head / p.heads_kv;
  const semantics::Range tokens = semantics::block_range(
      block.index, p.block_kv, key_length(p.kv_lengths, block.batch, p.len_kv));
  block.begin = static_cast<int>(tokens.begin);
  block.tokens = static_cast<int>(tokens.size());
  return block;
}

template <int kColumns>
struct SharedMemory {
  static constexpr int kRowBytes = kColumns * 2;
  static constexpr int kWarps = kColumns / 16;
  alignas(128) std::byte tile[2][kMaxBlock * kRowBytes];  // by Side; at last the covariance
  alignas(16) float sums[2][kStretches][kColumns];
  float means[2][kColumns];  // of the CTA's slab
  float peak[kWarps];        // by warp: largest energy of a channel, and the energy of all
  float energy[kWarps];
};

/// Where a thread works: 8 channels of 16 tokens of one side.
template <int kColumns>
struct Place {
  int side, stretch, column;
  __device__ Place()
      : side(static_cast<int>(threadIdx.x) / kColumns),
        stretch(static_cast<int>(threadIdx.x) % kColumns / (kColumns / kThreadChannels)),
        column(static_cast<int>(threadIdx.x) % (kColumns / kThreadChannels) * kThreadChannels) {}

  /// Of its first token.
  [[nodiscard]] __device__ std::uint32_t address(const std::byte* tile) const {
    return piece_address<SharedMemory<kColumns>::kRowBytes>(tile, stretch * kStretchTokens,
                                                            column / kThreadChannels);
  }
};

/// Adds the threads' sums of one channel over the stretches, in order; the same in all of them.
template <int kColumns>
__device__ void add_stretches(SharedMemory<kColumns>& shared, const Place<kColumns>& place,
                              float (&sum)[kThreadChannels]) {
  __syncthreads();  // nobody reads the sums before these any more
  auto* own = reinterpret_cast<float4*>(&shared.sums[place.side][place.stretch][place.column]);
  own[0] = {sum[0], sum[1], sum[2], sum[3]};
  own[1] = {sum[4], sum[5], sum[6], sum[7]};
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float4 total{};
#pragma unroll
    for (int s = 0; s < kStretches; ++s) {
      const auto* part = reinterpret_cast<const float4*>(&shared.sums[place.side][s][place.column]);
      total.x += part[half].x;
      total.y += part[half].y;
      total.z += part[half].z;
      total.w += part[half].w;
    }
    sum[4 * half] = total.x;
    sum[4 * half + 1] = total.y;
    sum[4 * half + 2] = total.z;
    sum[4 * half + 3] = total.w;
  }
}

/// Energies are sums over tokens of squared distances from the mean.
struct Energies {
  float peak = 0.0F;  // of one channel
  float total = 0.0F;
};

/// Copies a thread's share of a slab to shared memory, zeros where there is nothing.
template <typename Element, int kColumns, bool kAligned>
__device__ void copy_slab(const MomentParams<Element>& p, const Block& block,
                          const Place<kColumns>& place, int channel, int tokens, std::byte* tile) {
  const KvHead<Element> head = p.rows[place.side].head(block.batch, block.head_kv);
  const int begin = block.begin + place.stretch * kStretchTokens;
  const std::uint32_t first = place.address(tile);
#pragma unroll
  for (int u = 0; u < kStretchTokens; ++u) {
    const std::uint32_t to = down<SharedMemory<kColumns>::kRowBytes>(first, u);
    const bool is_real = u < tokens && channel < p.head_dim;
    index_t token = is_real ? begin + u : 0;
    if (is_real && head.order != nullptr) token = __ldg(head.order + begin + u);
    const Element* from = head.data + token * head.token_stride + (is_real ? channel : 0);
    if constexpr (kAligned) {
      copy_async_16(to, from, is_real);
    } else {
      store_shared(to, is_real ? load_channels<false>(from, p.head_dim - channel) : uint4{});
    }
  }
  commit_copies();
  wait_copies<0>();
}

/// Calls `each(pair, float2)` with the channels of the thread's `tokens` tokens, two at a time.
template <typename Element, int kColumns, typename Each>
__device__ void for_each_pair(const std::byte* tile, const Place<kColumns>& place, int tokens,
                              const Each& each) {
  const std::uint32_t first = place.address(tile);
#pragma unroll
  for (int u = 0; u < kStretchTokens; ++u) {
    if (u >= tokens) break;
    const uint4 packed = load_shared(down<SharedMemory<kColumns>::kRowBytes>(first, u));
#pragma unroll
    for (int pair = 0; pair < kThreadChannels / 2; ++pair) {
      each(pair, unpack_pair<Element>(packed, pair));
    }
  }
}

/// Reads one slab of channels of the thread's side into shared memory, with its means, and adds to
/// `energies`. A thread reads nothing but what it copied itself, and the sums.
template <typename Element, int kColumns, bool kAligned>
__device__ void read_slab(const MomentParams<Element>& p, const Block& block, int slab,
                          SharedMemory<kColumns>& shared, Energies& energies) {
  const Place<kColumns> place;
  const int channel = slab * kColumns + place.column;
  const int tokens = min(max(block.tokens - place.stretch * kStretchTokens, 0), kStretchTokens);
  std::byte* tile = shared.tile[place.side];
  copy_slab<Element, kColumns, kAligned>(p, block, place, channel, tokens, tile);
  float mean[kThreadChannels] = {};
  for_each_pair<Element>(tile, place, tokens, [&](int pair, float2 x) {
    mean[2 * pair] += x.x;
    mean[2 * pair + 1] += x.y;
  });
  add_stretches(shared, place, mean);
  const auto count = static_cast<float>(max(block.tokens, 1));
#pragma unroll
  for (float& x : mean) x /= count;
  float energy[kThreadChannels] = {};
  for_each_pair<Element>(tile, place, tokens, [&](int pair, float2 x) {
    const float2 apart{x.x - mean[2 * pair], x.y - mean[2 * pair + 1]};
    energy[2 * pair] += apart.x * apart.x;
    energy[2 * pair + 1] += apart.y * apart.y;
  });
  add_stretches(shared, place, energy);
  if (place.stretch != 0) return;
#pragma unroll
  for (int i = 0; i < kThreadChannels; ++i) {
    energies.peak = fmaxf(energies.peak, energy[i]);
    energies.total += energy[i];
    shared.means[place.side][place.column + i] = mean[i];
  }
  if (block.is_first_slab() && place.side == kKeys && channel < p.work.row) {
    const index_t head = block.row / p.num_kv_blocks;
    index_t to = (head * p.work.row + channel) * p.num_kv_blocks + block.index;
#pragma unroll
    for (int i = 0; i < kThreadChannels; ++i) {
      p.work.key_mean[to] = mean[i];
      p.work.key_variance[to] = energy[i] / count;
      to += p.num_kv_blocks;
    }
  }
}

/// Sums the energies of each side; the same in all threads.
template <int kColumns>
__device__ void add_energies(SharedMemory<kColumns>& shared, const Energies& own,
                             Energies (&sides)[2]) {
  Energies sum = own;
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    sum.peak = fmaxf(sum.peak, __shfl_xor_sync(0xFFFFFFFFU, sum.peak, lanes));
    sum.total += __shfl_xor_sync(0xFFFFFFFFU, sum.total, lanes);
  }
  constexpr int kWarps = SharedMemory<kColumns>::kWarps;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (threadIdx.x % 32 == 0) {
    shared.peak[warp] = sum.peak;
    shared.energy[warp] = sum.total;
  }
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    Energies& side = sides[w / (kWarps / 2)];
    side.peak = fmaxf(side.peak, shared.peak[w]);
    side.total += shared.energy[w];
  }
}

/// The power of two that covariances are stored in units of. By Cauchy and Schwarz no element of
/// n·C is above the geometric mean of the largest energies. 0: all elements are 0.
__device__ float unit_of(const Energies (&sides)[2]) {
  const float bound = sqrtf(sides[kKeys].peak) * sqrtf(sides[kValues].peak);
  // The peaks drop NaN, the totals keep it.
  if (!isfinite(sides[kKeys].total) || !isfinite(sides[kValues].total)) return nanf("");
  if (bound == 0.0F) return 0.0F;
  return ldexpf(1.0F, max(ilogbf(bound) + 1 - kLargestLog2, kLeastExponent));
}

/// c += sum over the tokens of v·kᵀ for 32 channels of v and half of those of k.
template <typename Element, int kColumns>
__device__ void multiply(const SharedMemory<kColumns>& shared, int steps,
                         float (&c)[2][kColumns / 16][4]) {
  constexpr int kRowBytes = SharedMemory<kColumns>::kRowBytes;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  // From the places of the first step, whose pieces are even but for the lane: others differ in
  // bits that are 0 there.
  std::uint32_t values = piece_address<kRowBytes>(shared.tile[kValues], lane / 16 * 8 + lane % 8,
                                                  warp / 2 * 4 + lane / 8 % 2);
  std::uint32_t keys = piece_address<kRowBytes>(shared.tile[kKeys], lane % 16,
                                                warp % 2 * (kColumns / 16) + lane / 16);
  for (int step = 0; step < steps; ++step) {
    std::uint32_t a[2][4];
#pragma unroll
    for (unsigned m = 0; m < 2; ++m) load_matrices_transposed(a[m], values ^ 32 * m);
#pragma unroll
    for (unsigned pair = 0; pair < kColumns / 32; ++pair) {
      std::uint32_t b[4];
      load_matrices_transposed(b, keys ^ 32 * pair);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        mma_16x8x16<Element>(c[m][2 * pair], a[m], b[0], b[1]);
        mma_16x8x16<Element>(c[m][2 * pair + 1], a[m], b[2], b[3]);
      }
    }
    values += 16 * kRowBytes;
    keys += 16 * kRowBytes;
  }
}

/// Products become covariances in `unit`s, at the place of the keys in shared memory. Returns
/// whether all were finite.
template <typename Element, int kColumns>
__device__ bool store_covariance(SharedMemory<kColumns>& shared, float tokens, float unit,
                                 const float (&c)[2][kColumns / 16][4]) {
  constexpr int kRowBytes = SharedMemory<kColumns>::kRowBytes;
  // Where rounding is all there is to an element, it may be above the bound.
  constexpr float kMost = 1 << (kLargestLog2 + 1);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const float per_unit = unit > 0.0F ? 1.0F / unit : 0.0F;
  const int first_row = warp / 2 * 32 + lane / 4;
  const int first_column = warp % 2 * (kColumns / 2);
  const std::uint32_t first =
      piece_address<kRowBytes>(shared.tile[kKeys], first_row, first_column / 8) + lane % 4 * 4;
  bool is_finite = true;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int more_rows = 16 * m + 8 * half;
      const float value = tokens * shared.means[kValues][first_row + more_rows];
#pragma unroll
      for (int n = 0; n < kColumns / 16; ++n) {
        const int column = first_column + 8 * n + lane % 4 * 2;
        const float low = fmaf(-value, shared.means[kKeys][column], c[m][n][2 * half]);
        const float high = fmaf(-value, shared.means[kKeys][column + 1], c[m][n][2 * half + 1]);
        is_finite = is_finite && isfinite(low) && isfinite(high);
        const auto clamped = [&](float x) { return fminf(fmaxf(x * per_unit, -kMost), kMost); };
        store_shared((first ^ 16U * n) + static_cast<std::uint32_t>(more_rows * kRowBytes),
                     pack<Element>(clamped(low), clamped(high)));
      }
    }
  }
  return is_finite;
}

/// Writes the CTA's part of the covariance, zeros where `is_zero`.
template <typename Element, int kColumns>
__device__ void write_covariance(const MomentParams<Element>& p, const Block& block,
                                 const SharedMemory<kColumns>& shared, bool is_zero) {
  constexpr int kRowBytes = SharedMemory<kColumns>::kRowBytes;
  constexpr int kPieces = kColumns / 8;
  constexpr int kRowsAtOnce = 2 * kColumns / kPieces;  // by all threads; a multiple of 8
  const int first_row = static_cast<int>(threadIdx.x) / kPieces;
  const int piece = static_cast<int>(threadIdx.x) % kPieces;
  const int column = block.slab[kKeys] * kColumns + 8 * piece;
  if (column >= p.work.row) return;
  std::uint32_t from = piece_address<kRowBytes>(shared.tile[kKeys], first_row, piece);
  int row = block.slab[kValues] * kColumns + first_row;
  auto* to = reinterpret_cast<Element*>(p.work.covariance) +
             (static_cast<index_t>(block.row) * p.head_dim + row) * p.work.row + column;
#pragma unroll 4
  for (int i = 0; i < kColumns / kRowsAtOnce; ++i) {
    if (row < p.head_dim) *reinterpret_cast<uint4*>(to) = is_zero ? uint4{} : load_shared(from);
    row += kRowsAtOnce;
    from += kRowsAtOnce * kRowBytes;
    to += kRowsAtOnce * p.work.row;
  }
}

template <typename Element, int kColumns, bool kAligned>
__global__ void __launch_bounds__(2 * kColumns, 2)
    measure_blocks(const __grid_constant__ MomentParams<Element> p) {
  extern __shared__ __align__(128) std::byte dynamic[];
  auto& shared = *reinterpret_cast<SharedMemory<kColumns>*>(dynamic);
  const Block block = block_of(p, static_cast<int>(blockIdx.x));
  Energies own;
  const int last_slab = block.slab[Place<kColumns>().side];  // that stays in shared memory
  for (int i = 1; i <= p.slabs; ++i) {
    read_slab<Element, kColumns, kAligned>(p, block, (last_slab + i) % p.slabs, shared, own);
  }
  Energies sides[2];
  add_energies(shared, own, sides);  // also: the tiles are complete
  float unit = unit_of(sides);

  float c[2][kColumns / 16][4] = {};
  multiply<Element, kColumns>(shared, p.block_kv / kStretchTokens, c);
  __syncthreads();  // the keys give way
  const bool is_finite =
      store_covariance<Element>(shared, static_cast<float>(block.tokens), unit, c);
  if (__syncthreads_and(static_cast<int>(is_finite)) == 0) unit = nanf("");
  write_covariance(p, block, shared, /*is_zero=*/!(unit > 0.0F));
  if (block.is_first_slab() && threadIdx.x == 0) {
    p.work.unit[block.row] = unit;
  }
}

// ---- launch ------------------------------------------------------------------------------------

template <typename Element, int kColumns>
void launch(const StageContext& context, const MomentParams<Element>& p, bool is_aligned) {
  constexpr std::size_t kSharedBytes = sizeof(SharedMemory<kColumns>);
  const core::Geometry& g = context.geometry;
  const auto kernel = is_aligned ? measure_blocks<Element, kColumns, true>
                                 : measure_blocks<Element, kColumns, false>;
  allow_shared_memory(kernel, kSharedBytes);
  const unsigned int ctas = grid_of(p.work.heads.count * g.num_kv_blocks * p.slabs * p.slabs);
  kernel<<<ctas, 2 * kColumns, kSharedBytes, stream_of(context.stream)>>>(p);
  check_launch("measure_blocks");
}

template <typename Element>
void launch(const StageContext& context, const core::Inputs& inputs, const FirstOrder& work) {
  const core::Geometry& g = context.geometry;
  MomentParams<Element> p{};
  p.rows[kKeys] = kv_rows<Element>(inputs.k, inputs.kv_order);
  p.rows[kValues] = kv_rows<Element>(inputs.v, inputs.kv_order);
  p.work = work;
  p.kv_lengths = inputs.kv_lengths;
  p.heads_kv = static_cast<int>(g.shape.heads_kv);
  p.len_kv = static_cast<int>(g.shape.len_kv);
  p.head_dim = static_cast<int>(g.shape.head_dim);
  p.block_kv = g.config.block_kv;
  p.num_kv_blocks = static_cast<int>(g.num_kv_blocks);
  const bool is_aligned = has_aligned_rows(inputs.k) && has_aligned_rows(inputs.v);
  if (p.head_dim <= 64) {
    p.slabs = 1;
    launch<Element, 64>(context, p, is_aligned);
  } else {
    p.slabs = static_cast<int>(semantics::ceil_div(p.head_dim, 128));
    launch<Element, 128>(context, p, is_aligned);
  }
}

}  // namespace

void block_moments(const StageContext& context, const core::Inputs& inputs,
                   const FirstOrder& work) {
  if (context.geometry.shape.dtype_kv == DType::kF16) {
    launch<__half>(context, inputs, work);
  } else {
    launch<__nv_bfloat16>(context, inputs, work);
  }
}

}  // namespace psa::cuda
