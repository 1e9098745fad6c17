// SPDX-License-Identifier: Apache-2.0

// Factors of the rest (S-25): what probe rows lose is measured, and masses and maps are scaled.
//
//   in   q, k, v, levels, pyramid; mass, map and factor of first_order.hpp
//   out  mass and factor, times the mass factor and the slope of each query block
//
//   probe_keys     probe_keys.cuh                                                O(P · Lk · D)
//   probe_sums     what chunks of keys have found, and q M -> ProbeSums          O(P · D²)
//   fit_factors    ProbeSums of a head -> its factors, in causal calls of each
//                  number of probes                                              O(P²)
//   scale_rest     masses and factors of the maps, in place                      O(Nq · Nk)

#include "cuda/device/element.cuh"
#include "cuda/device/math.cuh"
#include "cuda/first_order/rest_probes.cuh"
#include "cuda/grid.hpp"
#include "cuda/launch.cuh"

namespace psa::cuda {
namespace {

// ---- sums ---------------------------------------------------------------------------------------

constexpr int kMaxRow = 256;  // elements of a row: head_dim <= 256
constexpr int kSumWarps = 4;

/// A CTA of probe_sums: a probe row. Its threads are channels.
template <typename Element>
struct ProbeRow {
  using Sums = semantics::ProbeSums<float>;

  struct Shared {
    alignas(16) float query[kMaxRow];  // zeros behind its end
    Sums sums[kSumWarps];
  };

  const ProbeParams& p;
  Shared& shared;
  int head, probe;

  static __device__ int thread() { return static_cast<int>(threadIdx.x); }
  static __device__ int lane() { return thread() % 32; }

  [[nodiscard]] __device__ const float* masses(int chunk) const {
    const index_t part = index_t{head} * (p.work.probe.chunks + 1) + chunk;
    return p.work.probe.masses + (part * kProbes + probe) * 4;
  }
  [[nodiscard]] __device__ const float* values(int chunk) const {
    const index_t part = index_t{head} * (p.work.probe.chunks + 1) + chunk;
    return p.work.probe.values + (part * kProbes + probe) * 2 * p.work.row;
  }

  __device__ void load_query(const QueryBlock& q) const {
    const auto row = static_cast<int>(semantics::probe_row(probe, p.call.len_q));
    const index_t at = q.batch * p.call.q.batch_stride + q.head * p.call.q.head_stride +
                       query_token(p.call, q, row) * p.call.q.token_stride;
    const auto* from = reinterpret_cast<const Element*>(p.call.q.data) + at;
    for (int channel = thread(); channel < p.work.row; channel += 32 * kSumWarps) {
      shared.query[channel] = channel < p.call.head_dim ? to_float(from[channel]) : 0.0F;
    }
    __syncthreads();
  }

  /// Number `channel` of q M; 0 if it is not finite. Lanes read neighbouring rows of the map.
  __device__ float multiply_map(const QueryBlock& q, int channel) const {
    const auto* row =
        reinterpret_cast<const uint4*>(first_order_row(p.call, q, channel, sizeof(Element)));
    float sum = 0.0F;
#pragma unroll 8
    for (int piece = 0; piece < p.work.row / 8; ++piece) {
      const uint4 packed = __ldg(row + piece);
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const float2 two = unpack_pair<Element>(packed, pair);
        const float2 own = *reinterpret_cast<const float2*>(shared.query + 8 * piece + 2 * pair);
        sum = fmaf(own.x, two.x, fmaf(own.y, two.y, sum));
      }
    }
    sum *= p.work.factor[first_order_block_of(p.call, q)];
    return isfinite(sum) ? sum : 0.0F;
  }

  /// Of a warp's channels, in every lane.
  __device__ Sums sum_channels(const QueryBlock& q) const {
    const int chunks = p.work.probe.chunks;  // fewer than 32
    // Lane c has the masses of chunk c, the last one those of the means.
    const bool has_chunk = lane() <= chunks;
    const float4 own = has_chunk ? *reinterpret_cast<const float4*>(masses(lane()))
                                 : float4{-INFINITY, 0.0F, 0.0F, 0.0F};
    float largest = own.x;
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, lanes));
    }
    const float scale = own.x == -INFINITY ? 0.0F : exp2f(own.x - largest);
    const bool is_means = lane() == chunks;
    const float all_mass = warp_sum(is_means ? 0.0F : scale * own.y);
    const float read_mass = warp_sum(is_means ? 0.0F : scale * own.z);
    const float rest_mass = warp_sum(is_means ? scale * own.y : 0.0F);
    Sums sums{read_mass, rest_mass, 0, 0, 0, 0, 0, 0, 0};
    for (int channel = thread(); channel - lane() < p.call.head_dim; channel += 32 * kSumWarps) {
      const bool is_there = channel < p.call.head_dim;
      float all = 0.0F;
      float read = 0.0F;
#pragma unroll 8
      for (int c = 0; c < chunks; ++c) {
        const float factor = __shfl_sync(kAllLanes, scale, c);
        const float* chunk = values(c) + (is_there ? channel : 0);
        all = fmaf(factor, chunk[0], all);
        read = fmaf(factor, chunk[p.work.row], read);
      }
      const float mean =
          __shfl_sync(kAllLanes, scale, chunks) * values(chunks)[is_there ? channel : 0];
      if (!is_there) continue;
      const float out = all / all_mass;
      const float y = out * read_mass - read;
      const float x1 = mean - out * rest_mass;
      const float x2 = rest_mass * multiply_map(q, channel);
      sums.add_channel(out, y, x1, x2);
    }
    for (float* sum : {&sums.yy, &sums.y1, &sums.y2, &sums.x11, &sums.x12, &sums.x22, &sums.oo}) {
      *sum = warp_sum(*sum);
    }
    return sums;
  }

  __device__ void run() const {
    const QueryBlock q = probe_block(p, head, probe);
    load_query(q);
    const Sums own = sum_channels(q);
    if (lane() == 0) shared.sums[thread() / 32] = own;
    __syncthreads();
    if (thread() > 0) return;
    Sums all = shared.sums[0];
#pragma unroll
    for (int warp = 1; warp < kSumWarps; ++warp) all.add(shared.sums[warp]);
    p.work.probe.sums[index_t{head} * kProbes + probe] = all;
  }
};

template <typename Element>
__global__ void __launch_bounds__(32 * kSumWarps)
    probe_sums(const __grid_constant__ ProbeParams p) {
  __shared__ typename ProbeRow<Element>::Shared shared;
  const auto cta = static_cast<int>(blockIdx.x);
  ProbeRow<Element>{p, shared, cta / p.probes, cta % p.probes}.run();
}

// ---- factors ------------------------------------------------------------------------------------

using Fit = semantics::RestFit<float>;

/// Where the factors are that the first `count` probes of a head give; not fewer than
/// kFewestProbes.
__device__ semantics::RestFactors<float>* factors_of(const ProbeParams& p, int head, int count) {
  return p.work.probe.factors + index_t{head} * kProbes + count - 1;
}

/// Of the first `count` probes of a head. One warp.
__device__ Fit::Terms fit_terms(const ProbeParams& p, int head, int count, float mass) {
  Fit::Terms t;
  for (int probe = static_cast<int>(threadIdx.x) % 32; probe < count; probe += 32) {
    Fit::add(t, p.work.probe.sums[index_t{head} * kProbes + probe], mass);
  }
  for (float* term : {&t.yy, &t.y1, &t.y2, &t.x11, &t.x12, &t.x22, &t.oo, &t.rows})
    *term = warp_sum(*term);
  return t;
}

/// A CTA per head and number of probes, the most first; a warp per error.
__global__ void __launch_bounds__(32 * semantics::kErrors)
    fit_factors(const __grid_constant__ ProbeParams p) {
  __shared__ float errors[semantics::kErrors];
  const auto head = static_cast<int>(blockIdx.x);
  const int count = p.probes - static_cast<int>(blockIdx.y);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const auto mass_of = [](float step) {
    return static_cast<float>(semantics::mass_at(static_cast<double>(step)));
  };
  const float mass = mass_of(static_cast<float>(semantics::kFirstError + warp));
  errors[warp] = Fit::error_of(fit_terms(p, head, count, mass), mass);
  __syncthreads();
  if (warp > 0) return;
  const float best_mass = mass_of(Fit::best_vertex(errors));
  const Fit::Terms terms = fit_terms(p, head, count, best_mass);
  if (threadIdx.x == 0) *factors_of(p, head, count) = Fit::factors_of(terms, best_mass);
}

constexpr int kScaleWarps = 8;

/// A warp per query block.
__global__ void __launch_bounds__(32 * kScaleWarps)
    scale_rest(const __grid_constant__ ProbeParams p) {
  const int item = static_cast<int>(blockIdx.x * kScaleWarps + threadIdx.x / 32);
  const int head = item / p.call.num_q_blocks;
  if (head >= p.work.heads.count * (p.call.heads_q / p.call.heads_kv)) return;
  const QueryBlock q = block_of(p, head, item % p.call.num_q_blocks);
  const auto count = static_cast<int>(
      semantics::fitted_probes(p.call.is_causal, q.q_begin + q.q_rows, p.call.len_q));
  if (count < semantics::kFewestProbes) return;
  const semantics::RestFactors<float> factors = *factors_of(p, head, count);
  if (factors.mass == 1.0F && factors.slope == 1.0F) return;
  const index_t row = first_order_block_of(p.call, q);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (lane == 0) p.work.factor[row] *= factors.slope;
  const std::uint8_t* codes = p.call.levels + map_row_of(p.call, q) * p.call.num_kv_blocks;
  float* mass = p.work.mass + row * p.call.num_kv_blocks;
  const float more = log2f(factors.mass);
#pragma unroll 4
  for (int j = lane; j < p.call.num_kv_blocks; j += 32) {
    const float own = mass[j];
    mass[j] = is_rest(p, q.q_begin, q.len_kv, codes[j], j) ? own + more : own;
  }
}

// ---- launch -------------------------------------------------------------------------------------

template <typename Element>
void launch(const ProbeParams& p, unsigned int heads, cudaStream_t stream) {
  const unsigned int rows = heads * static_cast<unsigned>(p.probes);
  probe_sums<Element><<<rows, 32 * kSumWarps, 0, stream>>>(p);
  check_launch("probe_sums");
  const unsigned int fits =  // of a causal call every number of probes that tells a factor
      p.call.is_causal ? static_cast<unsigned>(p.probes - semantics::kFewestProbes + 1) : 1;
  fit_factors<<<dim3(heads, fits), 32 * semantics::kErrors, 0, stream>>>(p);
  check_launch("fit_factors");
  const index_t blocks = index_t{heads} * p.call.num_q_blocks;
  scale_rest<<<grid_of(semantics::ceil_div(blocks, kScaleWarps)), 32 * kScaleWarps, 0, stream>>>(p);
  check_launch("scale_rest");
}

}  // namespace

void fit_rest(const StageContext& context, const core::AttentionParams& call,
              const FirstOrder& work, MeetProbeKeys& meet_probe_keys) {
  const core::Geometry& g = context.geometry;
  const index_t probes = semantics::probe_count(g.shape.len_q);
  if (probes == 0) return;
  const core::Inputs& in = call.inputs;
  const auto is_near = [](const TensorView& t) {
    return t.stride[2] >= 0 && t.stride[2] < index_t{1} << 31;  // of 2 bytes
  };
  const bool is_aligned = has_aligned_rows(in.q) && has_aligned_rows(in.k) &&
                          has_aligned_rows(in.v) && is_near(in.k) && is_near(in.v);
  const ProbeParams p{make_attention_params(context, call, work.heads, work.heads), work,
                      static_cast<int>(probes), is_aligned};
  const unsigned int heads = grid_of(work.heads.count * g.heads_per_kv());
  const cudaStream_t stream = stream_of(context.stream);
  meet_probe_keys(context, p, heads);
  if (g.shape.dtype_kv == DType::kF16) {
    launch<__half>(p, heads, stream);
  } else {
    launch<__nv_bfloat16>(p, heads, stream);
  }
}

}  // namespace psa::cuda
